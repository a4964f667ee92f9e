"""Figures: drawn for print at half a page's width, without relying on colour."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ungated.lab.reports.metrics import metric_named, summarize
from ungated.lab.reports.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, told apart with any colour vision, in an order that alternates dark and light; the line
#: style and the marker tell them apart in grey.
_STYLES = (
    ("#000000", "-", "o"),
    ("#E69F00", "--", "s"),
    ("#0072B2", "-.", "^"),
    ("#56B4E9", ":", "D"),
    ("#D55E00", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#009E73", (0, (8, 2)), "P"),
    ("#CC79A7", (0, (3, 1)), "X"),
)

_STYLE_SHEET: dict[Any, Any] = {
    "font.size": 13,
    "axes.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}


def comparison_figure(groups: Sequence[Sequence[Record]]) -> bytes:
    """A PNG of several cells on one task, each group the seeds of one cell.

    Left: the best validation value so far against epochs, the mean over the seeds and their range. Right: the test
    value of every seed, and their mean. Raises ValueError where no group has a finite result.
    """
    shown = [group for group in groups if _curves(group)]
    if not shown:
        raise ValueError("nothing to draw: no run has a finite result")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = metric_named(shown[0][0].metric)
    with mpl.rc_context(_STYLE_SHEET):
        # The object-oriented interface: no global state, no display, safe in any process.
        figure = Figure(figsize=(8.4, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.65, 1))
        for place, group in enumerate(shown):
            style = _STYLES[place % len(_STYLES)]
            _draw_curves(left, group, metric.scale, style)
            _draw_tests(right, group, metric.scale, style, place)
        better = "higher" if metric.higher_is_better else "lower"
        left.set_xlabel("epoch")
        left.set_ylabel(f"{metric.label}, {better} is better")
        left.set_xlim(left=1)
        left.set_title("validation, best so far", loc="left")
        _fit(left, shown, metric.scale, metric.higher_is_better)
        left.legend(loc="lower right" if metric.higher_is_better else "upper right", handlelength=3.2)
        right.set_title("test, every seed", loc="left")
        right.set_yticks(range(len(shown)), [group[0].cell for group in shown])
        right.set_ylim(len(shown) - 0.5, -0.5)
        right.set_xlabel(metric.label)
        right.grid(visible=False, axis="y")
        buffer = io.BytesIO()
        # Without the metadata the same numbers give the same file.
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def _curves(group: Sequence[Record]) -> list[list[float]]:
    """The best validation value so far, per epoch, of each seed that has one."""
    higher = metric_named(group[0].metric).higher_is_better
    curves = []
    for record in group:
        worst = float("-inf") if higher else float("inf")
        values = [worst if value is None else value for value in record.curve.get(f"valid {record.metric}", ())]
        if values and values[0] != worst:
            curves.append(list(accumulate(values, max if higher else min)))
    return curves


def _draw_curves(axes: Axes, group: Sequence[Record], scale: float, style: tuple[str, Any, str]) -> None:
    color, line, marker = style
    curves = _curves(group)
    length = max(map(len, curves))
    # A seed that has stopped keeps its best value: that is what its result stands on.
    full = [[scale * value for value in curve + curve[-1:] * (length - len(curve))] for curve in curves]
    epochs = range(1, length + 1)
    across = list(zip(*full, strict=True))
    axes.fill_between(epochs, [min(c) for c in across], [max(c) for c in across], color=color, alpha=0.15, linewidth=0)
    axes.plot(
        epochs,
        [sum(column) / len(column) for column in across],
        color=color,
        linestyle=line,
        marker=marker,
        markevery=max(1, length // 6),
        markersize=6,
        label=group[0].cell,
    )


def _draw_tests(axes: Axes, group: Sequence[Record], scale: float, style: tuple[str, Any, str], place: int) -> None:
    color, _, marker = style
    values = [scale * value for record in group if (value := record.value(record.protocol, "test")) is not None]
    if not values:
        return
    axes.scatter(
        values, [place] * len(values), marker=marker, s=55, facecolors="none", edgecolors=color, linewidths=1.6
    )
    axes.plot([summarize(values).mean] * 2, [place - 0.3, place + 0.3], color=color, linewidth=2.5)


def _fit(axes: Axes, groups: Sequence[Sequence[Record]], scale: float, higher: bool) -> None:
    """Leave the first, steep part of the curves outside: what differs is in the later nine tenths."""
    starts, ends = [], []
    for group in groups:
        for curve in _curves(group):
            starts.append(scale * curve[len(curve) // 10])
            ends.append(scale * curve[-1])
    best, worst = (max(ends), min(starts)) if higher else (min(ends), max(starts))
    if best == worst:
        return
    margin = 0.06 * abs(best - worst)
    axes.set_ylim((worst - margin, best + margin) if higher else (best - margin, worst + margin))

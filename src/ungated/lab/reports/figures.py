"""Several cells on one task: curves of validation, and every seed's test value."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ungated.lab.reports.drawing import STYLES, Drawing, draw
from ungated.lab.reports.metrics import metric_named, summarize
from ungated.lab.reports.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = ("cell", "seed", "epoch", "valid, best so far", "test")


def comparison_figure(groups: Sequence[Sequence[Record]], name: str = "compare") -> Drawing:
    """Several cells on one task, each group the seeds of one cell.

    Left: the best validation value so far against epochs, the mean over the seeds and their range. Right: the test
    value of every seed, and their mean. Raises ValueError where no group has a finite result.
    """
    shown = [group for group in groups if _curves(group)]
    if not shown:
        raise ValueError("nothing to draw: no run has a finite result")
    first = shown[0][0]
    metric = metric_named(first.metric)
    better = "higher" if metric.higher_is_better else "lower"

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(1.65, 1))
        for place, group in enumerate(shown):
            style = STYLES[place % len(STYLES)]
            _draw_curves(left, group, metric.scale, style)
            _draw_tests(right, group, metric.scale, style, place)
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

    title = f"{first.dataset}: {metric.label}, {better} is better"
    caption = (
        f"Left: the best validation value so far, mean and range of the seeds. Right: every seed's test value,"
        f" and their mean. Under the {first.protocol} protocol."
    )
    return draw(name, title, caption, 4.2, paint, _COLUMNS, _rows(shown))


def _rows(groups: Sequence[Sequence[Record]]) -> list[list[Any]]:
    """A row an epoch of each seed; the test value in the row of the best epoch."""
    rows = []
    for group in groups:
        for record in group:
            test = record.value(record.protocol, "test")
            for epoch, value in enumerate(_best_so_far(record), 1):
                best = epoch == record.result["best_epoch"]
                rows.append([record.cell, record.seed, epoch, value, test if best else None])
    return rows


def _best_so_far(record: Record) -> list[float]:
    """The best validation value so far, per epoch; nothing where the first is not finite."""
    higher = metric_named(record.metric).higher_is_better
    worst = float("-inf") if higher else float("inf")
    values = [worst if value is None else value for value in record.curve.get(f"valid {record.metric}", ())]
    return list(accumulate(values, max if higher else min)) if values and values[0] != worst else []


def _curves(group: Sequence[Record]) -> list[list[float]]:
    """The curve of each seed that has one."""
    return [curve for record in group if (curve := _best_so_far(record))]


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

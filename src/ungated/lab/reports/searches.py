"""What a search tried: the validation value of every run against each setting that was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from ungated.lab.reports.drawing import STYLES, Drawing, draw
from ungated.lab.reports.metrics import Metric, metric_named
from ungated.lab.reports.points import Point, selected

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ungated.lab.studies.spaces import Dimension

_IN_A_ROW = 3


def search_figure(
    name: str, title: str, space: Mapping[str, Dimension], points: Sequence[Point], metric: str, remark: str = ""
) -> Drawing:
    """A panel for each setting of `space`, all of numbers: a marker a run, at its best validation value.

    A ring is what validation selects. The panels show the better three quarters of the runs; the others are open and
    stand at the worse edge, as do those that failed, as crosses. Raises ValueError where there is nothing to draw.
    """
    words = metric_named(metric)
    found = [words.scale * value for point in points if (value := point.mean("valid")) is not None]
    if not found or not space:
        raise ValueError("nothing to draw: no run has a finite result, or no setting is a number")
    limits, best, count = _limits(found, words), selected(points, "valid", metric), -(-len(space) // _IN_A_ROW)

    def paint(figure: Figure) -> None:
        panels = figure.subplots(count, min(len(space), _IN_A_ROW), sharey=True, squeeze=False)
        for axes in panels.flat[len(space) :]:
            axes.set_axis_off()
        for axes, (axis, entry) in zip(panels.flat, space.items(), strict=False):
            for point in points:
                _paint_run(axes, float(point.at[axis]), point.mean("valid"), words, limits, ringed=point is best)
            axes.set_xlabel(axis.replace("_", " "))
            if entry.log:
                axes.set_xscale("log")
            if not entry.choices:
                axes.set_xlim(entry.low, entry.high)
        better = "higher" if words.higher_is_better else "lower"
        for row in panels:
            row[0].set_ylabel(f"validation {words.label},\n{better} is better")
        panels[0][0].set_ylim(limits)

    caption = (
        "Each run at the settings it drew and its best validation value. A ring marks what validation selects. Runs"
        " worse than three quarters of all stand at the edge, open, and those that failed as crosses."
    )
    columns = ("run", *space, "valid", "test", "selected")
    return draw(name, title, caption, 0.6 + 3.2 * count, paint, columns, _rows(points, list(space), metric), remark)


def _limits(found: Sequence[float], words: Metric) -> tuple[float, float]:
    """From the edge at which the worst quarter stands to a little beyond the best."""
    best = (max if words.higher_is_better else min)(found)
    quarters = quantiles(found, n=4, method="inclusive") if len(found) > 1 else [best] * 3
    edge = quarters[0] if words.higher_is_better else quarters[2]
    margin = 0.1 * abs(edge - best) or 0.01 * abs(best) or 1.0
    return (edge - margin, best + margin) if words.higher_is_better else (best - margin, edge + margin)


def _paint_run(
    axes: Axes, at: float, value: float | None, words: Metric, limits: tuple[float, float], *, ringed: bool
) -> None:
    color, _, marker = STYLES[0]
    worst = limits[0] if words.higher_is_better else limits[1]
    height = worst if value is None else min(max(words.scale * value, limits[0]), limits[1])
    style: dict[str, Any] = {"color": color, "linestyle": "none", "clip_on": False}
    style["markerfacecolor"] = "none" if height == worst else color
    axes.plot(at, height, "x" if value is None else marker, markersize=7, **style)
    if ringed:
        axes.plot(at, height, "o", markersize=15, markeredgewidth=1.8, **style | {"markerfacecolor": "none"})


def _rows(points: Sequence[Point], axes: Sequence[str], metric: str) -> list[list[Any]]:
    chosen = {split: selected(points, split, metric) for split in ("valid", "test")}
    return [
        [
            *(number, *(point.at[axis] for axis in axes), point.mean("valid"), point.mean("test")),
            " and ".join(f"on {split}" for split, best in chosen.items() if best is point),
        ]
        for number, point in enumerate(points)
    ]

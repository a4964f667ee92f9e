"""Maps over learning rate and parameters (Figs. 2, 3 and 9 of arXiv 2108.00527): measured beside published."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ungated.lab.reports.drawing import Drawing, draw
from ungated.lab.reports.metrics import metric_named
from ungated.lab.reports.points import Outcome, Point, megas, selected
from ungated.lab.reports.published import published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

#: A published perplexity above this is that of a run that learned the words' frequencies and nothing else.
_FAILED_PERPLEXITY = 300.0

_COLUMNS = (
    *("map", "label", "learning_rate", "parameters", "valid", "test"),
    *("best_epoch", "runs", "failed", "selected"),
)

#: Maps of no more rows and columns than this have their numbers written in.
_ANNOTATED = 6


@dataclass(frozen=True)
class HeatMap:
    """A grid of points; `at` of each has "learning_rate" and "parameters". published: the same as the paper has it."""

    label: str
    measured: Sequence[Point]
    published: Sequence[Point] = ()


def published_points(dataset: str, cell: str, variant: str = "standard") -> list[Point]:
    """The published map of a cell, one run a point; empty where there is none."""
    table = published("heat-maps")
    points = []
    for row in table.where(dataset=dataset, cell=cell, variant=variant):
        value = row["value"]
        if dataset == "ptb-word" and value is not None and value > _FAILED_PERPLEXITY:
            value = None
        at = {"learning_rate": row["learning_rate"], "parameters": int(row["parameters"])}
        run = Outcome(seed=0, valid=None, test=value, best_epoch=int(row["best_epoch"]))
        points.append(Point(dataset, cell, cell, at, [run]))
    return points


def heat_map_figures(name: str, title: str, maps: Sequence[HeatMap], metric: str, remark: str = "") -> list[Drawing]:
    """Two drawings, NAME-values and NAME-epochs: a row a map, published left and measured right, on one colour scale.

    Raises ValueError where there is nothing finite to draw.
    """
    words = metric_named(metric)
    better = "higher" if words.higher_is_better else "lower"
    rows = _rows(maps, metric)
    caption = (
        "Rows: learning rate, columns: number of parameters. Darker is better. A cross: every run failed."
        " Circle: selected on test (the paper's); square: selected on validation."
    )
    values = _figure(
        f"{name}-values",
        f"{title}: test {words.label}, {better} is better",
        caption,
        maps,
        rows,
        value=lambda point: None if (mean := point.mean("test")) is None else words.scale * mean,
        label=f"test {words.label}",
        written=lambda value: f"{value:.{min(2, words.digits)}f}",
        darker_is_higher=words.higher_is_better,
        metric=metric,
        remark=remark,
    )
    epochs = _figure(
        f"{name}-epochs",
        f"{title}: epochs to the best validation value",
        "Rows: learning rate, columns: number of parameters. Darker is sooner. A cross: every run failed.",
        maps,
        rows,
        value=lambda point: point.best_epoch if point.mean("test") is not None else None,
        label="epochs to the best",
        written=lambda value: f"{value:.0f}",
        logarithmic=True,
        remark=remark,
    )
    return [values, epochs]


def _rows(maps: Sequence[HeatMap], metric: str) -> list[list[Any]]:
    rows = []
    for one in maps:
        for which, points in (("published", one.published), ("measured", one.measured)):
            chosen = {split: selected(points, split, metric) for split in ("valid", "test")}
            for point in points:
                marks = " and ".join(f"on {split}" for split, best in chosen.items() if best is point)
                at = [point.at["learning_rate"], point.at["parameters"]]
                seen = [point.mean("valid"), point.mean("test"), point.best_epoch, len(point.runs), point.failed]
                rows.append([which, one.label, *at, *seen, marks])
    return rows


def _figure(
    name: str,
    title: str,
    caption: str,
    maps: Sequence[HeatMap],
    rows: Sequence[Sequence[Any]],
    *,
    value: Callable[[Point], float | None],
    label: str,
    written: Callable[[float], str],
    darker_is_higher: bool = False,
    logarithmic: bool = False,
    metric: str | None = None,
    remark: str = "",
) -> Drawing:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    sources = ([p for one in maps for p in one.published], [p for one in maps for p in one.measured])
    finite = [found for points in sources if (found := [v for p in points if (v := value(p)) is not None])]
    if not finite:
        raise ValueError("nothing to draw: no run has a finite result")
    low, high, beyond = _colour_range(finite, darker_is_higher)
    logarithmic = logarithmic or (low > 0 and high > 2 * low)  # else the smaller values would all look alike
    norm = LogNorm(low, high) if logarithmic else Normalize(low, high)
    # Perceptually uniform, and the same to any colour vision.
    colours = colormaps["cividis_r" if darker_is_higher else "cividis"]

    def paint(figure: Figure) -> None:
        columns = 2 if any(one.published for one in maps) else 1
        grid = figure.subplots(len(maps), columns, squeeze=False)
        for axes, one in zip(grid, maps, strict=True):
            panels = [("published", one.published), ("measured", one.measured)][2 - columns :]
            for place, (which, points) in zip(axes, panels, strict=True):
                place.set_title(f"{one.label}, {which}", loc="left")
                _paint_map(place, points, value, norm, colours, written)
                if metric is not None:
                    _mark_selections(place, points, metric)
            axes[0].set_ylabel("learning rate")
        for place in grid[-1]:
            place.set_xlabel("parameters")
        shrink = 0.9 if len(maps) == 1 else 0.6
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=grid, shrink=shrink, aspect=30, extend=beyond)
        bar.set_label(label)
        bar.outline.set_visible(False)
        if logarithmic:
            _plain_ticks(bar.ax, low, high)

    return draw(name, title, caption, 0.9 + 2.9 * len(maps), paint, _COLUMNS, rows, remark)


def _colour_range(
    sources: Sequence[Sequence[float]], darker_is_higher: bool
) -> tuple[float, float, Literal["neither", "min", "max"]]:
    """From the best value to the worst, but for the worst twentieth of each source: few would dwarf the others."""
    ordered = [sorted(values) for values in sources]
    best, worst = min(values[0] for values in ordered), max(values[-1] for values in ordered)
    low, high = best, worst
    if darker_is_higher:
        low = min(values[len(values) // 20] for values in ordered)
    else:
        high = max(values[-1 - len(values) // 20] for values in ordered)
    if low >= high:
        return low, low * 1.01 or 1.0, "neither"
    return low, high, "min" if low > best else "max" if high < worst else "neither"


def _axes_of(points: Sequence[Point]) -> tuple[list[float], list[int]]:
    rates = sorted({float(point.at["learning_rate"]) for point in points})
    return rates, sorted({int(point.at["parameters"]) for point in points})


def _place(point: Point, rates: Sequence[float], sizes: Sequence[int]) -> tuple[int, int]:
    return sizes.index(int(point.at["parameters"])), rates.index(float(point.at["learning_rate"]))


def _paint_map(
    axes: Axes,
    points: Sequence[Point],
    value: Callable[[Point], float | None],
    norm: Normalize,
    colours: Any,
    written: Callable[[float], str],
) -> None:
    import numpy as np

    axes.grid(visible=False)
    if not points:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "not published", ha="center", va="center", transform=axes.transAxes, color="#555555")
        return
    rates, sizes = _axes_of(points)
    table = np.full((len(rates), len(sizes)), np.nan)
    annotated = max(table.shape) <= _ANNOTATED
    for point in points:
        column, row = _place(point, rates, sizes)
        seen = value(point)
        if seen is None:
            axes.plot(column, row, marker="x", color="#b00020", markersize=11, markeredgewidth=2.5)
            continue
        table[row, column] = seen
        if annotated:
            dark = sum(colours(norm(seen))[:3]) < 1.4
            axes.text(
                *(column, row),
                written(seen),
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize=11,
            )
    centres = np.arange(max(table.shape) + 1) - 0.5
    axes.pcolormesh(
        centres[: len(sizes) + 1],
        centres[: len(rates) + 1],
        np.ma.masked_invalid(table),
        cmap=colours,
        norm=norm,
        edgecolors="white",
        linewidth=0.6,
    )
    axes.set_facecolor("white")
    _label(axes.set_xticks, [megas(size) for size in sizes])
    _label(axes.set_yticks, [f"{rate:.2g}".replace("e-0", "e-") for rate in rates])
    axes.tick_params(length=0, labelsize=11)
    axes.spines[:].set_visible(False)


def _label(set_ticks: Any, labels: Sequence[str]) -> None:
    """Every label where there are few, else every third."""
    step = 1 if len(labels) <= _ANNOTATED else 3
    set_ticks(range(0, len(labels), step), labels[::step])


def _mark_selections(axes: Axes, points: Sequence[Point], metric: str) -> None:
    if not points:
        return
    rates, sizes = _axes_of(points)
    for split, marker, size in (("test", "o", 12.0), ("valid", "s", 20.0)):
        best = selected(points, split, metric)
        if best is not None:
            column, row = _place(best, rates, sizes)
            if max(len(rates), len(sizes)) <= _ANNOTATED:
                size *= 2.4  # around the number
            for colour, width in (("black", 4.0), ("white", 2.0)):
                axes.plot(
                    *(column, row),
                    marker=marker,
                    markersize=size,
                    markerfacecolor="none",
                    markeredgecolor=colour,
                    markeredgewidth=width,
                    clip_on=False,
                )


def _plain_ticks(axes: Axes, low: float, high: float) -> None:
    """Round numbers instead of powers of ten; more of them where the range is short."""
    steps = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
    first = math.floor(math.log10(low))
    ticks = [step * 10**power for power in range(first, first + 8) for step in steps]
    kept = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(kept, [f"{tick:g}" for tick in kept])
    axes.minorticks_off()

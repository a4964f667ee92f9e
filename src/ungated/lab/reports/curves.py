"""Values against a setting (Figs. 4 and 5 of arXiv 2108.00527, the RHN's depths), or against epochs (Figs. 6 to 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ungated.lab.reports.drawing import STYLES, Drawing, draw
from ungated.lab.reports.metrics import Metric, metric_named
from ungated.lab.reports.points import Point, selected

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = ("which", "label", "setting", "valid", "valid ±", "test", "test ±", "runs", "failed", "selected")
_EPOCH_COLUMNS = ("label", "run", "epoch", "valid")


@dataclass(frozen=True)
class Line:
    """One line of `sweep_figure`. published: (setting, valid, test), None for what is not published."""

    label: str
    points: Sequence[Point]
    published: Sequence[tuple[float, float | None, float | None]] = field(default=())


def sweep_figure(
    name: str, title: str, axis: str, lines: Sequence[Line], metric: str, remark: str = "", axis_label: str = ""
) -> Drawing:
    """Validation left and test right against the setting `axis`, a line each, with the seeds' 95 % intervals.

    A ring is the setting selected on the split of its panel; a point without a line is published. Settings whose runs
    all failed are crosses at the worst end. Raises ValueError where there is nothing finite to draw.
    """
    words = metric_named(metric)
    if not any(point.mean("test") is not None for line in lines for point in line.points):
        raise ValueError("nothing to draw: no run has a finite result")
    better = "higher" if words.higher_is_better else "lower"

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, split in zip(panels, ("valid", "test"), strict=True):
            for place, line in enumerate(lines):
                _paint_line(axes, line, axis, split, words, metric, place)
            axes.set_xlabel(axis_label or axis.replace("_", " "))
        panels[0].set_title("validation", loc="left")
        panels[1].set_title("test", loc="left")
        panels[0].set_ylabel(f"{words.label}, {better} is better")
        for axes in panels:
            _cross_failed(axes, lines, axis, words)
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(lines)), handlelength=3
        )

    caption = (
        "The best weights on validation, measured on validation (left) and test (right); bars are the 95 % interval of"
        " the mean over the seeds, where there are several. A ring marks the best of each line: left it is selected on"
        " validation, right on test (the paper's)."
    )
    if any(line.published for line in lines):
        caption += " A large open marker is published."
    return draw(name, title, caption, 4.8, paint, _COLUMNS, _rows(lines, axis, metric), remark)


def _rows(lines: Sequence[Line], axis: str, metric: str) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for line in lines:
        chosen = {split: selected(line.points, split, metric) for split in ("valid", "test")}
        for point in line.points:
            seen: list[Any] = []
            for split in ("valid", "test"):
                summary = point.summary(split)
                seen += [summary.mean, summary.half_width] if summary else [None, None]
            marks = " and ".join(f"on {split}" for split, best in chosen.items() if best is point)
            rows.append(["measured", line.label, point.at[axis], *seen, len(point.runs), point.failed, marks])
        rows += [["published", line.label, at, valid, None, test, None, 1, 0, ""] for at, valid, test in line.published]
    return rows


def _paint_line(axes: Axes, line: Line, axis: str, split: str, words: Metric, metric: str, place: int) -> None:
    shown = sorted((float(p.at[axis]), s.mean, s.half_width or 0.0) for p in line.points if (s := p.summary(split)))
    _paint_values(axes, shown, words.scale, line.label, place)
    color, _, marker = STYLES[place % len(STYLES)]
    best = selected(line.points, split, metric)
    if best is not None:
        ring: dict[str, Any] = {"marker": "o", "markersize": 15, "markerfacecolor": "none", "markeredgecolor": color}
        axes.plot(float(best.at[axis]), words.scale * (best.mean(split) or 0.0), markeredgewidth=1.8, **ring)
    for at, valid, test in line.published:
        value = valid if split == "valid" else test
        if value is not None:
            style: dict[str, Any] = {
                "marker": marker,
                "markersize": 11,
                "markerfacecolor": "none",
                "markeredgecolor": color,
            }
            axes.plot(at, words.scale * value, linestyle="none", markeredgewidth=1.5, **style)


def _cross_failed(axes: Axes, lines: Sequence[Line], axis: str, words: Metric) -> None:
    bottom, top = axes.get_ylim()
    worst = bottom if words.higher_is_better else top
    for place, line in enumerate(lines):
        failed = [float(point.at[axis]) for point in line.points if point.runs and point.failed == len(point.runs)]
        color = STYLES[place % len(STYLES)][0]
        if failed:
            axes.plot(failed, [worst] * len(failed), "x", color=color, markersize=9, markeredgewidth=2, clip_on=False)
    axes.set_ylim(bottom, top)


def depth_figure(
    name: str, title: str, lines: Sequence[Line], metric: str, sizes: tuple[str, str], *, remark: str = ""
) -> Drawing:
    """Measured left, published right, against recurrence depth: of each line validation and test.

    sizes: in words, of the two panels. The panels have axes of their own unless the sizes are the same: models of
    another size are compared by shape. Raises ValueError where there is nothing finite to draw.
    """
    words = metric_named(metric)
    if not any(point.mean("test") is not None for line in lines for point in line.points):
        raise ValueError("nothing to draw: no run has a finite result")

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=sizes[0] == sizes[1])
        for place, line in enumerate(lines):
            for half, split in enumerate(("valid", "test")):
                label = f"{line.label}, {'validation' if split == 'valid' else 'test'}"
                shown = [(p.at["depth"], p.summary(split)) for p in line.points]
                measured = [(depth, s.mean, s.half_width or 0.0) for depth, s in shown if s is not None]
                given = [(row[0], row[1 + half], 0.0) for row in line.published if row[1 + half] is not None]
                for axes, values in ((left, measured), (right, given)):
                    _paint_values(axes, values, words.scale, label, 2 * place + half)
        left.set_title(f"measured, {sizes[0]}", loc="left")
        right.set_title(f"published, {sizes[1]}", loc="left")
        for axes in (left, right):
            axes.set_xlabel("recurrence depth")
            axes.xaxis.get_major_locator().set_params(integer=True)
        left.set_ylabel(f"{words.label}, lower is better")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=3)

    caption = "Bars are the 95 % interval of the mean over the seeds, where there are several."
    return draw(name, title, caption, 4.8, paint, _COLUMNS, _rows(lines, "depth", metric), remark)


def _paint_values(axes: Axes, values: Sequence[tuple[Any, Any, float]], scale: float, label: str, place: int) -> None:
    color, dashes, marker = STYLES[place % len(STYLES)]
    axes.errorbar(
        [float(depth) for depth, _, _ in values],
        [scale * float(mean) for _, mean, _ in values],
        yerr=[scale * half for _, _, half in values],
        color=color,
        linestyle=dashes,
        marker=marker,
        markersize=6,
        elinewidth=1.2,
        capsize=3 if any(half for _, _, half in values) else 0,
        label=label,
    )


def convergence_figure(
    name: str, title: str, curves: Mapping[str, Sequence[Sequence[float | None]]], metric: str, remark: str = ""
) -> Drawing:
    """Validation against epochs: for each label the curves of its seeds, thin, and their mean while all of them last.

    Raises ValueError where there is nothing finite to draw.
    """
    words = metric_named(metric)
    better = "higher" if words.higher_is_better else "lower"
    rows: list[list[Any]] = [
        [label, run, epoch, value]
        for label, seeds in curves.items()
        for run, curve in enumerate(seeds)
        for epoch, value in enumerate(curve, 1)
    ]
    finite = [words.scale * row[3] for row in rows if row[3] is not None]
    if not finite:
        raise ValueError("nothing to draw: no run has a finite result")

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (label, seeds) in enumerate(curves.items()):
            _paint_convergence(axes, label, seeds, words.scale, place)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation {words.label},\n{better} is better")
        axes.set_xlim(left=1)
        _leave_out_the_start(axes, curves, words)
        axes.legend(loc="lower right" if words.higher_is_better else "upper right", handlelength=3.2)

    caption = "Validation after every epoch; several seeds: each thin, their mean thick."
    return draw(name, title, caption, 4.4, paint, _EPOCH_COLUMNS, rows, remark)


def _paint_convergence(
    axes: Axes, label: str, seeds: Sequence[Sequence[float | None]], scale: float, place: int
) -> None:
    color, dashes, marker = STYLES[place % len(STYLES)]
    full = [[float("nan") if value is None else scale * value for value in curve] for curve in seeds]
    if len(full) > 1:
        for curve in full:
            axes.plot(range(1, len(curve) + 1), curve, color=color, linewidth=0.8, alpha=0.5)
    mean = [sum(values) / len(values) for values in zip(*full, strict=False)]
    axes.plot(
        range(1, len(mean) + 1),
        mean,
        color=color,
        linestyle=dashes,
        marker=marker,
        markevery=max(1, len(mean) // 8),
        markersize=6,
        label=label,
    )


def _leave_out_the_start(axes: Axes, curves: Mapping[str, Sequence[Sequence[float | None]]], words: Metric) -> None:
    """The first quarter of a curve is steep: what the panel is for is the rest of every curve."""
    later = [
        words.scale * value
        for seeds in curves.values()
        for curve in seeds
        for value in curve[len(curve) // 4 :]
        if value is not None
    ]
    if later and min(later) < max(later):
        margin = 0.05 * (max(later) - min(later))
        axes.set_ylim(min(later) - margin, max(later) + margin)

"""Which figures a study has: by its kind, with what is published of the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ungated.lab.reports.curves import Line, convergence_figure, depth_figure, sweep_figure
from ungated.lab.reports.drawing import Drawing
from ungated.lab.reports.heat_maps import HeatMap, heat_map_figures, published_points
from ungated.lab.reports.kept_studies import StudyReport
from ungated.lab.reports.points import Outcome, Point, by_label, megas
from ungated.lab.reports.published import published
from ungated.lab.reports.searches import search_figure
from ungated.lab.studies.outcome import Run, StudyOutcome
from ungated.lab.studies.spaces import Dimension

#: The axes of a heat map; any other axis of a grid gives maps of its own.
_MAP_AXES = ("learning_rate", "parameters")


def dataset_of(outcome: StudyOutcome) -> str:
    """The data set of the study's runs; the recipe's name while none is finished."""
    return next((run.dataset for run in outcome.runs if run.dataset is not None), outcome.definition.recipe)


def protocol_of(outcome: StudyOutcome) -> str:
    """Under which protocol its numbers are shown: that of what is published of the same, else that of training."""
    if outcome.definition.kind == "depth":
        return published("rhn-depth").protocol
    return outcome.protocol or "standard"


def study_points(report: StudyReport) -> list[Point]:
    """Every setting of the study that has a finished or failed run, with its seeds."""
    outcome = report.outcome
    dataset, protocol = dataset_of(outcome), protocol_of(outcome)
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in outcome.runs:
        if run.state in ("finished", "failed"):
            number = run.number if outcome.definition.kind == "tpe" else 0
            groups.setdefault((run.label, *run.values.items(), number), []).append(run)
    points = []
    for runs in groups.values():
        at = {name.rpartition(".")[2]: value for name, value in runs[0].values.items()}
        label = _grid_label(runs[0].cell, at) if outcome.definition.kind == "grid" else runs[0].label
        seen = [_outcome(run, protocol, report.name) for run in runs]
        points.append(Point(dataset, runs[0].cell, label, at, seen))
    return points


def _grid_label(cell: str, at: Mapping[str, Any]) -> str:
    """The cell, and the values of the axes that are none of a map's."""
    others = [_setting(name, value) for name, value in at.items() if name not in _MAP_AXES]
    return ", ".join([cell, *filter(None, others)])


def _setting(name: str, value: Any) -> str:
    if name == "normalize":
        return "" if value else "no normalization"
    return f"{name}={value}"


def run_name(study: str, run: Run) -> str:
    """By which a page knows a run of a study."""
    return f"{study}-{run.number:04d}"


def _outcome(run: Run, protocol: str, study: str) -> Outcome:
    return Outcome(
        seed=run.seed,
        valid=run.value("valid", protocol),
        test=run.value("test", protocol),
        best_epoch=run.best_epoch,
        parameters=run.parameters,
        hidden_size=run.hidden_size,
        seconds=run.seconds,
        name=run_name(study, run),
    )


def study_drawings(report: StudyReport) -> list[Drawing]:
    """The figures of the study's kind; none for kinds that are a table, or while there is nothing finite."""
    outcome = report.outcome
    points = study_points(report)
    if outcome.metric is None or not any(point.mean("test") is not None for point in points):
        return []
    axes = [name.rpartition(".")[2] for name in outcome.definition.axes]
    match outcome.definition.kind:
        case "grid" if set(_MAP_AXES) <= set(axes):
            return _heat_maps(report, points, outcome.metric)
        case "sweep":
            return [_sweep(report, points, outcome.metric, axes[0])]
        case "depth":
            return [_depths(report, points, outcome.metric)]
        case "repeats":
            return [_convergence(report, outcome.metric)]
        case "tpe" if space := _numbers(report, points):
            return [search_figure(report.name, report.title, space, points, outcome.metric, report.remark)]
    return []


def _numbers(report: StudyReport, points: Sequence[Point]) -> dict[str, Dimension]:
    """What a search draws that can stand on an axis, by its short name."""
    space = {name.rpartition(".")[2]: entry for name, entry in report.outcome.definition.space.items()}
    return {
        name: entry
        for name, entry in space.items()
        if all(
            isinstance(point.at.get(name), (int, float)) and not isinstance(point.at[name], bool) for point in points
        )
    }


def _heat_maps(report: StudyReport, points: Sequence[Point], metric: str) -> list[Drawing]:
    maps = []
    for label, group in by_label(points).items():
        variant = "no normalization" if label.endswith("no normalization") else "standard"
        maps.append(HeatMap(label, group, published_points(group[0].dataset, group[0].cell, variant)))
    return heat_map_figures(report.name, report.title, maps, metric, report.remark)


def _sweep(report: StudyReport, points: Sequence[Point], metric: str, axis: str) -> Drawing:
    lines = []
    for label, group in by_label(points).items():
        known = published("dropout").where(dataset=group[0].dataset, cell=label) if axis == "recurrent_dropout" else []
        lines.append(Line(label, group, [(row["dropout"], None, row["value"]) for row in known]))
    return sweep_figure(report.name, report.title, axis, lines, metric, report.remark)


def _depths(report: StudyReport, points: Sequence[Point], metric: str) -> Drawing:
    tied = is_tied(report)
    table = published("rhn-depth").where(tied=tied)
    rows = [(row["depth"], row["valid"], row["test"]) for row in table]
    sizes = [run.parameters for point in points for run in point.runs if run.parameters]
    label = f"{points[0].label}, {'tied' if tied else 'untied'}"
    same = set(sizes) <= {int(row["parameters"]) for row in table}
    words = (_between(sizes), _between([int(row["parameters"]) for row in table]))
    return depth_figure(
        report.name,
        report.title,
        [Line(label, points, rows)],
        metric,
        (words[1], words[1]) if same else words,
        remark=report.remark,
    )


def is_tied(report: StudyReport) -> bool:
    """Whether the runs of a study over depth tie the embedding to the output, as half of the published table does."""
    run = next((run for run in report.outcome.runs if run.settings), None)
    if run is not None and "model.tied" in run.settings:
        return bool(run.settings["model.tied"])
    return any("tied = true" in " ".join(text.split()) for text in report.recipes.values())


def _between(sizes: Sequence[int]) -> str:
    low, high = megas(min(sizes)), megas(max(sizes))
    return f"{low} parameters" if low == high else f"{low} to {high} parameters"


def _convergence(report: StudyReport, metric: str) -> Drawing:
    curves = {
        label: [[entry["valid"].get(metric) for entry in run.curve] for run in runs if run.curve]
        for label, runs in report.outcome.groups().items()
    }
    kept = {label: seeds for label, seeds in curves.items() if seeds}
    return convergence_figure(report.name, report.title, kept, metric, report.remark)

"""The table of a study, measured beside published, with both selections; and what has to be said under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ungated.lab.errors import LabError
from ungated.lab.reports.drawing import Drawing
from ungated.lab.reports.kept_studies import StudyReport
from ungated.lab.reports.metrics import SPREAD, Metric, duration, metric_named
from ungated.lab.reports.points import SELECTIONS, Point, by_label, selected
from ungated.lab.reports.published import Published, published
from ungated.lab.reports.records import machine
from ungated.lab.reports.study_figures import (
    dataset_of,
    is_tied,
    protocol_of,
    study_drawings,
    study_points,
)
from ungated.lab.reports.tables import Table
from ungated.lab.training.recipe import load_recipe

#: The published table with the numbers of a kind of study.
_TABLES = {"tpe": "table-1", "repeats": "table-1", "variants": "table-2", "depth": "rhn-depth", "grid": "heat-maps"}


@dataclass(frozen=True)
class StudySection:
    """All that a page or a file says of one study. points: of each row of the table, what it shows."""

    report: StudyReport
    heading: str
    table: Table | None
    notes: Sequence[str]
    points: Sequence[Point | None] = ()

    @cached_property
    def drawings(self) -> list[Drawing]:
        """Its figures, drawn when first asked for."""
        return study_drawings(self.report)

    @property
    def beside(self) -> tuple[str, Table] | None:
        """The published table to be shown with it, under its title."""
        return published_list(published(self.report.beside)) if self.report.beside else None

    def markdown(self, level: int = 2, figures: str = "") -> str:
        """Heading, remark, table, figures by their files in the folder `figures`, notes."""
        folder = f"{figures}/" if figures else ""
        parts = [f"{'#' * level} {self.heading}"]
        if self.report.remark:
            parts.append(f"**{self.report.remark}**")
        if self.table is not None:
            parts.append(self.table.markdown())
        for drawing in self.drawings:
            parts.append(f"![{drawing.title}]({folder}{drawing.name}.png)\n\n{drawing.caption}")
        if self.beside is not None:
            title, table = self.beside
            parts.append(f"{title}\n\n{table.markdown()}")
        return "\n\n".join([*parts, " ".join(self.notes)])


def study_section(report: StudyReport) -> StudySection:
    """The section of a study, as far as it has come."""
    outcome = report.outcome
    points = study_points(report)
    heading = report.title
    if outcome.metric is None:
        return StudySection(report, heading, None, [*_state(report), "No run is finished yet."])
    words = metric_named(outcome.metric)
    better = "higher" if words.higher_is_better else "lower"
    heading = f"{report.title}: {words.label}, {better} is better; {protocol_of(outcome)} protocol"
    kind = outcome.definition.kind
    shown: Sequence[Point | None] = points
    if kind in ("variants", "repeats"):
        table = _plain_table(report, points, words)
    elif kind == "depth":
        shown = points = sorted(points, key=lambda point: float(point.at["depth"]))
        table = _depth_table(report, points, words)
    else:
        table, shown = _selection_table(report, points, words)
    return StudySection(report, heading, table, _notes(report, points), shown)


def numbers(point: Point, words: Metric) -> list[str]:
    """The entries of NUMBERS."""
    sizes = [run for run in point.runs if run.parameters]
    seconds = [run.seconds for run in point.runs if run.seconds is not None and run.parameters]
    valid, test = point.summary("valid"), point.summary("test")
    return [
        f"{sizes[0].hidden_size:,}" if sizes else "",
        f"{sizes[0].parameters:,}" if sizes else "",
        f"{len(point.runs)}" + (f", {point.failed} failed" if point.failed else ""),
        valid.written(words) if valid else "failed",
        test.written(words) if test else "failed",
        duration(sum(seconds) / len(seconds)) if seconds else "",
    ]


NUMBERS = ("hidden", "parameters", "seeds", "valid", "test", "time a run")


def _plain_table(report: StudyReport, points: Sequence[Point], words: Metric) -> Table:
    rows = []
    for point in points:
        known = published_value(report, point)
        rows.append([point.label, *numbers(point, words), "" if known is None else words.written(known)])
    first = "variant" if report.outcome.definition.kind == "variants" else "cell"
    return Table([first, *NUMBERS, "published test"], rows)


def _depth_table(report: StudyReport, points: Sequence[Point], words: Metric) -> Table:
    table, tied = published("rhn-depth"), is_tied(report)
    rows = []
    for point in points:
        equal = {"depth": float(point.at["depth"]), "tied": tied}
        known = [table.value(column, **equal) for column in ("valid", "test")]
        size = table.value("parameters", **equal)
        rows.append(
            [
                f"{point.at['depth']}",
                *numbers(point, words),
                *("" if value is None else words.written(value) for value in known),
                "" if size is None else f"{size:,.0f}",
            ]
        )
    columns = ["depth", *NUMBERS, "published valid", "published test", "published parameters"]
    return Table(columns, rows)


def _selection_table(report: StudyReport, points: Sequence[Point], words: Metric) -> tuple[Table, list[Point | None]]:
    """Two rows a line of the figure: the setting that validation selects, and the one that test does."""
    metric = report.outcome.metric or ""
    axes = list(dict.fromkeys(name for point in points for name in point.at))
    rows, shown = [], []
    for label, group in by_label(points).items():
        for split, selection in SELECTIONS.items():
            best = selected(group, split, metric)
            known = published_value(report, group[0]) if split == "test" else None
            seen = ["", "", "", "failed", "failed", ""] if best is None else numbers(best, words)
            at = ["" if best is None else _value(best.at.get(axis)) for axis in axes]
            rows.append([label, selection, *at, *seen, "" if known is None else words.written(known)])
            shown.append(best)
    columns = ["cell", "selection", *(axis.replace("_", " ") for axis in axes), *NUMBERS, "published test"]
    if "parameters" in axes:  # a budget, beside the number that came of it
        columns[columns.index("parameters")] = "budget"
    return Table(columns, rows, left=("selection",)), shown


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def published_value(report: StudyReport, point: Point) -> float | None:
    """The published test value of the same, in the lab's units."""
    kind = report.outcome.definition.kind
    metric = report.outcome.metric
    match kind:
        case "variants":
            return published("table-2").value(dataset=point.dataset, variant=point.label)
        case "tpe" | "repeats":
            recipe = _recipe_published(report, point.cell)
            if recipe is not None:
                return recipe
            return published("table-1").value(dataset=point.dataset, cell=point.cell)
        case "sweep":
            return published("dropout").value(dataset=point.dataset, cell=point.label)
        case "grid":
            variant = "no normalization" if point.label.endswith("no normalization") else "standard"
            known = published("heat-maps").where(dataset=point.dataset, cell=point.cell, variant=variant)
            values = [row["value"] for row in known if row["value"] is not None]
            best = max if metric_named(metric or "").higher_is_better else min
            return best(values) if values else None
    return None


def published_list(table: Published) -> tuple[str, Table]:
    """A published table as it stands: title and source, rows."""
    columns = list(table.rows[0])
    rows = [["" if row[column] is None else f"{row[column]}" for column in columns] for row in table.rows]
    return f"Published: {table.title} ({table.source}). {table.note}", Table(columns, rows, left=("size",))


def _recipe_published(report: StudyReport, cell: str) -> float | None:
    """What is published for the recipe that the study started from."""
    try:
        known = load_recipe(report.outcome.definition.recipe, cell).published
    except LabError:  # of one's own data, or a recipe that this version no longer has
        return None
    return None if known is None else known.value


def _notes(report: StudyReport, points: Sequence[Point]) -> list[str]:
    outcome = report.outcome
    notes = _state(report)
    if any(len(point.runs) > 1 for point in points):
        notes.append(f"{SPREAD}.")
    if outcome.definition.kind in ("grid", "sweep", "tpe"):
        notes.append(
            "Both selections are shown: on validation is the honest one; on test is how the RRU authors' code chose,"
            " which flatters."
        )
    if note := outcome.definition.note.rstrip("."):
        notes.append(f"{note[0].upper()}{note[1:]}.")
    if (table := _published_table(report)) is not None:
        notes.append(f"Published: {table.source}, {table.protocol} protocol. {table.note}")
    if report.environment:
        notes.append(f"Time: {machine(report.environment)}.")
    return notes


def _published_table(report: StudyReport) -> Published | None:
    definition = report.outcome.definition
    name = "dropout" if "recurrent_dropout" in definition.axes else _TABLES.get(definition.kind)
    if name is None:
        return None
    table = published(name)
    return table if name == "rhn-depth" or table.where(dataset=dataset_of(report.outcome)) else None


def _state(report: StudyReport) -> list[str]:
    """How far the study has come, and why runs failed."""
    outcome = report.outcome
    finished, failed = outcome.count("finished"), outcome.count("failed")
    notes = [f"{finished} of {len(outcome.runs)} runs are finished" + (f", {failed} failed." if failed else ".")]
    diverged = sum(run.diverged and run.state == "finished" for run in outcome.runs)
    if diverged:
        notes.append(f"{diverged} of the finished ones diverged later: their values are the best before that.")
    reasons = list(dict.fromkeys(run.error for run in outcome.runs if run.state == "failed" and run.error))
    notes += [f"A failed run: {' '.join(reason.split()).rstrip('.')}." for reason in reasons[:3]]
    return notes

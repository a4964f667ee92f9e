"""One HTML page of all that was measured: no network, no other file; it opens from disk."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ungated import __version__
from ungated.lab.reports.drawing import STYLES, Drawing
from ungated.lab.reports.figures import comparison_figure
from ungated.lab.reports.kept_studies import StudyReport
from ungated.lab.reports.measured import grouped, section
from ungated.lab.reports.page.run_views import RunView, record_view, slug, study_run_view
from ungated.lab.reports.points import Point
from ungated.lab.reports.records import Record
from ungated.lab.reports.study_figures import dataset_of
from ungated.lab.reports.study_summary import summary_table
from ungated.lab.reports.study_tables import StudySection, study_section
from ungated.lab.reports.tables import Table

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class Row:
    """A line of a table. cell: what the filter goes by, "" for every one. links: (text, run) to the runs behind it."""

    entries: Sequence[str]
    cell: str
    links: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Picture:
    """A figure as the page holds it: the addresses are the content itself."""

    name: str
    title: str
    caption: str
    svg: str
    csv: str


@dataclass(frozen=True)
class Part:
    """A section: one data set's table, or one study."""

    id: str
    heading: str
    dataset: str
    cells: Sequence[str]
    columns: Sequence[str]
    left: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str]
    pictures: Sequence[Picture]
    remark: str = ""
    source: str = ""
    files: Sequence[tuple[str, str]] = ()
    beside: tuple[str, Table] | None = None
    runs: Sequence[RunView] = ()


def build_page(records: Sequence[Record], studies: Sequence[StudyReport] = (), title: str = "Measured") -> str:
    """The page's HTML: a section for each data set and each study, and every run with its curves and recipe."""
    parts = [_result_part(groups) for groups in grouped(records)]
    for group, alike in groupby(studies, key=lambda report: report.group):
        together = list(alike)
        if group and len(together) > 1:
            parts.append(_summary_part(group, together))
        parts += [_study_part(study_section(report)) for report in together]
    runs = [run for part in parts for run in part.runs]
    return _template().render(
        title=title,
        version=__version__,
        parts=parts,
        runs=runs,
        datasets=sorted({part.dataset for part in parts if part.dataset}),
        cells=sorted({run.cell for run in runs}),
        style=_file("style.css"),
        script=_file("script.js"),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_file("page.html.j2"))


def _file(name: str) -> str:
    return (resources.files("ungated.lab.reports.page") / name).read_text(encoding="utf-8")


def _result_part(groups: Sequence[Sequence[Record]]) -> Part:
    heading, table, notes = section(groups)
    first = groups[0][0]
    place = slug(f"{first.dataset}-{first.protocol}")
    rows, runs = [], []
    for entries, group in zip(table.rows, groups, strict=True):
        seen = [record_view(record, place) for record in group]
        links = [(f"{record.seed}", view.id) for record, view in zip(group, seen, strict=True)]
        rows.append(Row(entries, group[0].cell, links))
        runs += seen
    cells = list(dict.fromkeys(group[0].cell for group in groups))
    drawings: list[Drawing] = []
    if len(cells) == len(groups) <= len(STYLES) and any(record.result["metrics"] for g in groups for record in g):
        drawings = [comparison_figure(groups, place)]
    return _part(place, heading, first.dataset, cells, table, rows, notes, drawings, runs=runs)


def _study_part(study: StudySection) -> Part:
    report = study.report
    outcome = report.outcome
    place = slug(f"study-{report.name}")
    runs = [study_run_view(report, run, place) for run in outcome.runs if run.state in ("finished", "failed")]
    labels = {run.label for run in outcome.runs}
    cells = sorted({run.cell for run in outcome.runs})
    table = study.table or Table(["study"], [])
    rows = [
        Row(entries, _cell_of(entries[0], labels, cells), _links(point))
        for entries, point in zip(table.rows, study.points, strict=True)
    ]
    files = [("study.toml", outcome.definition.to_toml())]
    files += [(f"recipe of {cell}", text) for cell, text in report.recipes.items()]
    return _part(
        place,
        study.heading,
        dataset_of(outcome),
        cells,
        table,
        rows,
        study.notes,
        study.drawings,
        remark=report.remark,
        source=outcome.definition.source,
        files=files,
        beside=study.beside,
        runs=runs,
    )


def _summary_part(group: str, reports: Sequence[StudyReport]) -> Part:
    """The studies of one reproduction in one table."""
    table = summary_table(reports)
    cells = sorted({run.cell for report in reports for run in report.outcome.runs})
    rows = [Row(entries, entries[2] if entries[2] in cells else "") for entries in table.rows]
    notes = ["A row for each line of the studies below; searches by both selections."]
    return _part(slug(f"all-{group}"), group, "", cells, table, rows, notes, [], remark=reports[0].remark)


def _links(point: Point | None) -> list[tuple[str, str]]:
    """To the runs of a row, by their seeds."""
    return [(f"{run.seed}", slug(f"run-{run.name}")) for run in point.runs] if point is not None else []


def _cell_of(label: str, labels: set[str], cells: Sequence[str]) -> str:
    """The cell that a row of a study's table is of: its first word may be a cell, or a variant or depth of the one."""
    name = label.partition(",")[0]
    return name if name in labels and name in cells else cells[0] if len(cells) == 1 else ""


def _part(
    place: str,
    heading: str,
    dataset: str,
    cells: Sequence[str],
    table: Table,
    rows: Sequence[Row],
    notes: Sequence[str],
    drawings: Sequence[Drawing],
    **others: Any,
) -> Part:
    pictures = [
        Picture(
            drawing.name,
            drawing.title,
            drawing.caption,
            _address("image/svg+xml", drawing.svg),
            _address("text/csv", drawing.csv),
        )
        for drawing in drawings
    ]
    left = [table.columns[0], *table.left]
    return Part(place, heading, dataset, cells, table.columns, left, rows, notes, pictures, **others)


def _address(kind: str, content: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content.encode()).decode()}"

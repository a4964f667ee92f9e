"""One HTML page of all that was measured: no network, no other file; it opens from disk."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import tomli_w

from ungated import __version__
from ungated.lab.reports.drawing import STYLES, Drawing
from ungated.lab.reports.figures import comparison_figure
from ungated.lab.reports.kept_studies import StudyReport
from ungated.lab.reports.measured import grouped, section
from ungated.lab.reports.metrics import duration, metric_named
from ungated.lab.reports.page.charts import Chart, chart
from ungated.lab.reports.records import Record, machine
from ungated.lab.reports.study_figures import dataset_of, protocol_of, run_name
from ungated.lab.reports.study_tables import StudySection, study_section
from ungated.lab.reports.tables import Table
from ungated.lab.studies.outcome import Run

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
    runs: Sequence[RunView] = ()


@dataclass(frozen=True)
class RunView:
    """One run: what it was, what came out, its curves and its recipe."""

    id: str
    title: str
    dataset: str
    cell: str
    outcome: str
    facts: Sequence[tuple[str, str]]
    charts: Sequence[Chart]
    recipe: str
    part: str = field(default="")


def build_page(records: Sequence[Record], studies: Sequence[StudyReport] = (), title: str = "Measured") -> str:
    """The page's HTML: a section for each data set and each study, and every run with its curves and recipe."""
    parts = [_result_part(groups) for groups in grouped(records)]
    parts += [_study_part(study_section(report)) for report in studies]
    runs = [run for part in parts for run in part.runs]
    return _template().render(
        title=title,
        version=__version__,
        parts=parts,
        runs=runs,
        datasets=sorted({part.dataset for part in parts}),
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
    place = _slug(f"{first.dataset}-{first.protocol}")
    rows, runs = [], []
    for entries, group in zip(table.rows, groups, strict=True):
        seen = [_record_view(record, place) for record in group]
        links = [(f"seed {record.seed}", view.id) for record, view in zip(group, seen, strict=True)]
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
    place = _slug(f"study-{report.name}")
    runs = [_study_run_view(report, run, place) for run in outcome.runs if run.state in ("finished", "failed")]
    labels = {run.label for run in outcome.runs}
    cells = sorted({run.cell for run in outcome.runs})
    table = study.table or Table(["study"], [])
    rows = [Row(entries, _cell_of(entries[0], labels, cells)) for entries in table.rows]
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
        runs=runs,
    )


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


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _record_view(record: Record, part: str) -> RunView:
    result = record.result
    metric = metric_named(record.metric)
    facts = [
        ("recipe", str(result["recipe"])),
        ("seed", str(record.seed)),
        ("trained under", f"{record.protocol} protocol"),
        ("hidden size", f"{result['hidden_size']:,}"),
        ("parameters", f"{result['parameters']:,}"),
        ("epochs", f"{result['epochs']}, the best was {result['best_epoch']} ({result['stopped']})"),
    ]
    for protocol in ("paper", "standard"):
        values = [record.value(protocol, split) for split in ("valid", "test")]
        written = ["none" if value is None else metric.written(value) for value in values]
        facts.append((f"{metric.label}, {protocol}", f"valid {written[0]}, test {written[1]}"))
    facts += [
        ("time", duration(record.seconds)),
        ("machine", machine(record.environment)),
        ("revision", str(record.environment.get("git_revision"))),
    ]
    return RunView(
        id=_slug(f"run-{record.dataset}-{record.cell}-{record.default_name}"),
        title=f"{record.dataset}, {record.cell}, seed {record.seed}",
        dataset=record.dataset,
        cell=record.cell,
        outcome=_outcome(record.value(record.protocol, "test"), record.metric),
        facts=facts,
        charts=_charts(
            record.curve.get(f"valid {record.metric}", ()), record.curve.get("train_loss", ()), record.metric, result
        ),
        recipe=tomli_w.dumps(dict(record.recipe)),
        part=part,
    )


def _outcome(test: float | None, name: str | None) -> str:
    metric = metric_named(name or "")
    return "failed" if test is None else f"test {metric.label} {metric.written(test)}"


def _charts(
    valid: Sequence[float | None], losses: Sequence[float | None], metric: str | None, result: Any
) -> list[Chart]:
    words = metric_named(metric or "")
    best = result["best_epoch"] if isinstance(result, dict) else result
    scaled = [None if value is None else words.scale * value for value in valid]
    made = (chart(f"validation {words.label}", scaled, best), chart("training loss", losses, None))
    return [one for one in made if one is not None]


def _study_run_view(report: StudyReport, run: Run, part: str) -> RunView:
    protocol = protocol_of(report.outcome)
    metric = metric_named(run.metric or "")
    facts = [("study", report.name), ("run", f"{run.number}"), ("seed", str(run.seed))]
    facts += [(name.replace("_", " "), f"{value}") for name, value in run.values.items()]
    if run.parameters is not None:
        facts += [("hidden size", f"{run.hidden_size:,}"), ("parameters", f"{run.parameters:,}")]
    if run.epochs is not None:
        facts.append(("epochs", f"{run.epochs}, the best was {run.best_epoch}"))
    for split in ("valid", "test"):
        if (value := run.value(split, protocol)) is not None:
            facts.append((f"{split}, {protocol}", f"{metric.label} {metric.written(value)}"))
    facts.append(("time", duration(run.seconds)))
    if run.error:
        facts.append(("error", run.error))
    settings = tomli_w.dumps({"settings of this run, on top of the study's recipe": dict(run.settings)})
    values = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in run.values.items())
    valid = [entry.get("valid", {}).get(run.metric) for entry in run.curve]
    return RunView(
        id=_slug(f"run-{run_name(report.name, run)}"),
        title=", ".join(filter(None, [f"{report.name} {run.number}", run.label, values, f"seed {run.seed}"])),
        dataset=dataset_of(report.outcome),
        cell=run.cell,
        outcome=_outcome(run.value("test", protocol), run.metric),
        facts=facts,
        charts=_charts(valid, [entry.get("train_loss") for entry in run.curve], run.metric, run.best_epoch),
        recipe=f"{settings}\n{report.recipes.get(run.cell, '')}",
        part=part,
    )

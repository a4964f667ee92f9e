"""One run as a page shows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import tomli_w

from ungated.lab.reports.kept_studies import StudyReport
from ungated.lab.reports.metrics import duration, metric_named
from ungated.lab.reports.page.charts import Chart, chart
from ungated.lab.reports.records import Record, machine
from ungated.lab.reports.study_figures import dataset_of, protocol_of, run_name
from ungated.lab.studies.outcome import Run


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
    part: str


def slug(text: str) -> str:
    """A text as the name of a place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def record_view(record: Record, part: str) -> RunView:
    """A kept or finished run; part: the section that it belongs to."""
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
        id=slug(f"run-{record.dataset}-{record.cell}-{record.default_name}"),
        title=f"{record.dataset}, {record.cell}, seed {record.seed}",
        dataset=record.dataset,
        cell=record.cell,
        outcome=_outcome(record.value(record.protocol, "test"), record.metric),
        facts=facts,
        charts=_charts(
            *(record.curve.get(f"valid {record.metric}", ()), record.curve.get("train_loss", ()), record.metric),
            result["best_epoch"],
        ),
        recipe=tomli_w.dumps(dict(record.recipe)),
        part=part,
    )


def _outcome(test: float | None, name: str | None) -> str:
    metric = metric_named(name or "")
    return "failed" if test is None else f"test {metric.label} {metric.written(test)}"


def _charts(
    valid: Sequence[float | None], losses: Sequence[float | None], metric: str | None, best: int | None
) -> list[Chart]:
    words = metric_named(metric or "")
    scaled = [None if value is None else words.scale * value for value in valid]
    made = (chart(f"validation {words.label}", scaled, best), chart("training loss", losses, None))
    return [one for one in made if one is not None]


def study_run_view(report: StudyReport, run: Run, part: str) -> RunView:
    """A run of a study."""
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
    given = {key: "none" if value is None else value for key, value in run.settings.items()}
    settings = tomli_w.dumps({"settings of this run, on top of the study's recipe": given})
    values = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in run.values.items())
    valid = [entry.get("valid", {}).get(run.metric) for entry in run.curve]
    return RunView(
        id=slug(f"run-{run_name(report.name, run)}"),
        title=", ".join(filter(None, [f"{report.name} {run.number}", run.label, values, f"seed {run.seed}"])),
        dataset=dataset_of(report.outcome),
        cell=run.cell,
        outcome=_outcome(run.value("test", protocol), run.metric),
        facts=facts,
        charts=_charts(valid, [entry.get("train_loss") for entry in run.curve], run.metric, run.best_epoch),
        recipe=f"{settings}\n{report.recipes.get(run.cell, '')}",
        part=part,
    )

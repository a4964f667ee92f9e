"""A study as a report needs it, read from its directory or from the one file that is kept of it.

results/studies/NAME.json holds the definition, the recipes of its cells, and of every run what was asked and measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ungated.lab.errors import DataError, RunError
from ungated.lab.files import atomic_write_text
from ungated.lab.reports.records import KEPT_ENVIRONMENT, rounded
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.directory import StudyDirectory
from ungated.lab.studies.outcome import Run, StudyOutcome, read_study
from ungated.lab.training.run import RunDirectory

FORMAT = 1

#: In a directory of several studies: which they are, and what is to be said of each.
REPRODUCTION = "reproduction.json"

#: What a study is called that nobody has given a title.
_KINDS = {
    "tpe": "Search",
    "grid": "Grid",
    "sweep": "Sweep",
    "variants": "Variants",
    "repeats": "Several seeds",
    "depth": "Recurrence depths",
}

#: Of a Run, what is kept as it is; its curve is kept as columns.
_KEPT = (
    *("number", "cell", "variant", "values", "settings", "seed", "state", "dataset", "metric", "protocol", "metrics"),
    *("epochs", "best_epoch", "parameters", "hidden_size", "diverged", "error"),
)


@dataclass(frozen=True)
class StudyReport:
    """A study's outcome and what is said of it.

    remark: what every figure and table of it must say, "" for nothing. group: the name of the reproduction that it is
    a part of. beside: a published table to show with it. recipes: TOML by cell. environment: of its first finished
    run, what the times depend on.
    """

    name: str
    title: str
    remark: str
    outcome: StudyOutcome
    group: str = ""
    beside: str = ""
    recipes: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


def read_report(path: str | Path, name: str = "", title: str = "", **said: str) -> StudyReport:
    """The report of a study's directory; said: remark, group, beside.

    Raises StudyError where there is no study, CheckpointError for a damaged run.
    """
    outcome = read_study(path)
    definition = outcome.definition
    finished = next((run for run in outcome.runs if run.state == "finished"), None)
    environment = {} if finished is None else RunDirectory(finished.directory).read_environment()
    return StudyReport(
        name=name or definition.name,
        title=title or f"{_KINDS[definition.kind]} of {', '.join(definition.labels)} on {definition.recipe}",
        remark=said.get("remark", ""),
        outcome=outcome,
        group=said.get("group", ""),
        beside=said.get("beside", ""),
        recipes=StudyDirectory(path).read_recipes(definition),
        environment={key: environment[key] for key in KEPT_ENVIRONMENT if key in environment},
    )


def read_reports(path: str | Path) -> list[StudyReport]:
    """The studies of a directory: the one that lies there, those of a reproduction, or none.

    Raises DataError for a damaged list of studies, and as `read_report` does.
    """
    path = Path(path)
    if StudyDirectory(path).exists:
        return [read_report(path)]
    listed = path / REPRODUCTION
    if not listed.is_file():
        return []
    try:
        entries = json.loads(listed.read_text(encoding="utf-8"))["studies"]
        said = [{word: str(text) for word, text in entry.items()} for entry in entries]
        # Names that lead out of the directory are none of ours.
        places = [path / Path(entry.pop("directory")).name for entry in said]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{listed} cannot be read as a list of studies: {error}") from error
    return [
        read_report(place, **entry) for place, entry in zip(places, said, strict=True) if StudyDirectory(place).exists
    ]


def keep_study(report: StudyReport, results: str | Path) -> Path:
    """Write RESULTS/studies/NAME.json and return it; RunError where the name is not fit for a file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]*", report.name):
        raise RunError(f"{report.name!r} cannot be a file's name here: use letters, digits, '.', '_', '=' and '-'")
    path = Path(results) / "studies" / f"{report.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, to_json(report))
    return path


def load_studies(results: str | Path) -> dict[Path, StudyReport]:
    """Every kept study below the folder, by its file. Raises DataError for a damaged one."""
    found = {}
    for path in sorted(Path(results).glob("studies/*.json")):
        try:
            found[path] = from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read as a study: {error}") from error
    return found


def to_json(report: StudyReport) -> str:
    """The file's text, a run on one line."""
    runs = [json.dumps(_run_to_json(run), ensure_ascii=False, allow_nan=False) for run in report.outcome.runs]
    head = {
        "format": FORMAT,
        "name": report.name,
        "title": report.title,
        "remark": report.remark,
        "group": report.group,
        "beside": report.beside,
        "environment": dict(report.environment),
        "definition": report.outcome.definition.to_toml(),
        "recipes": dict(report.recipes),
    }
    text = json.dumps(head, indent=2, ensure_ascii=False, allow_nan=False)
    return text.removesuffix("\n}") + ',\n  "runs": [\n    ' + ",\n    ".join(runs) + "\n  ]\n}\n"


def from_json(text: str) -> StudyReport:
    """Read what `to_json` wrote; ValueError, KeyError or TypeError otherwise."""
    body = json.loads(text)
    if body["format"] != FORMAT:
        raise ValueError(f"its format is {body['format']}, this version reads {FORMAT}")
    definition = Definition.from_toml(body["definition"], body["name"])
    runs = tuple(_run_from_json(entry) for entry in body["runs"])
    outcome = StudyOutcome(Path(body["name"]), definition, runs)
    words = {word: body[word] for word in ("name", "title", "remark", "group", "beside", "recipes", "environment")}
    return StudyReport(outcome=outcome, **words)


def _run_to_json(run: Run) -> dict[str, Any]:
    kept = {name: getattr(run, name) for name in _KEPT}
    kept |= {"values": dict(run.values), "settings": dict(run.settings), "seconds": round(run.seconds, 2)}
    kept["curve"] = {
        "train_loss": [rounded(entry.get("train_loss")) for entry in run.curve],
        "valid": [rounded(entry["valid"].get(run.metric)) for entry in run.curve] if run.metric else [],
    }
    return kept


def _run_from_json(entry: Mapping[str, Any]) -> Run:
    return Run(
        **{name: entry[name] for name in _KEPT},
        directory=Path("runs") / f"{entry['number']:04d}",
        curve=_lines(entry["curve"], entry["metric"], float(entry["seconds"])),
    )


def _lines(columns: Mapping[str, Sequence[float | None]], metric: str | None, seconds: float) -> tuple[Any, ...]:
    """The curve as a run directory has it; the time, kept as one number, is spread evenly over the epochs."""
    losses = columns["train_loss"]
    valid = columns["valid"] or [None] * len(losses)
    return tuple(
        {
            "epoch": epoch,
            "train_loss": loss,
            "valid": {metric: value} if metric else {},
            "seconds": seconds / len(losses),
        }
        for epoch, (loss, value) in enumerate(zip(losses, valid, strict=True), 1)
    )

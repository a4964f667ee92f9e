"""What is kept of a finished run: one small JSON file at results/<dataset>/<cell>/<name>.json."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ungated.cells import CELLS
from ungated.lab.errors import DataError, RunError
from ungated.lab.files import atomic_write_text
from ungated.lab.training.run import RunDirectory

FORMAT = 1

#: Of environment.json: what the numbers and the time depend on. Its command may name places on somebody's disk.
KEPT_ENVIRONMENT = (
    "ungated",
    "torch",
    "python",
    "platform",
    "device",
    "device_name",
    "threads",
    "processes",
    "deterministic",
    "backend",
    "git_revision",
)


@dataclass(frozen=True)
class Record:
    """One finished run.

    result: as result.json has it. recipe: the resolved recipe. environment: versions, device, git revision.
    curve: a list per quantity, an entry per epoch ("epoch", "train_loss", "valid <metric>", "learning_rate",
    "seconds" in newer ones).
    seconds: training and validation, all epochs together.
    """

    result: Mapping[str, Any]
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    curve: Mapping[str, Sequence[float | None]]
    seconds: float

    @property
    def dataset(self) -> str:
        return str(self.result["dataset"])

    @property
    def cell(self) -> str:
        return str(self.result["cell"])

    @property
    def seed(self) -> int:
        return int(self.result["seed"])

    @property
    def protocol(self) -> str:
        """What the run was trained under."""
        return str(self.result["trained_under"])

    @property
    def metric(self) -> str:
        """The metric that early stopping watched."""
        return str(self.result["metric"])

    def value(self, protocol: str, split: str, metric: str | None = None) -> float | None:
        """One measured number; None where it is not finite, or the run diverged before it could be measured."""
        metrics = self.result["metrics"] or {}
        value = metrics.get(protocol, {}).get(split, {}).get(metric or self.metric)
        return None if value is None else float(value)

    @property
    def epoch_seconds(self) -> float:
        """Of the median epoch, which a pause does not lengthen; of a record without them, the mean."""
        measured = [seconds for seconds in self.curve.get("seconds", ()) if seconds is not None]
        return median(measured) if measured else self.seconds / int(self.result["epochs"])

    @property
    def settings(self) -> str:
        """Every setting in one line of text: equal for runs that differ in their seed alone.

        One that is none is left out, as it is from a record older than the setting.
        """
        given = {key: value for key, value in self.result["settings"].items() if value is not None}
        return json.dumps(given, sort_keys=True)

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that were given on the command line, by their short names."""
        settings = {}
        for key, origin in self.recipe.get("source", {}).items():
            section, _, name = key.rpartition(".")
            if origin == "command line" and section:
                settings[name] = self.recipe[section].get(name, "none")
        return settings

    @property
    def own_protocol(self) -> bool:
        """Whether it was trained under the protocol that its recipe names."""
        return bool(self.recipe.get("source", {}).get("protocol") != "command line")

    @property
    def default_name(self) -> str:
        """A file name that tells the run from its siblings: protocol or recipe, changed settings, seed."""
        recipe = str(self.result["recipe"])
        words = [self.protocol if "/" in recipe else recipe]
        words += [f"{name}={value}" for name, value in self.changed.items()]
        return "-".join(re.sub(r"[^A-Za-z0-9._=]+", "_", word) for word in [*words, f"seed{self.seed}"])

    def to_json(self) -> str:
        """The file's text: indented, but a curve on one line each."""
        body = {
            "format": FORMAT,
            "result": self.result,
            "seconds": round(self.seconds, 1),
            "environment": self.environment,
            "recipe": self.recipe,
            "curve": {name: f"\0{name}" for name in self.curve},
        }
        text = json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)
        for name, values in self.curve.items():
            text = text.replace(json.dumps(f"\0{name}"), json.dumps(list(values), allow_nan=False))
        return text + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read what `to_json` wrote; ValueError or KeyError otherwise."""
        body = json.loads(text)
        if body["format"] != FORMAT:
            raise ValueError(f"its format is {body['format']}, this version reads {FORMAT}")
        return cls(body["result"], body["recipe"], body["environment"], body["curve"], float(body["seconds"]))


def read_run(path: str | Path) -> Record:
    """The record of a run directory. Raises RunError where there is no run, or none that is finished."""
    run = RunDirectory(path)
    result = run.read_result()
    if result is None:
        raise RunError(f"{path} holds an unfinished run: `ungated resume {path}` brings it to its end")
    environment = run.read_environment()
    entries = run.metrics()
    recipe = tomllib.loads(run.read_recipe())
    source = recipe.get("source", {})
    if "cell.name" in source:  # FILE.py:Class: the class is what matters elsewhere, the folder is not
        source["cell.name"] = Path(source["cell.name"]).name
    if ":" in recipe["dataset"]:  # one's own data by its path: the name is in the result
        recipe["dataset"] = result["dataset"]
    return Record(
        result=result,
        recipe=recipe,
        environment={key: environment[key] for key in KEPT_ENVIRONMENT if key in environment},
        curve=_curve(entries),
        seconds=sum(float(entry["seconds"]) for entry in entries),
    )


def _curve(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    curve: dict[str, list[float | None]] = {
        name: [rounded(entry.get(name)) for entry in entries] for name in ("epoch", "train_loss", "learning_rate")
    }
    curve["seconds"] = [round(float(entry["seconds"]), 2) for entry in entries]
    for metric in sorted({metric for entry in entries for metric in entry["valid"]}):
        curve[f"valid {metric}"] = [rounded(entry["valid"].get(metric)) for entry in entries]
    return curve


def rounded(value: float | None) -> float | None:
    """To six digits: enough for a curve."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def collect(record: Record, results: str | Path, name: str | None = None) -> Path:
    """Keep a record below the folder `results`; return its file.

    A second record of the same settings and seed takes the place of the first; RunError where the name is
    another run's.
    """
    name = name or record.default_name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]*", name):
        raise RunError(f"{name!r} cannot be a file's name here: use letters, digits, '.', '_', '=' and '-'")
    path = Path(results) / record.dataset / record.cell / f"{name}.json"
    if path.exists():
        there = _read(path)
        if (there.settings, there.seed) != (record.settings, record.seed):
            raise RunError(f"{path} holds a run of other settings: give this one its own name with --name")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, record.to_json())
    return path


def load_results(results: str | Path) -> dict[Path, Record]:
    """Every record below the folder, by its file, in the order of their paths. Raises DataError for a damaged one."""
    return {path: _read(path) for path in sorted(Path(results).glob("*/*/*.json"))}


def _read(path: Path) -> Record:
    try:
        return Record.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as the result of a run: {error}") from error


def by_settings(records: Iterable[Record]) -> list[list[Record]]:
    """Groups of runs that differ in their seed alone, in the order of data set, cell, protocol and settings."""
    groups: dict[tuple[str, str, str, str, str], list[Record]] = {}
    for record in records:
        key = (record.dataset, record.protocol, _place(record.cell), str(record.result["recipe"]), record.settings)
        groups.setdefault(key, []).append(record)
    return [sorted(group, key=lambda record: record.seed) for _, group in sorted(groups.items())]


def _place(cell: str) -> str:
    """Sorts as CELLS lists them, then a person's own by name."""
    names = list(CELLS)
    return f"{names.index(cell):03d}" if cell in CELLS else f"~{cell}"


def machine(environment: Mapping[str, Any]) -> str:
    """In words, what a run's times depend on: device, threads, version of torch."""
    threads = int(environment.get("threads", 1))
    name = environment.get("device_name") or environment.get("device")
    where = f"{name}, {threads} thread{'s' if threads > 1 else ''}" if environment.get("device") == "cpu" else f"{name}"
    return f"{where}, torch {environment.get('torch')}"

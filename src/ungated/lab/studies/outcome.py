"""What came out of a study: every run of its budget, read from the run directories, and the two selections.

The RRU authors' code chose settings by the test metric. Both selections are given, under names that say which is
which: `selected_on_validation` is the honest one, `selected_on_test` the paper's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ungated.lab.data import DATASETS
from ungated.lab.errors import StudyError
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.directory import StudyDirectory
from ungated.lab.studies.leases import FileLeases
from ungated.lab.studies.points import Point, points
from ungated.lab.tasks import TASKS

State = Literal["finished", "failed", "running", "waiting"]


@dataclass(frozen=True)
class Run:
    """One run of a study.

    values: of the axes, or what the search drew. settings: all that the study set on top of the recipe, by full key.
    metrics: of the best weights, {protocol: {split: {metric: value}}}; None before the end, or where nothing could be
    measured. curve: a mapping per epoch as in metrics.jsonl. diverged: training stopped being finite; where it had
    been before, the run is finished all the same, with what was best until then.
    """

    number: int
    cell: str
    variant: str | None
    values: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int
    state: State
    directory: Path
    dataset: str | None = None
    metric: str | None = None
    protocol: str | None = None
    metrics: Mapping[str, Any] | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    parameters: int | None = None
    hidden_size: int | None = None
    curve: tuple[Mapping[str, Any], ...] = ()
    diverged: bool = False
    error: str = ""

    @property
    def label(self) -> str:
        """The variant, or the cell."""
        return self.cell if self.variant is None else self.variant

    @property
    def seconds(self) -> float:
        """Training and validation, all epochs together."""
        return sum(float(entry["seconds"]) for entry in self.curve)

    def value(self, split: str, protocol: str | None = None, metric: str | None = None) -> float | None:
        """A measured number of "valid" or "test", of the run's own protocol and metric unless named."""
        splits = (self.metrics or {}).get(protocol or self.protocol or "", {})
        found = splits.get(split, {}).get(metric or self.metric)
        return None if found is None else float(found)


@dataclass(frozen=True)
class StudyOutcome:
    """A study and its runs, by number; waiting ones too."""

    directory: Path
    definition: Definition
    runs: tuple[Run, ...]

    @property
    def metric(self) -> str | None:
        """The metric that early stopping watched; None while nothing is finished."""
        return next((run.metric for run in self.runs if run.metric is not None), None)

    @property
    def protocol(self) -> str | None:
        """What the runs were trained under; None while nothing is finished."""
        return next((run.protocol for run in self.runs if run.protocol is not None), None)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger metric is better."""
        names = {run.dataset for run in self.runs if run.dataset is not None} & set(DATASETS)
        return any(TASKS[DATASETS[name].kind].higher_is_better for name in names)  # of one's own data none is

    @property
    def complete(self) -> bool:
        """Whether every run of the budget is finished or failed."""
        return all(run.state in ("finished", "failed") for run in self.runs)

    def count(self, *states: State) -> int:
        """How many runs are in one of the states."""
        return sum(run.state in states for run in self.runs)

    def groups(self) -> dict[str, list[Run]]:
        """The runs of each variant, or of each cell."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            found.setdefault(run.label, []).append(run)
        return found

    def selected_on_validation(self, label: str | None = None) -> Run | None:
        """The finished run, of all or of one label, with the best validation value: the honest choice."""
        return self._best("valid", label)

    def selected_on_test(self, label: str | None = None) -> Run | None:
        """The one with the best test value: how the RRU authors chose. It flatters; say so wherever it is shown."""
        return self._best("test", label)

    def _best(self, split: str, label: str | None) -> Run | None:
        runs = [run for run in self.runs if run.state == "finished" and label in (None, run.label)]
        measured = [(value, run) for run in runs if (value := run.value(split)) is not None]
        sign = -1 if self.higher_is_better else 1
        return min(measured, key=lambda pair: (sign * pair[0], pair[1].number), default=(None, None))[1]


def read_study(path: str | Path) -> StudyOutcome:
    """Read a study's directory. Raises StudyError where there is none, CheckpointError for a damaged run."""
    directory = StudyDirectory(path)
    definition = directory.read_definition()
    held = set(FileLeases(directory.leases).fresh(time.time()))
    return StudyOutcome(
        directory.path, definition, tuple(read_point(directory, point, held) for point in points(definition))
    )


def read_point(directory: StudyDirectory, point: Point, held: Iterable[int] = ()) -> Run:
    """One run as its directory tells it. held: the runs that someone works on."""
    run = directory.run(point.number)
    record = directory.read_trial(point.number)
    settings: Mapping[str, Any] = {}
    if record is not None:
        try:
            point, settings = Point.from_record(record), record["settings"]
        except (KeyError, TypeError, ValueError) as error:
            raise StudyError(f"{directory.path}/trials/{point.number:04d}.json is damaged: {error!r}") from error
    own = (point.number, point.cell, point.variant, point.values, settings, point.seed)
    result = run.read_result() if run.exists else None
    if result is None:
        failure = directory.read_failure(point.number)
        curve = tuple(run.metrics())
        if failure is not None:
            return Run(*own, "failed", run.path, curve=curve, error=str(failure["error"]))
        return Run(*own, "running" if point.number in held else "waiting", run.path, curve=curve)
    return Run(
        *own,
        "failed" if result["metrics"] is None else "finished",
        run.path,
        dataset=result["dataset"],
        metric=result["metric"],
        protocol=result["trained_under"],
        metrics=result["metrics"],
        epochs=result["epochs"],
        best_epoch=result["best_epoch"],
        parameters=result["parameters"],
        hidden_size=result["hidden_size"],
        curve=tuple(run.metrics()),
        diverged=result["stopped"] == "diverged",
        error=result["message"],
    )

"""How long a study will take, from a few real updates of its smallest and its largest model."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ungated.lab.studies.points import Point
from ungated.lab.studies.study import Checker, Study, examples
from ungated.lab.training.build import build
from ungated.lab.training.evaluate import measure
from ungated.lab.training.progress import Outlook, Progress
from ungated.lab.training.recipe import Recipe
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.train import train

#: Updates that are timed, after one that is not; fewer where they take longer than this many seconds.
UPDATES, LONGEST = 3, 10.0

#: So many epochs are no limit that a run with patience would reach.
_UNLIMITED = 10_000


@dataclass(frozen=True)
class Planned:
    """One run before it is made; sizes and time are None for a search's, whose settings are yet to be drawn."""

    point: Point
    hidden_size: int | None
    parameters: int | None
    epoch_seconds: float | None


@dataclass(frozen=True)
class Estimate:
    """least, most: seconds of all runs one after the other, at the fewest and at the most epochs; None: no limit."""

    planned: Sequence[Planned]
    epoch_seconds: tuple[float, float]
    least_epochs: int
    most_epochs: int | None
    least: float
    most: float | None


def estimate(
    study: Study, *, device: str = "cpu", data_dir: str | Path | None = None, threads: int | None = None
) -> Estimate:
    """List the runs of a study with their sizes, and time a few updates and evaluation batches of each cell.

    A run's time is taken to be a straight line in its parameters between a cell's smallest and largest model. Every
    run lasts at least its patience and one epoch; at most, its epochs. Raises as training does.
    """
    checker = Checker(data_dir)
    cells = {label: _Line(study, label, checker, device, data_dir, threads) for label in study.definition.labels}
    ends = [seconds for line in cells.values() for seconds in line.ends]
    planned, epochs = [], []
    least, most = 0.0, 0.0
    for point in study.points:
        if study.definition.kind == "tpe":
            recipe, seconds = study.recipes[point.cell], sum(ends) / len(ends)
            planned.append(Planned(point, None, None, None))
        else:
            recipe = study.recipe(point)
            hidden_size, parameters = checker.size(recipe)
            seconds = cells[point.cell].at(parameters)
            planned.append(Planned(point, hidden_size, parameters, seconds))
        epochs.append(_epochs(recipe))
        least += seconds * epochs[-1][0]
        most += seconds * epochs[-1][1]
    longest = max(high for _, high in epochs)
    return Estimate(
        planned=planned,
        epoch_seconds=(min(ends), max(ends)),
        least_epochs=min(low for low, _ in epochs),
        most_epochs=None if math.isinf(longest) else int(longest),
        least=least,
        most=None if math.isinf(most) else most,
    )


def _epochs(recipe: Recipe) -> tuple[int, float]:
    """The fewest and the most epochs of a run; infinity where patience alone ends it."""
    training = recipe.training
    if training.patience is None:
        return training.max_epochs, training.max_epochs
    most = math.inf if training.max_epochs >= _UNLIMITED else training.max_epochs
    return min(training.max_epochs, training.patience + 1), most


class _Line:
    """Seconds of an epoch of one cell by the parameters of its model."""

    def __init__(
        self,
        study: Study,
        label: str,
        checker: Checker,
        device: str,
        data_dir: str | Path | None,
        threads: int | None,
    ) -> None:
        sized: dict[int, Recipe] = {}
        for point in examples(study):
            if point.cell == label:
                recipe = study.recipe(point)
                sized.setdefault(checker.size(recipe)[1], recipe)
        small, large = min(sized), max(sized)
        with _threads(threads):
            self._points = {size: epoch_seconds(sized[size], device, data_dir) for size in {small, large}}
        self.ends = list(self._points.values())

    def at(self, parameters: int) -> float:
        """The time of an epoch of that many parameters."""
        (small, short), (large, long) = min(self._points.items()), max(self._points.items())
        if small == large:
            return short
        return short + (long - short) * (parameters - small) / (large - small)


def epoch_seconds(recipe: Recipe, device: str, data_dir: str | Path | None) -> float:
    """Seconds of one epoch, training and validation, from a few updates and evaluation batches."""
    timer = _Timer()
    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        train(RunDirectory(Path(folder) / "run"), recipe, device=device, data_dir=data_dir, progress=timer)
    training = timer.whole()
    built = build(recipe, seed=0, device=device, data_dir=data_dir)
    timer = _Timer()
    timer.start()
    with suppress(_Enough):
        measure(built.model.eval(), built.task, recipe, "valid", recipe.protocol, timer.shown)
    return training + timer.whole()


class _Enough(Exception):
    """Enough has been timed."""


class _Timer(Progress):
    """Notes when batches are done, and ends the training or evaluation after a few."""

    def __init__(self) -> None:
        self._total = 1
        self._marks: list[tuple[float, int]] = []  # when, how much was done

    def start(self, outlook: Outlook | None = None, epoch: int = 1) -> None:
        self._marks.append((time.perf_counter(), 0))

    def batch(self, done: int, total: int, loss: float) -> None:
        self.shown(done, total)

    def evaluating(self, split: str, done: int, total: int) -> None:
        raise _Enough  # a short epoch is over

    def shown(self, done: int, total: int) -> None:
        """`done` of `total` batches, or of whatever else the task counts."""
        self._total = total
        self._marks.append((time.perf_counter(), done))
        timed = len(self._marks) - 2  # the first one warms up
        if timed >= UPDATES or (timed > 0 and self._marks[-1][0] - self._marks[0][0] > LONGEST):
            raise _Enough

    def whole(self) -> float:
        """Seconds of all that there is to do, the first batch left out of the count where there are more."""
        begun, before = self._marks[1] if len(self._marks) > 2 else self._marks[0]
        ended, after = self._marks[-1]
        return (ended - begun) / max(1, after - before) * self._total


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rows(result: Estimate) -> list[dict[str, Any]]:
    """The runs as JSON has them."""
    return [
        {
            "number": entry.point.number,
            "cell": entry.point.cell,
            "variant": entry.point.variant,
            "values": dict(entry.point.values),
            "seed": entry.point.seed,
            "hidden_size": entry.hidden_size,
            "parameters": entry.parameters,
            "epoch_seconds": None if entry.epoch_seconds is None else round(entry.epoch_seconds, 3),
        }
        for entry in result.planned
    ]

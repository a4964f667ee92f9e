"""What a study measured, as figures and tables need it: settings, and under each the runs that differ in their seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ungated.lab.reports.metrics import Summary, metric_named, summarize

#: How a setting is chosen among many, in the words of every table: by the mean over its seeds on that split.
SELECTIONS = {"valid": "selected on validation", "test": "selected on test (the paper's)"}


@dataclass(frozen=True)
class Outcome:
    """One run. valid, test: None where nothing finite was measured. name: by which a page links to it."""

    seed: int
    valid: float | None
    test: float | None
    best_epoch: int | None = None
    parameters: int | None = None
    hidden_size: int | None = None
    seconds: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Point:
    """One setting of a study. label: the line or the map that it belongs to. at: the study's axes, by name."""

    dataset: str
    cell: str
    label: str
    at: Mapping[str, Any]
    runs: Sequence[Outcome]

    def summary(self, split: str) -> Summary | None:
        """Of the seeds that have a value; None where no seed has."""
        values = [value for run in self.runs if (value := getattr(run, split)) is not None]
        return summarize(values) if values else None

    def mean(self, split: str) -> float | None:
        """Over the seeds that have a value."""
        summary = self.summary(split)
        return None if summary is None else summary.mean

    @property
    def failed(self) -> int:
        """Runs without a finite test value."""
        return sum(run.test is None for run in self.runs)

    @property
    def best_epoch(self) -> float | None:
        """Mean over the seeds that have one."""
        epochs = [run.best_epoch for run in self.runs if run.best_epoch]
        return sum(epochs) / len(epochs) if epochs else None


def selected(points: Sequence[Point], split: str, metric: str) -> Point | None:
    """The setting with the best mean on a split, of those without a failed run; None where there is none."""
    whole = [(mean, point) for point in points if not point.failed and (mean := point.mean(split)) is not None]
    if not whole:
        return None
    best = max if metric_named(metric).higher_is_better else min
    return best(whole, key=lambda pair: pair[0])[1]


def by_label(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each line or map, in the order of their first."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.label, []).append(point)
    return groups


def megas(parameters: float) -> str:
    """ "2.6M", "120K"."""
    return f"{parameters / 1e6:.3g}M" if parameters >= 1e6 else f"{parameters / 1e3:.3g}K"

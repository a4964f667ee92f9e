"""The runs of a study: which cell, variant, values and seed each number has, and the settings that follow."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ungated.lab.errors import UsageError
from ungated.lab.studies.definition import MAX_RUNS, Definition
from ungated.lab.studies.spaces import Value


@dataclass(frozen=True)
class Point:
    """One run before it is made. values: by the names of axes or space; a search fills them when the run begins."""

    number: int
    cell: str
    variant: str | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    seed: int = 0

    def record(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept of it on disk and in the storage; settings: by their full keys."""
        return {
            "number": self.number,
            "cell": self.cell,
            "variant": self.variant,
            "values": dict(self.values),
            "seed": self.seed,
            "settings": dict(settings),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Point:
        """The point of a record; KeyError or TypeError for what is none."""
        return cls(
            int(record["number"]), str(record["cell"]), record["variant"], dict(record["values"]), int(record["seed"])
        )


def points(definition: Definition) -> list[Point]:
    """Every run of the budget, by number; seeds outermost, cells innermost, so that what is done first compares."""
    if definition.kind == "tpe":
        return [
            Point(number, definition.labels[0], None, {}, definition.seeds[0])
            for number in range(definition.trials or 0)
        ]
    rows: list[tuple[str | None, dict[str, Value]]] = [(None, {})]
    if definition.kind == "variants":
        rows = [(name, {}) for name in definition.variants]
    elif definition.axes:
        products = itertools.product(*definition.axes.values())
        rows = [(None, dict(zip(definition.axes, values, strict=True))) for values in products]
    combined = itertools.product(definition.seeds, rows, definition.labels)
    found = [
        Point(number, cell, variant, values, seed) for number, (seed, (variant, values), cell) in enumerate(combined)
    ]
    if len(found) > MAX_RUNS:
        raise UsageError(f"the study {definition.name} would have {len(found):,} runs: {MAX_RUNS:,} are the most")
    return found


def settings_of(definition: Definition, point: Point) -> dict[str, Value]:
    """What a run sets on top of its cell's recipe in the study, by the names that a recipe knows."""
    given: dict[str, Value] = dict(definition.variants[point.variant]) if point.variant is not None else {}
    for name, value in point.values.items():
        given[name] = value
        for other, values in definition.along.get(name, {}).items():
            given[other] = values[definition.axes[name].index(value)]
    return {key: value for name, value in given.items() for key in definition.keys_for(point.cell, name)}


def fixed_settings(definition: Definition, cell: str) -> dict[str, Value]:
    """What the study sets for every run of a cell."""
    given = dict(definition.settings) | dict(definition.cell_settings.get(cell, {}))
    return {key: value for name, value in given.items() for key in definition.keys_for(cell, name)}

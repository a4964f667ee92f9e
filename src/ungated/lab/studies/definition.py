"""What a study is, as its file says it: recipe, space or axes, budget, seeds.

    kind   = "grid"
    recipe = "nottingham"
    cells  = ["rru", "gru"]
    [settings]                      # on top of the recipes
    recurrent_dropout = 0.5
    [axes]
    learning_rate = [1e-4, 1e-3, 1e-2]
    parameters    = [1_000_000, 5_000_000]

A definition is data: it names recipes, cells and settings, and never code but a person's own FILE.py:Class.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tomli_w

from ungated.lab.errors import UsageError
from ungated.lab.studies.spaces import Dimension, Value
from ungated.lab.training.cell_options import cell_label
from ungated.lab.training.settings import hint, plain

KINDS = ("tpe", "grid", "sweep", "variants", "repeats", "depth")
SAMPLERS = ("optuna", "paper")
OBJECTIVES = ("valid", "test")
MAX_BYTES = 64 * 1024
MAX_RUNS = 9999

#: Which part of a definition says what its runs differ in.
_PARTS = {"tpe": "space", "grid": "axes", "sweep": "axes", "variants": "variants", "depth": "axes"}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Definition:
    """A study's definition, checked for what can be known without recipes.

    recipe: a data set, a recipe's name, or data of one's own (text:FILE). settings: of every cell; cell_settings: of
    one. axes: the values that runs take, every combination of them. along: settings that go with each value of an
    axis. variants: rows of settings by name. space: what a search draws from. keys: for a cell, the settings that an
    axis, a variant or the space means by a name which this cell does not have. trials: runs of a search. sampler:
    Optuna's TPE as it comes, or "paper" with HyperOpt's constants. objective: the split whose metric the search
    minimises; both are always reported.
    """

    kind: str
    recipe: str
    cells: tuple[str, ...]
    name: str = "study"
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Value] = field(default_factory=dict)
    cell_settings: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    axes: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    along: Mapping[str, Mapping[str, tuple[Value, ...]]] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    space: Mapping[str, Dimension] = field(default_factory=dict)
    keys: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    trials: int | None = None
    sampler: str = "optuna"
    objective: str = "valid"
    source: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        """Raises UsageError that names the entry."""
        _check(self)

    def replace(self, **changes: Any) -> Definition:
        """The same with other entries, checked again."""
        return dataclasses.replace(self, **changes)

    @property
    def labels(self) -> tuple[str, ...]:
        """The short name of each cell."""
        return tuple(cell_label(cell) for cell in self.cells)

    def keys_for(self, cell: str, name: str) -> tuple[str, ...]:
        """The settings that a name of an axis, variant or space means for a cell."""
        return self.keys.get(cell, {}).get(name, (name,))

    def space_of(self, cell: str) -> dict[str, Dimension]:
        """What a search over this cell draws."""
        return {name: entry for name, entry in self.space.items() if not entry.cells or cell in entry.cells}

    def to_toml(self) -> str:
        """The definition as a file; `from_toml` gives an equal one."""
        document: dict[str, Any] = {}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if value is None or (isinstance(value, (str, Mapping)) and not value):
                continue
            document[entry.name] = list(value) if isinstance(value, tuple) else value
        document.pop("cell_settings", None)
        document["settings"] = dict(self.settings) | {c: dict(values) for c, values in self.cell_settings.items()}
        if "space" in document:
            document["space"] = {name: entry.table() for name, entry in self.space.items()}
        tables = {name: _plain(value) for name, value in document.items() if isinstance(value, Mapping)}
        words = {name: value for name, value in document.items() if name not in tables}
        return tomli_w.dumps(words | {name: table for name, table in tables.items() if table})

    @classmethod
    def from_toml(cls, text: str, where: str) -> Definition:
        """Read a definition; `where` is how messages call the file. Raises UsageError."""
        if len(text) > MAX_BYTES:
            raise UsageError(f"{where} is no study: it is longer than {MAX_BYTES // 1024} KB")
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"{where} is not TOML: {error}") from error
        known = [entry.name for entry in dataclasses.fields(cls) if entry.name != "cell_settings"]
        for word in document:
            if word not in known:
                raise UsageError(f'{where} has an unknown entry "{plain(word)}"{hint(word, known)}')
        for word in ("kind", "recipe", "cells"):
            if word not in document:
                raise UsageError(f"{where} should say {word} = ...")
        for word in ("settings", "axes", "along", "variants", "space", "keys"):
            if not isinstance(document.get(word, {}), dict):
                raise UsageError(f"{where}: {word} should be a section, [{word}]")
        settings = document.pop("settings", {})
        own = {name: values for name, values in settings.items() if isinstance(values, dict)}
        space = {
            name: Dimension.from_table(table, f"{where}: space.{plain(name)}")
            for name, table in document.pop("space", {}).items()
        }
        return cls(
            **{name: _frozen(value) for name, value in document.items()},
            settings={name: value for name, value in settings.items() if name not in own},
            cell_settings=own,
            space=space,
        )


def _check(definition: Definition) -> None:
    where = f"the study {plain(definition.name)}"
    for name in ("kind", "recipe", "name", "sampler", "objective", "source", "note"):
        if not isinstance(getattr(definition, name), str):
            raise UsageError(f"{where}: {name} should be text")
    if not _NAME.fullmatch(definition.name):
        raise UsageError(f"{where}: its name should be of a-z, 0-9, ., _ and -, and begin with a letter or digit")
    for name, choices in (("kind", KINDS), ("sampler", SAMPLERS), ("objective", OBJECTIVES)):
        value = getattr(definition, name)
        if value not in choices:
            raise UsageError(
                f'{where}: there is no {name} "{plain(value)}"{hint(value, choices)}: {", ".join(choices)}'
            )
    _check_lists(definition, where)
    part = _PARTS.get(definition.kind)
    for other in ("space", "axes", "variants"):
        if getattr(definition, other) and other != part:
            raise UsageError(f'{where}: [{other}] has no meaning for kind = "{definition.kind}"')
    if part is not None and not getattr(definition, part):
        raise UsageError(f"{where} has an empty [{part}]: there is nothing for its runs to differ in")
    if definition.kind == "sweep" and len(definition.axes) != 1:
        raise UsageError(f"{where} is a sweep and should have one axis, it has {len(definition.axes)}")
    if definition.kind == "depth" and "depth" not in definition.axes:
        raise UsageError(f"{where} should have the axis depth")
    _check_along(definition, where)
    _check_budget(definition, where)


def _check_lists(definition: Definition, where: str) -> None:
    cells, seeds = definition.cells, definition.seeds
    if not isinstance(cells, tuple) or not cells or not all(isinstance(cell, str) for cell in cells):
        raise UsageError(f"{where}: cells should be a list of at least one cell")
    if not isinstance(seeds, tuple) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UsageError(f"{where}: seeds should be a list of at least one integer, 0 or more")
    listed: tuple[tuple[str, tuple[object, ...]], ...] = (("cells", definition.labels), ("seeds", seeds))
    for what, values in listed:
        if len(set(values)) < len(values):
            raise UsageError(f"{where}: {what} names one of them twice")
    for name, taken in definition.axes.items():
        if not isinstance(taken, tuple) or not taken:
            raise UsageError(f"{where}: the axis {plain(name)} should be a list of at least one value")
        if len(set(taken)) < len(taken):
            raise UsageError(f"{where}: the axis {plain(name)} has a value twice")
    for name, row in definition.variants.items():
        if not isinstance(row, Mapping):
            raise UsageError(f"{where}: the variant {plain(name)} should be a section of settings")
    for cell in (*definition.cell_settings, *definition.keys):
        if not isinstance(definition.keys.get(cell, {}), Mapping):
            raise UsageError(f"{where}: keys.{plain(cell)} should be a section")


def _check_along(definition: Definition, where: str) -> None:
    for axis, rows in definition.along.items():
        if axis not in definition.axes or not isinstance(rows, Mapping):
            raise UsageError(f"{where}: [along.{plain(axis)}] should go with an axis of that name")
        for name, values in rows.items():
            if not isinstance(values, tuple) or len(values) != len(definition.axes[axis]):
                raise UsageError(
                    f"{where}: along.{plain(axis)}.{plain(name)} should have {len(definition.axes[axis])} values,"
                    f" one for each of the axis"
                )


def _check_budget(definition: Definition, where: str) -> None:
    if definition.kind != "tpe":
        if definition.trials is not None:
            raise UsageError(f"{where}: trials is for a search; the runs of other studies are what they list")
        return
    trials = definition.trials
    if type(trials) is not int or not 1 <= trials <= MAX_RUNS:
        raise UsageError(f"{where}: trials should be at least 1 and at most {MAX_RUNS:,}, got {trials}")
    if len(definition.cells) > 1 or len(definition.seeds) > 1:
        raise UsageError(f"{where} is a search over one cell with one seed: make one study for each")
    if not definition.space_of(definition.labels[0]):
        raise UsageError(f"{where} has an empty space for the cell {definition.labels[0]}: there is nothing to search")


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value

"""The papers' tables and figures by their numbers: which studies stand behind each, whole or scaled down.

plan = plan_reproduction("figure-2", "small", cells=["rru"])
[(planned.name, planned.definition) for planned in plan.studies]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ungated.lab.errors import UsageError
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.packaged import load_definition
from ungated.lab.studies.spaces import Dimension
from ungated.lab.training.cell_options import cell_class
from ungated.lab.training.recipe_files import cells_of, recipe_names
from ungated.lab.training.settings import hint, plain

BUDGETS = ("small", "paper")

#: Entries of a budget that say how a study is scaled, by the kinds of study that have them.
_OF_KIND = {"trials": ("tpe",), "space": ("tpe",), "axes": ("grid", "sweep", "depth"), "along": ("depth", "grid")}


@dataclass(frozen=True)
class Planned:
    """One study of a reproduction. name: of its directory, and of its figures."""

    name: str
    title: str
    definition: Definition


@dataclass(frozen=True)
class Reproduction:
    """A table or figure to be made. remark: what all of it has to say of its budget. beside: a published table."""

    name: str
    title: str
    remark: str
    beside: str
    studies: Sequence[Planned]


def targets() -> list[str]:
    """The tables and figures, in the order of the papers."""
    return list(_catalogue())


def plan_reproduction(
    target: str,
    budget: str = "small",
    *,
    rows: Sequence[str] = (),
    cells: Sequence[str] = (),
    seeds: int | None = None,
) -> Reproduction:
    """The studies behind a table or figure. rows, cells: all that the budget has if none is named; seeds: 0, 1, ...

    Raises UsageError naming the nearest target, row, budget or cell.
    """
    entry = _entry("table or figure", target, _catalogue())
    if budget not in BUDGETS:
        raise UsageError(f'there is no budget "{plain(budget)}"{hint(budget, BUDGETS)}: {", ".join(BUDGETS)}')
    scale = entry.get(budget, {})
    known = entry["rows"]
    for row in rows:
        _entry(f"row of {target}", row, known)
    taken = list(rows) or scale.get("rows") or list(known)
    definitions = [
        (row, definition)
        for row in taken
        for definition in _definitions(row, known[row], entry, scale, tuple(cells), seeds)
    ]
    name = f"{target}-{budget}"
    planned = [
        Planned(_study_name(name, row, definition, len(definitions)), _title(entry, row, definition), definition)
        for row, definition in definitions
    ]
    return Reproduction(name, entry["title"], scale.get("remark", ""), entry.get("table", ""), planned)


def _definitions(
    row: str,
    study: str,
    entry: Mapping[str, Any],
    scale: Mapping[str, Any],
    cells: tuple[str, ...],
    seeds: int | None,
) -> list[Definition]:
    """The studies of one row: one, or one a cell where it is a search."""
    is_recipe = row in recipe_names() or bool(cells_of(row))
    base = load_definition(study, row if is_recipe else None)
    chosen = cells or tuple(scale.get("cells", entry["cells"]))
    for cell in chosen:
        cell_class(cell)
    changes: dict[str, Any] = {
        "settings": {**base.settings, **scale.get("settings", {})},
        "cell_settings": _merged(base.cell_settings, scale.get("cell_settings", {})),
    }
    given = {**{name: entry[name] for name in ("axes",) if name in entry}, **scale}
    if "axes" in scale:
        given["axes"] = {**scale["axes"], **entry.get("axes", {})}
    for name, kinds in _OF_KIND.items():
        if name in given and base.kind in kinds:
            changes[name] = _read(name, given[name], base)
    if base.kind == "tpe":
        if seeds not in (None, 1):
            raise UsageError(f"{row} is a search, which has one seed: leave --seeds out, or name other --rows")
        return [base.replace(cells=(cell,), **changes) for cell in chosen]
    listed = range(seeds) if seeds is not None else scale.get("seeds", entry.get("seeds", base.seeds))
    return [base.replace(cells=chosen, seeds=tuple(listed), **changes)]


def _read(name: str, value: Any, base: Definition) -> Any:
    """An entry of the catalogue as a definition has it; axes that it does not name stay as they are."""
    if name == "axes":
        return {**base.axes, **{axis: tuple(values) for axis, values in value.items()}}
    if name == "space":
        return {key: Dimension.from_table(table, f"space.{key}") for key, table in value.items()}
    return value


def _merged(one: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {**one.get(key, {}), **other.get(key, {})} for key in {**one, **other}}


def _study_name(name: str, row: str, definition: Definition, of: int) -> str:
    """The reproduction's own where it is one study."""
    if of == 1:
        return name
    return f"{name}-{row}-{definition.labels[0]}" if definition.kind == "tpe" else f"{name}-{row}"


def _title(entry: Mapping[str, Any], row: str, definition: Definition) -> str:
    words = [entry["title"]]
    if len(entry["rows"]) > 1:
        words.append(row)
    if definition.kind == "tpe":
        words.append(definition.labels[0])
    return ", ".join(words)


def _entry(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise UsageError(f'there is no {what} "{plain(name)}"{hint(name, known)}: {", ".join(known)}')
    return known[name]


@cache
def _catalogue() -> dict[str, Any]:
    text = (resources.files("ungated.lab.reproductions") / "catalogue.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)

"""Settings given on top of a recipe: `key=value` on the command line, or keys with typed values from a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ungated.lab.errors import RecipeError
from ungated.lab.training.optimizers import OPTIMIZERS
from ungated.lab.training.schema import Schema
from ungated.lab.training.settings import Unsuitable, convert, hint, parse, plain

MAX_LENGTH = 4096
_FIXED = {
    "cell": "choose the cell with --cell",
    "cell.name": "choose the cell with --cell",
    "dataset": "name another data set or recipe instead",
    "name": "a recipe's name is not a setting",
}


def split_overrides(overrides: Iterable[str] | Mapping[str, object]) -> list[tuple[str, object, bool]]:
    """(key as written, value, whether the value is text to be parsed) of each; RecipeError for what is no key=value."""
    if isinstance(overrides, Mapping):
        return [(key, value, False) for key, value in overrides.items()]
    if isinstance(overrides, str):
        overrides = [overrides]
    changes: list[tuple[str, object, bool]] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or len(text) > MAX_LENGTH:
            raise RecipeError(f'"{plain(text)}" is no setting: write key=value, as in learning_rate=1e-3')
        changes.append((key.strip(), value.strip(), True))
    return changes


def chosen_optimizer(named: object, changes: list[tuple[str, object, bool]], where: str) -> str:
    """The optimiser's name, after the changes."""
    for key, value, _ in changes:
        if key in ("optimizer", "optimizer.name"):
            named, where = value, "command line"
    if not isinstance(named, str) or named not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise RecipeError(f'{where}: there is no optimizer "{plain(named)}"{hint(str(named), OPTIMIZERS)}: {known}')
    return named


def apply_overrides(
    schema: Schema, values: dict[str, Any], origin: dict[str, str], changes: list[tuple[str, object, bool]]
) -> None:
    """Write the changes into `values` and `origin`; RecipeError for unknown or ambiguous keys and wrong types."""
    seen: set[str] = set()
    for written, value, is_text in changes:
        key = full_key(schema, written)
        if key in seen:
            raise RecipeError(f"{key} is given twice: give it once")
        seen.add(key)
        try:
            annotation = schema[key].annotation
            values[key] = parse(str(value), annotation) if is_text else convert(value, annotation)
        except Unsuitable as error:
            raise RecipeError(f"{key} {error}") from None
        origin[key] = "command line"
    _one_size(values, origin, seen)


def full_key(schema: Schema, written: str) -> str:
    """The key that is meant: as it is, or with the section that alone has it."""
    if written in _FIXED:
        raise RecipeError(f"{written} cannot be set: {_FIXED[written]}")
    if written == "optimizer":
        return "optimizer.name"
    if written in schema:
        return written
    keys = [key for key in schema if key.rpartition(".")[2] == written and key != "optimizer.name"]
    if len(keys) == 1:
        return keys[0]
    if keys:
        raise RecipeError(f"{written} could be {' or '.join(keys)}: write it out")
    short = {key.rpartition(".")[2]: key for key in schema}
    near = hint(written, schema) if "." in written else hint(written, short)
    raise RecipeError(f'there is no setting "{plain(written)}"{near}: `show` lists all of them')


def _one_size(values: dict[str, Any], origin: dict[str, str], seen: set[str]) -> None:
    """A size given replaces the recipe's size in the other form: a budget, or a hidden size."""
    budget, size = "model.parameters", "model.hidden_size"
    given = [key for key in (budget, size) if key in seen and values[key] is not None]
    if len(given) == 2:
        raise RecipeError("give either parameters (a budget) or hidden_size, not both")
    for key in given:
        other = size if key == budget else budget
        if values[other] is not None:
            values[other], origin[other] = None, "command line"

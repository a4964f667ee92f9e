"""A study with settings, axes, cells and seeds given on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ungated.lab.errors import RecipeError, UsageError
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.spaces import Value
from ungated.lab.training.overrides import full_key, split_overrides
from ungated.lab.training.recipe import Recipe, load_recipe
from ungated.lab.training.schema import Schema
from ungated.lab.training.settings import Unsuitable, parse, plain

_SIZES = {"model.parameters", "model.hidden_size"}


def changed(
    definition: Definition, words: Sequence[str], *, cells: Sequence[str] | None = None, seeds: int | None = None
) -> Definition:
    """The study with NAME=VALUE,VALUE,... for an axis and key=value for any other setting.

    Raises UsageError and RecipeError for what no recipe of the study knows.
    """
    if cells:
        definition = definition.replace(cells=tuple(cells))
    if seeds is not None:
        definition = definition.replace(seeds=tuple(range(seeds)))
    recipe = load_recipe(definition.recipe, definition.cells[0])
    label, axes, given = definition.labels[0], dict(definition.axes), []
    for word in words:
        name, text = split_overrides([word])[0][:2]
        axis = next(
            (axis for axis in axes if _keys(definition, recipe, label, name) & _keys(definition, recipe, label, axis)),
            None,
        )
        if axis is None:
            given.append(word)
        else:
            key = min(_keys(definition, recipe, label, axis))
            axes[axis] = _values(recipe, key, str(text))
    settings = _fixed(recipe, given)
    definition = definition.replace(
        settings={**_others(definition, recipe, settings), **settings},
        cell_settings={cell: _others(definition, recipe, settings, cell) for cell in definition.cell_settings},
        along=_along(definition, axes, sized=bool(settings.keys() & _SIZES)),
        axes=axes,
    )
    return definition


def searched(definition: Definition, words: Sequence[str]) -> Definition:
    """The search without what is given as key=value, which is then fixed."""
    recipe = load_recipe(definition.recipe, definition.cells[0])
    label = definition.labels[0]
    settings = _fixed(recipe, words)
    fixed = settings.keys() | (_SIZES if settings.keys() & _SIZES else set())
    space = {
        name: entry
        for name, entry in definition.space.items()
        if not (name in definition.space_of(label) and _keys(definition, recipe, label, name) & fixed)
    }
    return definition.replace(settings=settings, space=space)


def _fixed(recipe: Recipe, words: Sequence[str]) -> dict[str, Value]:
    """The settings by their full keys, with the values that the recipe makes of them."""
    if not words:
        return {}
    fixed = recipe.override(words)
    schema = _schema(recipe)
    named = {full_key(schema, name) for name, _, _ in split_overrides(words)}
    values = fixed.values()
    return {key: "none" if values[key] is None else values[key] for key in values if key in named}


def _keys(definition: Definition, recipe: Recipe, label: str, name: str) -> set[str]:
    """The full keys that a name means for a cell; none where it has no such setting."""
    try:
        return {full_key(_schema(recipe), key) for key in definition.keys_for(label, name)}
    except RecipeError:
        return set()


def _others(
    definition: Definition, recipe: Recipe, settings: dict[str, Value], cell: str | None = None
) -> dict[str, Value]:
    """The study's own settings, of all cells or one, but for those that are given anew."""
    label = definition.labels[0]
    own = definition.settings if cell is None else definition.cell_settings[cell]
    taken = settings.keys() | (_SIZES if settings.keys() & _SIZES else set())
    return {name: value for name, value in own.items() if not _keys(definition, recipe, label, name) & taken}


def _along(definition: Definition, axes: dict[str, Any], *, sized: bool) -> dict[str, Any]:
    """What goes along with the values of an axis that are kept; a size given for all takes the place of theirs."""
    found: dict[str, Any] = {}
    for axis, rows in definition.along.items():
        before = definition.axes[axis]
        kept = {name: values for name, values in rows.items() if not (sized and f"model.{name}" in _SIZES)}
        if new := [value for value in axes[axis] if value not in before] if kept else []:
            raise UsageError(f"the study has no {' and '.join(kept)} for {axis}={new[0]}: give parameters= for all")
        if kept:
            found[axis] = {
                name: tuple(values[before.index(value)] for value in axes[axis]) for name, values in kept.items()
            }
    return found


def _values(recipe: Recipe, key: str, text: str) -> tuple[Value, ...]:
    annotation = _schema(recipe)[key].annotation
    try:
        return tuple(parse(item.strip(), annotation) for item in text.strip("[] ").split(",") if item.strip())
    except Unsuitable as error:
        raise RecipeError(f"{plain(key)} {error}") from None


def _schema(recipe: Recipe) -> Schema:
    return Schema(recipe.data_set, recipe.cell_class, recipe.optimizer.name)

"""show: every setting of a recipe, and where each value comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from ungated.lab.commands.options import AsJson, CellName, Csv, DataDir, Debug, Midi, Text, Words, name_and_settings
from ungated.lab.commands.output import note, published_line, say, say_json, say_table
from ungated.lab.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ungated.lab.training.recipe import Recipe


def show(
    words: Words = None,
    cell: CellName = None,
    text: Text = None,
    midi: Midi = None,
    csv: Csv = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show the resolved recipe: every setting, where its value comes from, hidden size and parameters.

    Without a name: all recipes.
    """
    from ungated.lab.training.recipe import load_recipe

    name, settings = name_and_settings(words, text=text, midi=midi, csv=csv)
    if name is None:
        if cell is not None or settings:
            raise UsageError("say which data set or recipe to show, as in `ungated show jsb --cell rru`")
        _list(as_json)
        return
    recipe = load_recipe(name, cell, settings)
    hidden_size, parameters = _size(recipe, data_dir)
    values = recipe.values()
    if as_json:
        say_json(
            {
                "recipe": recipe.name,
                "dataset": recipe.dataset,
                "cell": recipe.cell,
                "protocol": recipe.protocol,
                "hidden_size": hidden_size,
                "parameters": parameters,
                "published": None if recipe.published is None else asdict(recipe.published),
                "settings": values,
                "origin": {key: recipe.origin[key] for key in values},
            }
        )
        return
    from ungated.lab.reports.tables import Table
    from ungated.lab.training.settings import shown

    say(f"{recipe.name}: hidden size {_number(hidden_size)}, {_number(parameters)} parameters")
    if recipe.published is not None:
        say(published_line(asdict(recipe.published)))
    say()
    sources: dict[str, int] = {}  # a recipe has few, each a long line: they are numbered, and follow the table
    rows = []
    for key, value in values.items():
        kind, _, source = recipe.origin[key].partition(": ")
        origin = f"{kind} [{sources.setdefault(source, len(sources) + 1)}]" if source else kind
        rows.append([key, shown(value), origin])
    say_table(Table(["setting", "value", "from"], rows, left=("value", "from")))
    say()
    for source, number in sources.items():
        say(f"[{number}] {source}")


def _size(recipe: Recipe, data_dir: Path | None) -> tuple[int | None, int | None]:
    """Hidden size and parameters; what cannot be said without the data is None, and nothing is downloaded for it."""
    from ungated.lab.training.build import build_task, model_size

    try:
        data = recipe.data_set.load(data_dir, recipe.data, download=False)
        return model_size(recipe, build_task(recipe, data=data))
    except DataError as error:
        note(f"the size of the model depends on the data: {error}")
        return recipe.model.hidden_size, None


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _list(as_json: bool) -> None:
    from ungated.lab.training.recipe import recipe_names

    names = recipe_names()
    if as_json:
        say_json(names)
        return
    cells: dict[str, list[str]] = {}
    for name in names:
        dataset, _, cell = name.partition("/")
        cells.setdefault(dataset, []).extend([cell] if cell else [])
    width = max(map(len, cells), default=0)
    for dataset, found in cells.items():
        say(f"{dataset.ljust(width)}  {f'--cell {chr(124).join(found)}' if found else ''}".rstrip())

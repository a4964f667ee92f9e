"""A recipe: every setting of one training run, typed, with where each value comes from.

    recipe = load_recipe("jsb", "rru", ["learning_rate=1e-3", "model.parameters=2M"])
    recipe.optimizer.learning_rate, recipe.cell_options, recipe.origin["model.parameters"]
    Recipe.from_toml(recipe.to_toml()) == recipe

A recipe file is complete and flat: the sections of `Recipe` and nothing deeper, values in place, no inheritance.
It chooses data set, cell, task and optimiser by name; it is data and never names code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tomli_w

from ungated.cells import CELLS
from ungated.cells.cell import Cell
from ungated.lab.errors import RecipeError
from ungated.lab.training import recipe_files
from ungated.lab.training.cell_options import cell_class, cell_label, cell_location, check_options, is_own_cell
from ungated.lab.training.optimizers import OptimizerSettings
from ungated.lab.training.overrides import apply_overrides, chosen_optimizer, split_overrides
from ungated.lab.training.recipe_files import cells_of, recipe_names
from ungated.lab.training.schema import SECTIONS, Schema, data_set_named, whole_path
from ungated.lab.training.sections import ModelSettings, Protocol, Published, Training
from ungated.lab.training.settings import plain

if TYPE_CHECKING:
    from ungated.lab.data.dataset import DataSet

__all__ = ["COMMAND_LINE", "DEFAULT", "Recipe", "cells_of", "load_recipe", "recipe_names"]

COMMAND_LINE = "command line"
DEFAULT = "default"
OURS = "recipe: "

Overrides = Iterable[str] | Mapping[str, object]


@dataclass(eq=False)
class Recipe:
    """All settings of a run. `origin[key]` is "default", "recipe: <source>" or "command line", key = "section.name".

    name: "jsb/rru", "ptb_sota". dataset: the name of `data_set`, which loads the data. cell: a name of CELLS, or the
    label of the user's own `cell_class`. Names are fit for paths.
    model, head: the two halves of [model], every task's and this task's own. cell_options: keyword arguments of
    the cell's constructor. data, task: the Options of the data set, the Settings of the task.
    """

    name: str
    dataset: str
    cell: str
    protocol: Protocol
    data: Any
    model: ModelSettings
    head: Any
    cell_options: dict[str, Any]
    task: Any
    optimizer: OptimizerSettings
    training: Training
    published: Published | None = None
    origin: dict[str, str] = field(default_factory=dict)
    cell_class: type[Cell] = field(default=Cell, repr=False)
    own_cell: str | None = None  # FILE.py:Class, where it came from a file
    own_data: str | None = None  # text:FILE, midi:FOLDER or csv:FILE with the whole path
    data_set: DataSet = field(kw_only=True, repr=False)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, origins included, and have the same cell."""
        if not isinstance(other, Recipe):
            return NotImplemented
        return self.cell_class is other.cell_class and self.to_toml() == other.to_toml()

    __hash__ = None  # type: ignore[assignment]

    @property
    def kind(self) -> str:
        """The kind of the data set, a key of TASKS."""
        return self.data_set.kind

    @property
    def overridden(self) -> list[str]:
        """Keys whose value comes from the command line."""
        return [key for key, origin in self.origin.items() if origin == COMMAND_LINE]

    def values(self) -> dict[str, Any]:
        """Every setting by its key, protocol, data.*, model.*, cell.*, ..., in the order of the file."""
        owners = {"data": (self.data,), "model": (self.model, self.head), "task": (self.task,)}
        owners |= {"optimizer": (self.optimizer,), "training": (self.training,)}
        values: dict[str, Any] = {}
        for key in Schema(self.data_set, self.cell_class, self.optimizer.name):
            section, _, name = key.rpartition(".")
            if section in owners:
                values[key] = next(getattr(owner, name) for owner in owners[section] if hasattr(owner, name))
            else:
                values[key] = self.cell_options[name] if section == "cell" else self.protocol
        return values

    def to_toml(self) -> str:
        """The recipe as a file, defaults written out; `from_toml` gives an equal recipe, origins included."""
        document: dict[str, Any] = {"name": self.name, "dataset": self.own_data or self.dataset}
        document["protocol"] = self.protocol
        if self.published is not None:
            document["published"] = {k: v for k, v in dataclasses.asdict(self.published).items() if v is not None}
        document |= {section: {} for section in SECTIONS}
        document["cell"]["name"] = self.cell
        schema = Schema(self.data_set, self.cell_class, self.optimizer.name)
        for key, value in self.values().items():
            section, _, name = key.rpartition(".")
            if section and (value is not None or schema[key].default is not None):
                document[section][name] = "none" if value is None else value
        recipe_sources = [origin for origin in self.origin.values() if origin.startswith(OURS)]
        common = max(recipe_sources, key=recipe_sources.count, default=f"{OURS}{self.name}")
        document["source"] = {"recipe": common.removeprefix(OURS)}
        if self.own_cell is not None:
            document["source"]["cell.name"] = self.own_cell
        for key, origin in self.origin.items():
            if origin != common:
                document["source"][key] = origin.removeprefix(OURS)
        return tomli_w.dumps(document)

    @classmethod
    def from_toml(cls, text: str, *, cell: str | type[Cell] | None = None, where: str = "recipe.toml") -> Recipe:
        """Read a recipe. One made for a cell of one's own needs it as `cell`: a file never chooses code.

        Raises RecipeError.
        """
        return _assemble(recipe_files.parse_document(text, where), where, cell)

    def override(self, overrides: Overrides) -> Recipe:
        """A new recipe with settings changed: "key=value" texts, or keys with typed values. Raises RecipeError."""
        cell = None if self.cell in CELLS else self.own_cell or self.cell_class
        return _assemble(recipe_files.parse_document(self.to_toml(), self.name), self.name, cell, overrides)


def load_recipe(name: str, cell: str | type[Cell] | None = None, overrides: Overrides = ()) -> Recipe:
    """The recipe of a data set and cell ("jsb", "rru"), a named one ("ptb_sota"), or of a file ("mine.toml").

    Data of one's own are named text:FILE, midi:FOLDER or csv:FILE and take our settings for their kind. A cell of
    one's own (FILE.py:Class, or the class) takes the settings that the GRU has, with [cell] as its constructor's
    defaults are. Raises RecipeError, UsageError, DataMissingError.
    """
    own_cell = cell is not None and is_own_cell(cell)
    if isinstance(cell, str):
        cell_class(cell)  # a misspelt cell is said to be one, whatever the data set
    own_data = data_set_named(whole_path(name)) if ":" in name else None
    folder = name if own_data is None else f"own-{name.partition(':')[0]}"
    found = recipe_files.find(folder, "gru" if own_cell else cell if isinstance(cell, str) else None)
    document = {"name": found.name} | recipe_files.parse_document(found.text, found.where)
    if own_data is not None:
        document["dataset"] = whole_path(name)
        document["name"] = f"{own_data.name}/{found.name.partition('/')[2]}"
    if own_cell and cell is not None:
        document["name"] = f"{document['name'].partition('/')[0]}/{cell_label(cell)}"
        document["cell"] = {"name": cell_label(cell)}
        document["source"] = _without(document, "cell.")
        document.pop("published", None)
    return _assemble(document, found.where, cell, overrides)


def _assemble(document: dict[str, Any], where: str, cell: str | type[Cell] | None, overrides: Overrides = ()) -> Recipe:
    """The recipe that a document, checked to be flat, and the overrides say."""
    for word in ("dataset", "protocol"):
        if word not in document:
            raise RecipeError(f'{where} should say {word} = "..."')
    name = document.get("name", where.removesuffix(".toml"))
    recipe_files.check_name(name, where)
    data_set = data_set_named(document["dataset"], where)
    changes = split_overrides(overrides)
    cls, label, location = _cell_of(document, where, cell)
    named = document.get("optimizer", {}).get("name", "rectified-laprop")
    optimizer = chosen_optimizer(named, changes, where)
    if optimizer != named:  # another optimiser starts from its own defaults
        document["optimizer"] = {}
        document["source"] = _without(document, "optimizer.")
    schema = Schema(data_set, cls, optimizer)
    values, origin = schema.read(document, where)
    apply_overrides(schema, values, origin, changes)
    parts = schema.build(values, where)
    check_options(cls, parts["cell_options"])
    published = schema.published(document, where)
    return Recipe(
        name=name,
        dataset=data_set.name,
        data_set=data_set,
        own_data=document["dataset"] if ":" in document["dataset"] else None,
        cell=label,
        published=published,
        origin=origin,
        cell_class=cls,
        own_cell=location,
        **parts,
    )


def _without(document: dict[str, Any], section: str) -> dict[str, Any]:
    return {key: text for key, text in document.get("source", {}).items() if not key.startswith(section)}


def _cell_of(document: dict[str, Any], where: str, cell: str | type[Cell] | None) -> tuple[type[Cell], str, str | None]:
    """The class, the label and FILE.py:Class of the recipe's cell."""
    named = document.get("cell", {}).get("name")
    if not isinstance(named, str):
        raise RecipeError(f'{where} should name its cell: [cell] with name = "..."')
    if cell is None and named not in CELLS:
        file = document.get("source", {}).get("cell.name")
        again = f"--cell {file}" if isinstance(file, str) else "--cell FILE.py:Class"
        raise RecipeError(f'{where} is for a cell that is not ours, "{plain(named)}": give it with {again}')
    chosen = named if cell is None else cell
    if cell_label(chosen) != named:
        raise RecipeError(f"{where} is a recipe for the cell {named}, not {cell_label(chosen)}")
    return cell_class(chosen), named, cell_location(chosen)

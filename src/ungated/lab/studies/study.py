"""A study that is ready to run: its directory, its definition, and the recipe of each cell, checked with the data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ungated.lab.errors import RecipeError, StudyError
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.directory import StudyDirectory
from ungated.lab.studies.points import Point, fixed_settings, points, settings_of
from ungated.lab.tasks import TASKS
from ungated.lab.tasks.task import Task
from ungated.lab.training.build import build_task, model_size
from ungated.lab.training.cell_options import is_own_cell
from ungated.lab.training.checkpoint import differing
from ungated.lab.training.recipe import Recipe, load_recipe
from ungated.lab.training.settings import plain


@dataclass(frozen=True)
class Study:
    """recipes: by the label of each cell, with the study's fixed settings in them."""

    directory: StudyDirectory
    definition: Definition
    recipes: Mapping[str, Recipe]

    @cached_property
    def points(self) -> list[Point]:
        """Its runs, by number."""
        return points(self.definition)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger metric is better."""
        return bool(TASKS[next(iter(self.recipes.values())).kind].higher_is_better)

    def objective_value(self, result: Mapping[str, Any]) -> float | None:
        """What a search minimises of a finished run; None where nothing could be measured."""
        if result["metrics"] is None:
            return None
        value = result["metrics"][result["trained_under"]][self.definition.objective][result["metric"]]
        if value is None:
            return None
        return -float(value) if self.higher_is_better else float(value)

    @property
    def identity(self) -> str:
        """The name by which a storage knows it: equal for equal definitions and recipes, on whatever machine."""
        recipes = {label: recipe.values() for label, recipe in self.recipes.items()}
        said = self.definition.to_toml() + json.dumps(recipes, sort_keys=True, default=str)
        return f"{self.definition.name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"

    def recipe(self, point: Point) -> Recipe:
        """The recipe of one run. Raises RecipeError where its settings do not go together."""
        return with_settings(self.recipes[point.cell], settings_of(self.definition, point))

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """What the study has set of a run's recipe, by full keys."""
        values = recipe.values()
        return {key: values[key] for key in recipe.overridden}


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with settings changed; what is published for it is not published for others."""
    if not settings:
        return recipe
    return dataclasses.replace(recipe.override(settings), published=None)


def prepare_study(path: str | Path, definition: Definition, *, data_dir: str | Path | None = None) -> Study:
    """The study as it would be in a directory, checked; nothing is written, and an equal one there is opened.

    Raises UsageError and RecipeError (the definition), StudyError (the directory, or another study in it), DataError.
    """
    directory = StudyDirectory(path)
    directory.check_place()
    recipes = {
        label: with_settings(load_recipe(definition.recipe, cell), fixed_settings(definition, label))
        for label, cell in zip(definition.labels, definition.cells, strict=True)
    }
    study = Study(directory, definition, recipes)
    if directory.exists:
        there = open_study(path)
        if there.identity != study.identity:
            raise StudyError(f"{path} holds another study ({_difference(there, study)}): choose another directory")
        return there
    check_study(study, data_dir)
    return study


def create_study(path: str | Path, definition: Definition, *, data_dir: str | Path | None = None) -> Study:
    """Begin a study in a new or empty directory, or open the equal one that lies there. Raises as `prepare_study`."""
    study = prepare_study(path, definition, data_dir=data_dir)
    if not study.directory.exists:
        study.directory.create(definition, {label: recipe.to_toml() for label, recipe in study.recipes.items()})
    return study


def open_study(path: str | Path) -> Study:
    """The study that lies in a directory. Raises StudyError, RecipeError."""
    directory = StudyDirectory(path)
    definition = directory.read_definition()
    cells = dict(zip(definition.labels, definition.cells, strict=True))
    recipes = {
        label: Recipe.from_toml(text, cell=_own(cells[label]), where=f"{path}/recipes/{label}.toml")
        for label, text in directory.read_recipes(definition).items()
    }
    return Study(directory, definition, recipes)


class Checker:
    """Tasks and model sizes of recipes; each data set is loaded once, each size found once."""

    def __init__(self, data_dir: str | Path | None = None) -> None:
        self._data_dir = data_dir
        self._tasks: dict[str, Task] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def task(self, recipe: Recipe) -> Task:
        """The recipe's task on its data. Raises RecipeError, DataError."""
        key = repr((recipe.own_data or recipe.dataset, recipe.data, recipe.task, recipe.training.batch_size))
        key += recipe.protocol
        if key not in self._tasks:
            self._tasks[key] = build_task(recipe, self._data_dir)
        return self._tasks[key]

    def size(self, recipe: Recipe) -> tuple[int, int]:
        """Hidden size and parameters. Raises RecipeError, DataError."""
        task = self.task(recipe)
        shape = {name: value for name, value in recipe.cell_options.items() if not name.endswith("dropout")}
        key = repr((recipe.cell, recipe.model, recipe.head, shape))
        if key not in self._sizes:
            self._sizes[key] = model_size(recipe, task)
        return self._sizes[key]


def check_study(study: Study, data_dir: str | Path | None = None) -> None:
    """Raise RecipeError or DataError for what no run could do: settings that do not exist, data, sizes.

    Every run that is known is checked; of a search, the two ends of its space.
    """
    checker = Checker(data_dir)
    for point in examples(study):
        try:
            checker.size(study.recipe(point))
        except RecipeError as error:
            raise RecipeError(f"the study {study.definition.name}: {error}") from error


def examples(study: Study) -> list[Point]:
    """Points that stand for all: every run that is known, or the two ends of a search's space."""
    definition = study.definition
    if definition.kind != "tpe":
        return study.points
    cell = definition.labels[0]
    corners = {name: entry.corners() for name, entry in definition.space_of(cell).items()}
    return [Point(0, cell, None, {name: ends[i] for name, ends in corners.items()}) for i in (0, 1)]


def _own(cell: str) -> str | None:
    return cell if is_own_cell(cell) else None


def _difference(there: Study, here: Study) -> str:
    for entry in dataclasses.fields(Definition):
        before, now = getattr(there.definition, entry.name), getattr(here.definition, entry.name)
        if before != now:
            return f"its {entry.name} is {_short(before)}, not {_short(now)}"
    for label, recipe in there.recipes.items():
        if different := differing(recipe.values(), here.recipes[label].values()):
            return f"its recipe for {label}: {different}"
    return "of other recipes"


def _short(value: object) -> str:
    return plain(dict(value) if isinstance(value, Mapping) else value)

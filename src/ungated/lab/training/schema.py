"""Which settings a recipe has, given its data set, cell and optimiser: key -> type and default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ungated.cells.cell import Cell
from ungated.lab.errors import LabError, RecipeError
from ungated.lab.training.cell_options import constructor_options
from ungated.lab.training.optimizers import OPTIMIZERS
from ungated.lab.training.sections import ModelSettings, Protocol, Published, Training
from ungated.lab.training.settings import Unsuitable, convert, hint, hints_of, plain

if TYPE_CHECKING:
    from ungated.lab.data.dataset import DataSet
    from ungated.lab.tasks.task import Task

SECTIONS = ("data", "model", "cell", "task", "optimizer", "training")
REQUIRED = dataclasses.MISSING


class Setting(NamedTuple):
    """Type and default (REQUIRED where there is none) of one setting."""

    annotation: Any
    default: Any


def data_set_named(name: str, where: str | None = None) -> DataSet:
    """The data set, ours by its name or the user's own as text:FILE, midi:FOLDER, csv:FILE.

    Raises RecipeError with the nearest name for an unknown one, DataMissingError for a path that is not there.
    """
    from ungated.lab.data import DATASETS
    from ungated.lab.data.own import own_data

    if ":" in name:
        return own_data(name)
    if name not in DATASETS:
        place = f"{where}: " if where else ""
        raise RecipeError(f'{place}there is no data set "{plain(name)}"{hint(name, DATASETS)}: {", ".join(DATASETS)}')
    return DATASETS[name]


def whole_path(name: str) -> str:
    """KIND:PATH of one's own data with the path made absolute, so that it means the same from any directory."""
    kind, _, path = name.partition(":")
    return f"{kind}:{Path(path).expanduser().absolute()}" if path else name


def task_of(data_set: DataSet) -> type[Task]:
    """The task for the data set's kind."""
    from ungated.lab.tasks import TASKS

    return TASKS[data_set.kind]


class Schema(Mapping[str, Setting]):
    """Settings by key, "protocol" first, then "section.name" in the order of a file."""

    def __init__(self, data_set: DataSet, cell: type[Cell], optimizer: str) -> None:
        task = task_of(data_set)
        self._cell = cell
        self._owners: dict[str, tuple[type, ...]] = {
            "data": (data_set.Options,),
            "model": (ModelSettings, task.Model),
            "task": (task.Settings,),
            "optimizer": (OPTIMIZERS[optimizer].Settings,),
            "training": (Training,),
        }
        self._settings = {"protocol": Setting(Protocol, REQUIRED)}
        for section in SECTIONS:
            if section == "cell":
                for name, (annotation, default) in constructor_options(cell).items():
                    self._settings[f"cell.{name}"] = Setting(annotation, default)
                continue
            for owner in self._owners[section]:
                for name, setting in _fields(owner).items():
                    self._settings[f"{section}.{name}"] = setting

    def __getitem__(self, key: str) -> Setting:
        return self._settings[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def read(self, document: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, str]]:
        """(values, origins) of every setting from a document; RecipeError for unknown keys and wrong types."""
        given = {"protocol": document["protocol"]}
        for section in SECTIONS:
            given |= {f"{section}.{name}": value for name, value in document.get(section, {}).items()}
        given.pop("cell.name", None)
        source = dict(document.get("source", {}))
        for key, text in source.items():
            if key not in self and key not in ("recipe", "cell.name"):
                raise RecipeError(f"{where} has a source for an unknown setting, {plain(key)}{hint(key, self)}")
            if not isinstance(text, str):
                raise RecipeError(f"{where}: the source of {key} should be text")
        common = source.get("recipe", where)
        values: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for key, value in given.items():
            if key not in self:
                raise RecipeError(f"{where} has an unknown setting, {plain(key)}{hint(key, self)}")
            try:
                values[key] = convert(value, self[key].annotation)
            except Unsuitable as error:
                raise RecipeError(f"{where}: {key} {error}") from None
        for key, setting in self.items():
            said = source.get(key, common)
            if key not in values:
                if setting.default is REQUIRED:
                    raise RecipeError(f"{where} should set {key}: it has no default")
                values[key] = setting.default
                said = source.get(key, "default")
            origin[key] = said if said in ("default", "command line") else f"recipe: {said}"
        return {key: values[key] for key in self}, origin

    def build(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The section objects by the field names of `Recipe`; RecipeError where one refuses its values."""
        parts: dict[str, Any] = {"protocol": values["protocol"]}
        names = {"data": ("data",), "model": ("model", "head"), "task": ("task",)}
        names |= {"optimizer": ("optimizer",), "training": ("training",)}
        for section, owners in self._owners.items():
            for name, owner in zip(names[section], owners, strict=True):
                arguments = {field: values[f"{section}.{field}"] for field in _fields(owner)}
                try:
                    parts[name] = owner(**arguments)
                except (ValueError, TypeError, LabError) as error:
                    raise RecipeError(f"{where}: [{section}] {error}") from error
        parts["cell_options"] = {name: values[f"cell.{name}"] for name in constructor_options(self._cell)}
        return parts

    def published(self, document: Mapping[str, Any], where: str) -> Published | None:
        """The [published] section, if there is one."""
        if "published" not in document:
            return None
        given, settings = document["published"], _fields(Published)
        for name in given:
            if name not in settings:
                raise RecipeError(f"{where} has an unknown setting, published.{plain(name)}{hint(name, settings)}")
        try:
            return Published(**{name: convert(value, settings[name].annotation) for name, value in given.items()})
        except Unsuitable as error:
            raise RecipeError(f"{where}: a value of [published] {error}") from None
        except TypeError:
            needed = ", ".join(name for name, setting in settings.items() if setting.default is REQUIRED)
            raise RecipeError(f"{where}: [published] should give {needed}") from None


def _fields(owner: type) -> dict[str, Setting]:
    """The settings that a dataclass declares; a field whose metadata lists "choices" takes one of those."""
    hints, settings = hints_of(owner), {}
    for field in dataclasses.fields(owner):
        if not field.init:
            continue
        choices = field.metadata.get("choices")
        annotation = Literal[tuple(choices)] if choices else hints[field.name]
        default = field.default if field.default_factory is REQUIRED else field.default_factory()
        settings[field.name] = Setting(annotation, default)
    return settings

"""Where recipes are kept, and how a file becomes a document: by name from our own list, or from the user's path."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

from ungated.lab.errors import RecipeError
from ungated.lab.training.settings import hint, plain

MAX_BYTES = 64 * 1024  # ours have 2 KB
TABLES = ("published", "data", "model", "cell", "task", "optimizer", "training", "source")
WORDS = ("name", "dataset", "protocol")


_OWN_DATA = "own-"  # settings for data of one's own, text:FILE and the like: no recipes by themselves
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?")


class Found(NamedTuple):
    """A recipe's text, its name ("jsb/rru", "ptb_sota"), and the words by which errors call it."""

    name: str
    text: str
    where: str


def recipe_names() -> list[str]:
    """All recipes of the package: "adding/gru", ..., "ptb_sota", ... in alphabetical order."""
    return [name for name in _names() if not name.startswith(_OWN_DATA)]


def cells_of(name: str) -> list[str]:
    """The cells that a data set or family of recipes has recipes for; none for another name."""
    return [cell for folder, _, cell in (entry.partition("/") for entry in _names()) if cell and folder == name]


def find(name: str, cell: str | None) -> Found:
    """The recipe `name`, of `cell` where there is one for each; or the user's own file NAME.toml. RecipeError else."""
    if name.endswith(".toml"):
        return Found(Path(name).stem, _read(Path(name)), name)
    names = _names()
    folder, _, inner = name.partition("/")
    if inner:
        if cells_of(folder) and cell is not None and cell != inner:
            raise RecipeError(f"{name} is a recipe for {inner}, and the cell asked for is {cell}: give one of them")
        cell = inner
    elif name in names:
        return _packaged(name)
    # Only names of our own list become paths.
    if f"{folder}/{cell}" in names:
        return _packaged(f"{folder}/{cell}")
    cells = cells_of(folder)
    if cells and cell is None:
        raise RecipeError(f"{folder} has a recipe for each cell: choose one of {', '.join(cells)}")
    if cells:
        raise RecipeError(f'{folder} has no recipe for "{cell}": choose one of {", ".join(cells)}')
    known = sorted({entry.partition("/")[0] for entry in recipe_names()})
    raise RecipeError(f'there is no data set or recipe "{plain(name)}"{hint(name, known)}: {", ".join(known)}')


def check_name(name: str, where: str) -> None:
    """Raise RecipeError for a name that could not be a path of one or two parts."""
    if not _NAME.fullmatch(name) or len(name) > 200:
        raise RecipeError(
            f"{where}: the name {plain(name)} should be of a-z, 0-9, ., _ and -, and begin with a letter or digit"
        )


def parse_document(text: str, where: str) -> dict[str, Any]:
    """The tables of a recipe: known ones, and flat. Raises RecipeError."""
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{where} is no recipe: it is longer than {MAX_BYTES // 1024} KB")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where} is not TOML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{where} is no recipe: it is nested too deeply") from error
    for key, value in document.items():
        if key not in (*WORDS, *TABLES):
            raise RecipeError(f'{where} has an unknown entry "{plain(key)}"{hint(key, (*WORDS, *TABLES))}')
        if key in WORDS and not isinstance(value, str):
            raise RecipeError(f"{where}: {key} should be text")
        if key in TABLES and not isinstance(value, dict):
            raise RecipeError(f"{where}: {key} should be a section, [{key}]")
        if key in TABLES:
            for name, entry in value.items():
                if isinstance(entry, dict) or (
                    isinstance(entry, list) and any(isinstance(item, (dict, list)) for item in entry)
                ):
                    raise RecipeError(f"{where}: {key}.{plain(name)} is nested; a recipe is flat")
    return document


def _names() -> list[str]:
    names: list[str] = []
    for entry in _folder().iterdir():
        if entry.is_dir():
            names.extend(f"{entry.name}/{_stem(file)}" for file in entry.iterdir() if file.name.endswith(".toml"))
        elif entry.name.endswith(".toml"):
            names.append(_stem(entry))
    return sorted(names)


def _folder() -> Traversable:
    return resources.files("ungated.lab") / "recipes"


def _stem(file: Traversable) -> str:
    return file.name.removesuffix(".toml")


def _packaged(name: str) -> Found:
    folder, _, file = name.rpartition("/")
    place = _folder() / folder if folder else _folder()
    return Found(name, (place / f"{file}.toml").read_text(encoding="utf-8"), name)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is no recipe: it is not UTF-8 text") from error

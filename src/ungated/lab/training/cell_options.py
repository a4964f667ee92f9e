"""The cell of a recipe: ours by name or the user's own, and what its constructor lets a recipe set."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import torch

from ungated.cells import CELLS
from ungated.cells.cell import Cell
from ungated.lab.errors import RecipeError
from ungated.lab.training.settings import hint, hints_of, plain, supported

LARGEST_COUNT = 10_000

#: Arguments that are not settings of an experiment: torch's, and the key by which [cell] names the cell.
_NOT_SETTINGS = ("device", "dtype", "name")
_OWN = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")


def is_own_cell(cell: object) -> bool:
    """Whether `cell` is a class, or says FILE.py:Class, and not one of our names."""
    return isinstance(cell, type) or (isinstance(cell, str) and _OWN.fullmatch(cell) is not None)


def cell_class(cell: str | type[Cell]) -> type[Cell]:
    """The class of a name of CELLS, of FILE.py:Class (whose file is run), or of a class itself; RecipeError else."""
    if isinstance(cell, type):
        if not issubclass(cell, Cell):
            raise RecipeError(f"{cell.__name__} is no cell: it should be a subclass of ungated.Cell")
        return cell
    if cell in CELLS:
        return CELLS[cell]
    match = _OWN.fullmatch(cell)
    if match is None:
        raise RecipeError(
            f'there is no cell "{plain(cell)}"{hint(cell, CELLS)}: '
            f"choose from {', '.join(CELLS)}, or give your own as FILE.py:Class"
        )
    return _load(Path(match["file"]), match["name"])


def cell_label(cell: str | type[Cell]) -> str:
    """A short name, fit for a path: "rru", or the lower-case class name of one's own cell."""
    if isinstance(cell, str) and cell in CELLS:
        return cell
    name = cell.__name__ if isinstance(cell, type) else cell.rpartition(":")[2]
    label = re.sub(r"[^a-z0-9._-]", "-", name.lower()).lstrip("._-") or "cell"
    return f"own-{label}" if label in CELLS else label


def cell_location(cell: str | type[Cell]) -> str | None:
    """FILE.py:Class with the whole path, for a cell that came from a file; None else."""
    match = _OWN.fullmatch(cell) if isinstance(cell, str) else None
    return f"{Path(match['file']).expanduser().resolve()}:{match['name']}" if match else None


def constructor_options(cls: type[Cell]) -> dict[str, tuple[Any, Any]]:
    """What may be set beyond the sizes: name -> (type, default), dataclasses.MISSING where there is no default.

    Raises RecipeError for an argument without default whose type no recipe can give.
    """
    options: dict[str, tuple[Any, Any]] = {}
    hints = hints_of(cls.__init__)
    parameters = list(inspect.signature(cls).parameters.values())
    for position, parameter in enumerate(parameters):
        if position < 2 and parameter.name in ("input_size", "hidden_size"):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = MISSING if parameter.default is parameter.empty else parameter.default
        settable = parameter.kind is not parameter.POSITIONAL_ONLY and parameter.name not in _NOT_SETTINGS
        annotation = hints.get(parameter.name, Any)
        if annotation is Any and isinstance(default, (bool, int, float, str)):
            annotation = type(default)
        if settable and supported(annotation):
            options[parameter.name] = (annotation, default)
        elif default is MISSING:
            raise RecipeError(f"{cls.__name__} takes {parameter.name}, which a recipe cannot give: give it a default")
    return options


def check_options(cls: type[Cell], options: dict[str, Any]) -> None:
    """Build the cell once without memory; RecipeError with its own words if it refuses the options."""
    if cls in CELLS.values():  # whose whole numbers are counts of layers, rounds or units
        for name, value in options.items():
            if isinstance(value, int) and value > LARGEST_COUNT:
                raise RecipeError(f"cell.{name} should be at most {LARGEST_COUNT:,}, got {value:,}")
    try:
        with torch.device("meta"):
            cls(1024, 1024, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise RecipeError(f"[cell] {cls.__name__} refuses its settings: {reason}") from error


def _load(file: Path, name: str) -> type[Cell]:
    path = file.expanduser().resolve()
    if not path.is_file():
        raise RecipeError(f"there is no file {file} to take the cell {name} from")
    # One module a file, so that a class stays the same class however often it is asked for.
    module_name = f"ungated_own_cell_{re.sub(r'[^A-Za-z0-9_]', '_', str(path))}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise RecipeError(f"{file} cannot be read as Python")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[module_name]
            if not isinstance(error, Exception):
                raise
            reason = " ".join(str(error).split())[:300]
            raise RecipeError(f"{file} fails when run: {type(error).__name__}: {reason}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type) or not issubclass(found, Cell):
        cells = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Cell) and value.__module__ == module_name
        ]
        has = f"it has {', '.join(cells)}" if cells else "it has no subclass of ungated.Cell"
        raise RecipeError(f"{file} has no cell {name}: {has}")
    return found

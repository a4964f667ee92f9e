"""The studies of the papers, and general ones for any data set: found by name, or read from a person's own file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ungated.lab.errors import UsageError
from ungated.lab.studies.definition import MAX_BYTES, Definition
from ungated.lab.training.settings import hint, plain

#: The music data sets have one search space.
_MUSIC = ("jsb", "nottingham", "musedata", "piano-midi")


def definition_names() -> list[str]:
    """Every study of the package, in alphabetical order."""
    folder = resources.files("ungated.lab.studies") / "definitions"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_definition(name: str, recipe: str | None = None) -> Definition:
    """A study by its name, or of a file (mine.toml); on another data set or recipe if one is given.

    "dropout" with "jsb" is "dropout-jsb" where there is such a study, else the general one on that data set.
    Raises UsageError with the nearest name for an unknown one.
    """
    if name.endswith(".toml"):
        definition = Definition.from_toml(_read(Path(name)), name)
        return definition if recipe is None else definition.replace(recipe=recipe)
    names = definition_names()
    found = name
    if recipe is not None:
        wished = f"{name}-music" if name == "tune" and recipe in _MUSIC else f"{name}-{recipe}"
        found = wished if wished in names else name
    if found not in names:
        raise UsageError(_unknown(name, recipe, names))
    folder = resources.files("ungated.lab.studies") / "definitions"
    definition = Definition.from_toml((folder / f"{found}.toml").read_text(encoding="utf-8"), f"{found}.toml")
    if recipe is None or found == f"{name}-{recipe}":
        return definition
    return definition.replace(recipe=recipe, name=f"{name}-{word_of(recipe)}")


def word_of(recipe: str) -> str:
    """A recipe, or data of one's own, as part of a name."""
    stem = Path(recipe.partition(":")[2] or recipe).stem if ":" in recipe or recipe.endswith(".toml") else recipe
    return (
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem.lower()).strip("._-") or "own"
    )


def _unknown(name: str, recipe: str | None, names: list[str]) -> str:
    there = [other.removeprefix(f"{name}-") for other in names if other.startswith(f"{name}-")]
    if recipe is not None and there:
        return (
            f"the study {name} is for {' and '.join(there)}: for {plain(recipe)}, write its axes in a file of your own"
        )
    return f'there is no study "{plain(name)}"{hint(name, names)}: {", ".join(names)}, or a file of yours, NAME.toml'


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1).decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no study: it is not UTF-8 text") from error

"""Names and default options of data sets made of a user's own files."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any


def own_name(kind: str, path: Path) -> str:
    """A name that is fit for a path and a table: `kind` and the file's own name, reduced to a-z, 0-9, - and _."""
    reduced = re.sub(r"[^a-z0-9_]+", "-", path.stem.lower()).strip("-")
    return f"{kind}-{reduced[:40]}" if reduced else kind


def own_options(options: type[Any], **defaults: object) -> type[Any]:
    """The options dataclass with other defaults; they are checked at once."""
    options(**defaults)
    types = typing.get_type_hints(options)
    fields = [(name, types[name], dataclasses.field(default=value)) for name, value in defaults.items()]
    return dataclasses.make_dataclass(options.__name__, fields, bases=(options,), frozen=True)

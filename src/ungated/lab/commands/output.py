"""What commands write: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ungated.lab.reports.tables import Table


def first_process() -> bool:
    """Whether this is the process that speaks: the only one, or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str = "") -> None:
    """A line of the result."""
    if first_process():
        print(text)


def say_json(value: Any) -> None:
    """The result as JSON."""
    say(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def say_table(table: Table) -> None:
    """A table: fitted to a terminal, Markdown elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(table.terminal())
    else:
        say(table.markdown())


def note(text: str) -> None:
    """A line beside the result, on standard error."""
    if first_process():
        print(text, file=sys.stderr)


def counted(number: int, thing: str) -> str:
    """ "1 cell", "5 cells"."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def published_line(published: Mapping[str, Any]) -> str:
    """The published value that a recipe is to reach."""
    return (
        f"published: test {published['metric']} {published['value']:g} under the {published['protocol']} protocol"
        f" ({published['source']})"
    )

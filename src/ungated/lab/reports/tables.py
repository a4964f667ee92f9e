"""One table, written as Markdown or shown on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as TerminalTable


@dataclass(frozen=True)
class Table:
    """Columns and rows of text. `left`: columns aligned to the left (the first one always); numbers go right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        """Raises ValueError for a row of another length than the columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} entries in a table of {len(self.columns)} columns: {row}")

    def _is_left(self, index: int) -> bool:
        return index == 0 or self.columns[index] in self.left

    def markdown(self) -> str:
        """A pipe table, its columns padded so that the source can be read too."""
        lines = [[_escaped(text) for text in line] for line in (self.columns, *self.rows)]
        widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(self.columns))]
        rule = ["-" * width if self._is_left(i) else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
        padded = [
            [
                text.ljust(width) if self._is_left(i) else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            for line in lines
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))

    def terminal(self) -> TerminalTable:
        """The same for rich's `Console.print`."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as TerminalTable
        from rich.text import Text

        table = TerminalTable(box=SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(self.columns):
            table.add_column(Text(column), justify="left" if self._is_left(index) else "right")
        for row in self.rows:
            table.add_row(*(Text(text) for text in row))
        return table


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ungated.lab.reports.tables import Table

TABLE = Table(["cell", "test"], [["rru", "7.72 ± 0.05"], ["a|b", "8"]])


def test_markdown_is_aligned_and_escaped() -> None:
    assert TABLE.markdown().splitlines() == [
        "| cell |        test |",
        "| ---- | ----------: |",
        "| rru  | 7.72 ± 0.05 |",
        r"| a\|b |           8 |",
    ]


def test_terminal_shows_every_entry() -> None:
    stream = io.StringIO()
    Console(file=stream, width=60).print(TABLE.terminal())
    for text in ("cell", "test", "rru", "7.72 ± 0.05", "a|b", "8"):
        assert text in stream.getvalue()


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 entries in a table of 2"):
        Table(["a", "b"], [["only one"]])

"""Tables inside documents: between the markers, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ungated.lab.errors import UsageError
from ungated.lab.reports.documents import PARTS, begin, end, with_tables, write_tables
from ungated.lab.reports.records import collect, read_run

MakeRun = Callable[..., Path]

BEGIN, END = begin("results"), end("results")


def test_between_the_markers_and_nowhere_else(make_run: MakeRun, tmp_path: Path) -> None:
    results, document = tmp_path / "results", tmp_path / "README.md"
    collect(read_run(make_run()), results)
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    assert write_tables(document, results, tmp_path)
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "8.600" in text
    assert not write_tables(document, results, tmp_path)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone(part: str, tmp_path: Path) -> None:
    text = with_tables(f"{begin(part)}old{end(part)}", tmp_path / "nothing", tmp_path / "nothing")
    assert "old" not in text
    assert "No results yet." in text or "Nothing measured yet." in text
    assert [other for other in PARTS if begin(other) in text] == [part]


@pytest.mark.parametrize("text", ["no markers", BEGIN, END, f"{END}{BEGIN}"])
def test_without_markers_nothing_is_written(tmp_path: Path, text: str) -> None:
    document = tmp_path / "README.md"
    document.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"there is no place for tables|needs two lines"):
        write_tables(document, tmp_path, tmp_path)
    assert document.read_text(encoding="utf-8") == text

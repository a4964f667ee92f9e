from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ungated.lab.errors import UsageError
from ungated.lab.reports.measured import BEGIN, END, markdown, sections, with_results
from ungated.lab.reports.readme import write_readme
from ungated.lab.reports.records import collect, read_run

MakeRun = Callable[..., Path]


def test_measured_stands_beside_published_and_protocols_are_named(make_run: MakeRun) -> None:
    records = [read_run(make_run(seed=0, test=7.8)), read_run(make_run(seed=1, test=7.9))]
    ((heading, table, notes),) = sections(records)
    assert "jsb" in heading
    assert "trained under the papers' protocol" in heading
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["seeds"] == "2"
    assert row["test (paper)"] == "7.850 ± 0.635"  # t(0.975, 1) = 12.706; 12.706 * 0.0707 / sqrt(2)
    assert row["published test"] == "7.720 (paper)"
    assert any("Zakovskis" in note for note in notes)
    assert any("95 %" in note for note in notes)


def test_a_recipe_without_a_published_value_has_none(make_run: MakeRun) -> None:
    ((_, table, _),) = sections([read_run(make_run("rru")), read_run(make_run("rhn", published=None))])
    assert [row[table.columns.index("published test")] for row in table.rows] == ["7.720 (paper)", ""]
    ((_, table, notes),) = sections([read_run(make_run("rhn", 1, published=None))])
    assert "published test" not in table.columns
    assert not any("Published" in note for note in notes)


def test_other_settings_are_another_row_that_says_so(make_run: MakeRun) -> None:
    source = {"optimizer.learning_rate": "command line"}
    records = [read_run(make_run()), read_run(make_run(learning_rate=0.1, source=source))]
    ((_, table, _),) = sections(records)
    assert len(table.rows) == 2
    assert "changed" in table.columns
    assert sorted(row[table.columns.index("changed")] for row in table.rows) == ["", "learning_rate=0.1"]


def test_named_recipes_get_a_column(make_run: MakeRun) -> None:
    ((_, table, _),) = sections([read_run(make_run(recipe="ptb_sota"))])
    assert table.columns[0] == "recipe"
    assert table.rows[0][0] == "ptb_sota"


def test_between_the_markers_and_nowhere_else(make_run: MakeRun, tmp_path: Path) -> None:
    results, readme = tmp_path / "results", tmp_path / "README.md"
    collect(read_run(make_run()), results)
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    assert write_readme(readme, results, tmp_path)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "8.600" in text
    assert not write_readme(readme, results, tmp_path)


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    assert markdown([]) == "No results yet."
    assert "No results yet." in with_results(f"{BEGIN}{END}", tmp_path / "nothing")


@pytest.mark.parametrize("text", ["no markers", BEGIN, END, f"{END}{BEGIN}"])
def test_without_markers_nothing_is_written(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="no place for the tables"):
        write_readme(readme, tmp_path, tmp_path)
    assert readme.read_text(encoding="utf-8") == text

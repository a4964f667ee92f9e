from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ungated.lab.reports.measured import comparison, markdown, sections, short
from ungated.lab.reports.records import read_run

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


def test_nothing_measured_is_said() -> None:
    assert markdown([]) == short([]) == "No results yet."


def test_in_short_own_protocol_published_and_no_changed_settings(make_run: MakeRun) -> None:
    source = {"optimizer.learning_rate": "command line"}
    runs = [make_run(seed=0, test=7.8), make_run(seed=1, test=7.9), make_run(learning_rate=0.1, source=source)]
    table, note = short([read_run(run) for run in runs]).split("\n\n")
    (row,) = table.splitlines()[2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "jsb: NLL per frame (nats), lower is better"
    assert (cells[1], cells[2], cells[4:]) == ("paper", "rru", ["2", "7.850 ± 0.635", "7.720"])
    assert "95 %" in note


@pytest.mark.parametrize(
    ("tests", "beyond"), [((7.8, 7.9), False), ((7.8, 7.801), True), ((7.8,), True), ((7.7201,), False)]
)
def test_what_differs_from_the_published_value(make_run: MakeRun, tests: tuple[float, ...], beyond: bool) -> None:
    found = comparison([read_run(make_run(seed=seed, test=test)) for seed, test in enumerate(tests)])
    assert (found.name, found.protocol, found.published) == ("jsb, rru", "paper", 7.72)
    assert found.beyond == beyond


def test_nothing_published_nothing_differs(make_run: MakeRun) -> None:
    found = comparison([read_run(make_run("rhn", published=None))])
    assert (found.published, found.beyond) == (None, False)


def test_nothing_is_published_for_another_protocol_than_the_recipe_s(make_run: MakeRun) -> None:
    found = comparison([read_run(make_run(source={"protocol": "command line"}))])
    assert (found.published, found.beyond) == (None, False)

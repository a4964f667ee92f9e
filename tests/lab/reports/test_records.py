from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ungated.lab.errors import DataError, RunError
from ungated.lab.reports.records import Record, by_settings, collect, load_results, read_run

MakeRun = Callable[..., Path]


def test_a_record_holds_the_run_and_none_of_the_persons_paths(make_run: MakeRun, tmp_path: Path) -> None:
    source = {"cell.name": "/home/somebody/cells.py:Elman"}
    record = read_run(make_run(source=source))
    assert record.curve["epoch"] == [1, 2, 3]
    assert record.curve["valid nll_per_frame"] == [9.0, 8.5, 8.7]
    assert record.seconds == 7.5
    assert record.value("standard", "test") == 8.6
    text = collect(record, tmp_path / "results").read_text()
    assert "somebody" not in text
    assert Record.from_json(text).to_json() == text
    assert max(map(len, text.splitlines())) < 200


def test_an_unfinished_run_has_no_record(make_run: MakeRun) -> None:
    run = make_run()
    (run / "result.json").unlink()
    with pytest.raises(RunError, match="ungated resume"):
        read_run(run)


def test_a_diverged_run_has_values_that_are_none(make_run: MakeRun) -> None:
    record = read_run(make_run(valid=(None,), test=None, stopped="diverged"))
    assert record.value("paper", "test") is None
    assert record.curve["valid nll_per_frame"] == [None]


def test_kept_below_data_set_and_cell_by_a_telling_name(make_run: MakeRun, tmp_path: Path) -> None:
    results = tmp_path / "results"
    plain = collect(read_run(make_run(seed=3)), results)
    assert plain == results / "jsb" / "rru" / "paper-seed3.json"
    changed = read_run(make_run(learning_rate=0.1, source={"optimizer.learning_rate": "command line"}))
    assert collect(changed, results).name == "paper-learning_rate=0.1-seed0.json"
    named = collect(read_run(make_run(cell="rhn", recipe="ptb_sota")), results)
    assert named.name == "ptb_sota-seed0.json"
    assert list(load_results(results)) == sorted([plain, results / "jsb/rru/paper-learning_rate=0.1-seed0.json", named])


def test_the_same_run_again_takes_its_own_place_but_no_other_ones(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    first = collect(read_run(run), tmp_path / "results")
    assert collect(read_run(run), tmp_path / "results") == first
    other = read_run(make_run(learning_rate=0.1))
    before = first.read_bytes()
    with pytest.raises(RunError, match="--name"):
        collect(other, tmp_path / "results")
    assert first.read_bytes() == before
    assert collect(other, tmp_path / "results", "fast").name == "fast.json"


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "a b"])
def test_a_name_stays_in_its_folder(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="file's name"):
        collect(read_run(make_run()), tmp_path / "results", name)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_damaged_file_is_named(make_run: MakeRun, tmp_path: Path, damage: str) -> None:
    path = collect(read_run(make_run()), tmp_path / "results")
    path.write_text(damage)
    with pytest.raises(DataError, match=r"paper-seed0\.json"):
        load_results(tmp_path / "results")


def test_groups_are_runs_that_differ_in_their_seed_alone(make_run: MakeRun) -> None:
    runs = [make_run("lstm", 1), make_run("lstm", 0), make_run("rru", 0), make_run("rru", 1, learning_rate=0.1)]
    groups = by_settings(read_run(run) for run in runs)
    assert [[(record.cell, record.seed) for record in group] for group in groups] == [
        [("rru", 0)],
        [("rru", 1)],
        [("lstm", 0), ("lstm", 1)],
    ]


def test_a_record_older_than_a_setting_goes_with_newer_ones_that_do_not_use_it(make_run: MakeRun) -> None:
    older, newer = read_run(make_run(seed=0)), read_run(make_run(seed=1))
    newer.result["settings"]["training.epoch_updates"] = None  # type: ignore[index]
    assert len(by_settings([older, newer])) == 1
    newer.result["settings"]["training.epoch_updates"] = 100  # type: ignore[index]
    assert len(by_settings([older, newer])) == 2


def test_a_pause_does_not_lengthen_the_median_epoch(make_run: MakeRun) -> None:
    record = read_run(make_run(seconds=2.5))
    paused = replace(record, curve={**record.curve, "seconds": [2.5, 600.0, 2.5]})
    older = replace(record, curve={"epoch": [1, 2, 3]}, seconds=9.0)
    assert (record.epoch_seconds, paused.epoch_seconds, older.epoch_seconds) == (2.5, 2.5, 3.0)


def test_numbers_are_short(make_run: MakeRun) -> None:
    record = read_run(make_run(valid=(8.123456789, 8.0, 7.9)))
    assert json.loads(record.to_json())["curve"]["valid nll_per_frame"][0] == 8.12346

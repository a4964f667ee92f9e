from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ungated.lab.errors import DataError
from ungated.lab.reports.records import collect, read_run
from ungated.lab.reports.speed import goals_markdown, load_benchmarks, speed_markdown, training_table

MakeRun = Callable[..., Path]

RECORD: dict[str, Any] = {
    "format": 1,
    "complete": True,
    "started": "2026-01-02T03:04:05+00:00",
    "settings": {"quick": False, "seed": 3},
    "machine": {
        "device": "cpu",
        "device_name": "A processor",
        "threads": 2,
        "cores": 4,
        "isa": "AVX2",
        "torch": "2.13.0",
        "git_revision": "0123456789ab",
        "load_before": [0.5, 0.4, 0.3],
        "load_after": [],
    },
    "memory_kind": "what is kept",
    "cases": [
        {
            "name": "rru-70k",
            "what": "RRU, training step, T 784, B 64",
            "auto": "cpu",
            "best_peer": "nn.LSTM",
            "rounds": 5,
            "variants": [
                {
                    "name": name,
                    "role": role,
                    "parameters": 70_123,
                    "milliseconds": {"median": median, "quartiles": [median - 1, median + 1], "all": []},
                    "memory_bytes": memory,
                    "ratio_to_best_peer": {"median": median / 400},
                    "ratio_to_reference": {"median": median / 2000},
                }
                for name, role, median, memory in (
                    ("cpu", "ours", 200.0, 2**20),
                    ("torch", "ours", 500.0, None),
                    ("nn.LSTM", "peer", 400.0, None),
                    ("reference loop", "peer", 2000.0, 2**21),
                )
            ],
            "goals": [
                {"of": "cpu", "to": "nn.LSTM", "what": "time", "at_most": 0.6, "ratio": 0.5, "met": True},
                {"of": "torch", "to": "reference loop", "what": "time", "at_most": 0.2, "ratio": 0.25, "met": False},
            ],
            "left_out": {"cuda": "no GPU", "graph": "no GPU"},
        }
    ],
    "first_use": [
        {"path": "cpu", "cell": "rru", "empty_cache": 1.25, "cached": 0.01, "met": True},
        {"path": "cpu", "cell": "gru", "failed": "no compiler"},
    ],
    "first_use_goals": {"empty_cache": 3.0, "cached": 0.1},
}


def kept(folder: Path, record: Any) -> Path:
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "here.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return folder


def test_ratios_goals_and_machine(tmp_path: Path) -> None:
    text = speed_markdown(kept(tmp_path, RECORD))
    assert text.startswith("### A processor, 2 threads\n")
    ours, fallback = (line for line in text.splitlines() if line.startswith("| rru-70k"))
    for part in ("70K", "cpu (taken)", "200 [199, 201]", "400 [399, 401]", " 0.50 |", " 0.10 |", "1.0 MiB (0.50)"):
        assert part in ours
    assert "0.50 of nn.LSTM, goal 0.60: met" in ours
    assert "2,000 [1,999, 2,001]" not in ours
    assert "0.25 of reference loop, goal 0.20: NOT met" in fallback
    assert "1.250 s" in text and "no compiler" in text
    assert "Not measured: cuda, graph (no GPU)." in text
    assert "4 cores, AVX2, torch 2.13.0, revision 0123456789ab, seed 3, load 0.5 before and unknown after" in text


@pytest.mark.parametrize("content", ["not JSON", "{}", json.dumps({**RECORD, "format": 2})])
def test_a_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"here\.json cannot be read as a record"):
        load_benchmarks(kept(tmp_path, content) / "results")


def on_path(run: Path, path: str) -> Path:
    """The same run, as if it had been trained on that path."""
    file = run / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "backend": path}))
    return run


def test_complete_runs_on_several_paths(make_run: MakeRun, tmp_path: Path) -> None:
    slow = read_run(on_path(make_run(learning_rate=0.005, seconds=8.0, test=8.61), "reference"))
    fast = read_run(on_path(make_run(learning_rate=0.006, seconds=2.0, test=8.6), "cpu"))
    table = training_table([fast, slow])
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["path"] for row in rows] == ["reference", "cpu"]
    assert [row["seconds an epoch, median"] for row in rows] == ["8.00", "2.00"]
    assert [row["of the reference"] for row in rows] == ["1.00", "0.25"]
    assert rows[1]["test (paper): NLL per frame (nats)"] == "8.600"
    for record, name in ((slow, "reference"), (fast, "cpu")):
        collect(record, tmp_path / "kept" / "training", name)
    for text in (speed_markdown(tmp_path / "kept"), goals_markdown(tmp_path / "kept")):
        assert "A complete `ungated train jsb --cell rru` on each path" in text
        assert "A processor, 1 thread" in text


def test_goals_in_short(tmp_path: Path) -> None:
    text = goals_markdown(kept(tmp_path, RECORD))
    goals = [goal for case in RECORD["cases"] for goal in case["goals"]]
    assert goals
    assert len(text.split("\n\n")[0].splitlines()) == 2 + len(goals)
    assert "A processor, 2 threads" in text
    assert goals_markdown(tmp_path / "nothing") == "Nothing measured yet."


def test_goals_of_several_measurements_stand_side_by_side(tmp_path: Path) -> None:
    later = copy.deepcopy(RECORD) | {"started": "2026-01-03T03:04:05+00:00"}
    later["cases"][0]["goals"][0] |= {"to": "nn.GRU", "ratio": 0.75, "met": False}
    folder = kept(tmp_path, RECORD)
    (folder / "results" / "later.json").write_text(json.dumps(later))
    text = goals_markdown(folder)
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines() if "T 784" in line]
    assert rows == [
        ["cpu", "nn.LSTM or nn.GRU", "0.50, 0.75", "0.60", "1 of 2"],
        ["torch", "reference loop", "0.25, 0.25", "0.20", "0 of 2"],
    ]
    assert "2026-01-02 and 2026-01-03" in text and "2 measurements" in text

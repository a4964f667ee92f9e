"""`ungated doctor`: every cell in every situation has a path, each faster one its reason, and advice where it helps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ungated
from ungated.cells import CELLS
from ungated.lab import doctor
from ungated.lab.cli import main
from ungated.scan import cpu
from ungated.scan.cpu.library import engine


@pytest.fixture
def nothing_tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a new process: no library was looked for yet."""
    monkeypatch.setattr(cpu, "_said", set())
    for found in (cpu._tried, engine):
        found.cache_clear()
    yield
    for found in (cpu._tried, engine):
        found.cache_clear()


def examined(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["doctor", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_cell_in_every_situation(capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(capsys)
    order = doctor.order()
    entries = [entry for entry in found["paths"] if entry["device"] == "cpu"]
    assert {(e["cell"], e["situation"]) for e in entries} == {(c, s.name) for c in CELLS for s in doctor.SITUATIONS}
    for entry in entries:
        faster = order[: order.index(entry["path"])]
        assert list(entry["passed_over"]) == faster
        assert all(entry["passed_over"].values())
        if entry["situation"] == "one step":
            assert entry["path"] == "reference"
    assert "command" not in found["machine"]


def test_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in (*CELLS, "few time steps (one step)", "autocast", f"torch {torch.__version__}", "cache ", "NVRTC"):
        assert word in text


def test_no_compiler_is_no_failure_but_worth_a_word(
    nothing_tried: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNGATED_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    found = examined(capsys)
    assert {entry["path"] for entry in found["paths"] if entry["device"] == "cpu"} == {"torch", "reference"}
    assert found["engine"]["compiler"] is None
    assert any("no C++ compiler" in sentence for sentence in found["advice"])


def test_a_cache_that_cannot_be_written(
    nothing_tried: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNGATED_CACHE", str(tmp_path / "file" / "cache"))
    found = examined(capsys)
    assert not found["engine"]["cache_writable"]
    if found["engine"]["compiler"] is not None:
        assert any("UNGATED_CACHE" in sentence for sentence in found["advice"])


def test_advice_on_a_forced_path_and_idle_cores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNGATED_BACKEND", "reference")
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: set(range(999)), raising=False)
    found = examined(capsys)
    assert {entry["path"] for entry in found["paths"]} == {"reference"}
    forced, cores = found["advice"]
    assert forced.startswith("UNGATED_BACKEND=reference forces one path")
    assert "of 999 cores" in cores


def test_a_path_that_runs_nothing_is_named_once() -> None:
    entries = [
        {"cell": "a", "situation": "x", "path": "torch", "passed_over": {"graph": "no GPU", "cpu": "autocast is on"}},
        {"cell": "a", "situation": "y", "path": "cpu", "passed_over": {"graph": "no GPU"}},
        {"cell": "a", "situation": "z", "path": "reference", "passed_over": dict.fromkeys(("graph", "cpu"), "short")},
    ]
    assert doctor.passed_over(entries) == [
        (["graph"], "no GPU", []),
        (["cpu"], "autocast is on", [("a", "x")]),
        (["cpu"], "short", [("a", "z")]),
    ]


def test_the_same_choice_as_the_layer_makes() -> None:
    """What the doctor says is what runs."""
    layer = ungated.RRU(16, 32)
    x = torch.zeros(32, 4, 16)
    said = doctor._path_of("rru", doctor.SITUATIONS[0], "cpu")["path"]
    with ungated.backend(said):
        want = layer(x)[0]
    assert torch.equal(layer(x)[0], want)

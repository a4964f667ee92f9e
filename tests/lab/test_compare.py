"""Comparisons: equal budgets, several seeds, worker processes that may be stopped, killed and continued."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ungated.lab import compare
from ungated.lab.cli import main
from ungated.lab.errors import RunError, UsageError
from ungated.lab.workers import Clock, Job, Watcher, check_failures, run_jobs

#: Small enough for a second a run.
SMALL = ["--cell", "gru", "--cell", "lstm", "--seeds", "2", "--parameters", "800", "max_epochs=2", "batch_size=256"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def results(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).glob("*/result.json")}


def test_table_figure_and_numbers_and_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "digits", *SMALL, "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert [entry["cell"] for entry in report["cells"]] == ["gru", "lstm"]
    for entry in report["cells"]:
        assert entry["parameters"] <= 800
        assert len(entry["test"]["values"]) == 2
        assert entry["test"]["mean"] == pytest.approx(sum(entry["test"]["values"]) / 2)
    out = Path("runs/compare-digits")
    assert (report["table"], report["figure"]) == (str(out / "compare.md"), str(out / "compare.png"))
    table = (out / "compare.md").read_text()
    assert "95 % confidence interval" in table
    assert "standard protocol" in table
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((out / "compare.json").read_text())["metric"] == "accuracy"
    assert json.loads((out / "gru-seed0" / "environment.json").read_text())["threads"] == 1

    # Once more: nothing is trained, and the same is said.
    times = {path: path.stat().st_mtime_ns for path in out.glob("*-seed*/*")}
    assert main(["compare", "digits", *SMALL]) == 0
    captured = capsys.readouterr()
    assert "4 of 4 runs were finished before" in captured.err
    assert "| gru " in captured.out
    assert {path: path.stat().st_mtime_ns for path in out.glob("*-seed*/*")} == times

    # Other settings in the same place are refused, and leave it as it is.
    assert main(["compare", "digits", *SMALL, "learning_rate=0.5"]) == 1
    assert "--out" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.glob("*-seed*/*")} == times


CELL = """
import torch
from torch import nn
from ungated import Cell

class Plain(Cell):
    def __init__(self, input_size, hidden_size, scale=1.0):
        super().__init__(input_size, hidden_size)
        self.scale = scale
        self.W_x = nn.Parameter(torch.randn(input_size, hidden_size) / input_size**0.5)
        self.W_h = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)

    def step(self, x, h, noise=None):
        h = torch.tanh(self.scale * (x @ self.W_x) + h @ self.W_h)
        return h, h
"""


def test_a_cell_of_ones_own_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cells.py").write_text(CELL)
    words = ["compare", "digits", "--cell", "gru", "--cell", "cells.py:Plain", "--parameters", "800"]
    assert main([*words, "--seeds", "1", "max_epochs=1", "batch_size=256", "--json", "--quiet"]) == 0
    ours, own = json.loads(capsys.readouterr().out)["cells"]
    assert own["cell"] == "plain"
    assert 600 < own["parameters"] <= 800
    assert own["hidden_size"] > ours["hidden_size"]


def _wait_for(pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(Path().glob(pattern)):
        assert time.monotonic() < deadline, f"{pattern} did not appear"
        time.sleep(0.02)


def _at_work(folder: str) -> bool:
    """Whether a process trains in one of the folder's runs."""
    return any(_locked(lock) for lock in Path(folder).glob("*/run.lock"))


def _locked(lock: Path) -> bool:
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.timeout(900)  # six processes, each of which imports torch
def test_stopped_killed_and_continued_it_ends_as_if_it_had_not() -> None:
    words = ["compare", "digits", "--cell", "gru", "--seeds", "2", "--parameters", "800", "max_epochs=6"]
    words += ["batch_size=256", "--workers", "1", "--quiet", "--out"]
    assert main([*words, "whole"]) == 0

    process = subprocess.Popen([sys.executable, "-m", "ungated", *words, "other"], stderr=subprocess.PIPE, text=True)
    _wait_for("other/*/metrics.jsonl")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert errors.startswith("ungated: stopped")
    assert not _at_work("other"), "the workers of a stopped command are gone when it ends"
    assert len(results("other")) < 2

    process = subprocess.Popen([sys.executable, "-m", "ungated", *words, "other"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not _at_work("other"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    while _at_work("other"):
        assert time.monotonic() < deadline, "the workers of a killed command should end with it"
        time.sleep(0.05)

    assert main([*words, "other"]) == 0
    assert len(results("whole")) == 2
    assert results("other") == results("whole")


def test_two_commands_do_not_compare_in_one_directory(capsys: pytest.CaptureFixture[str]) -> None:
    from ungated.lab.files import FileLock

    Path("busy").mkdir()
    with FileLock(Path("busy/compare.lock")):
        assert main(["compare", "digits", *SMALL, "--out", "busy"]) == 1
    assert "in use by process" in capsys.readouterr().err


def test_budgets_have_to_be_equal() -> None:
    with pytest.raises(UsageError, match="--parameters"):
        compare.plan("jsb", ["rru", "gru"])
    with pytest.raises(UsageError, match="named twice"):
        compare.plan("digits", ["gru", "gru"])
    with pytest.raises(UsageError, match="--seeds"):
        compare.plan("digits", ["gru"], seeds=0)


def test_the_digits_recipes_share_one_budget_and_all_cells_have_one() -> None:
    plan = compare.plan("digits")
    assert len(plan.recipes) == 5
    assert len({recipe.model.parameters for recipe in plan.recipes}) == 1
    assert {recipe.protocol for recipe in plan.recipes} == {"standard"}


# Workers


class Recorder(Watcher):
    def __init__(self) -> None:
        self.heard: list[tuple[int, str]] = []
        self.ticks = 0

    def hear(self, job: int, what: str, value: object) -> None:
        self.heard.append((job, what))

    def tick(self) -> None:
        self.ticks += 1


def _job(directory: str, recipe: str) -> Job:
    return Job(directory=directory, recipe=recipe, cell=None, seed=0, device="cpu", data_dir=None)


def test_a_run_that_fails_or_dies_takes_no_other_one_with_it(tiny_recipe: Path) -> None:
    Path("deadly.py").write_text(
        CELL.replace("super()", "__import__('os').kill(__import__('os').getpid(), 9); super()")
    )
    fine = tiny_recipe.read_text()
    deadly = fine.replace('"gru"', '"plain"')
    jobs = [
        Job("dies", deadly, f"{Path.cwd()}/deadly.py:Plain", 0, "cpu", None),
        _job("fails", "nonsense"),
        _job("ends", fine),
    ]
    recorder = Recorder()
    failed = run_jobs(jobs, 1, recorder)
    assert set(failed) == {0, 1}
    assert "SIGKILL" in failed[0]
    assert "TOML" in failed[1]
    assert json.loads(Path("ends/result.json").read_text())["epochs"] == 2
    assert [what for job, what in recorder.heard if job == 2] == ["started", "epoch", "epoch", "finished"]
    assert recorder.ticks
    with pytest.raises(RunError, match=r"dies: .*SIGKILL.*\(1 more failed too\)"):
        check_failures(failed, [job.directory for job in jobs])


def test_the_time_left_goes_by_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock(["fast", "slow", "fast", "slow"], workers=2)
    assert clock.left() is None
    clock.hear(0, "started", None)
    clock.hear(1, "started", None)
    now = 10.0
    clock.hear(0, "epoch", (5, 10))
    assert clock.left() == pytest.approx((10 + 10 + 20 + 20) / 2)
    now = 20.0
    clock.hear(0, "finished", None)
    clock.hear(2, "started", None)
    assert clock.left() == pytest.approx((0 + 20 + 20) / 2)
    now = 60.0
    clock.hear(1, "finished", None)
    clock.hear(2, "finished", None)
    assert clock.left() == pytest.approx(60 / 2)
    clock.hear(3, "failed", "why")
    assert clock.left() == 0.0

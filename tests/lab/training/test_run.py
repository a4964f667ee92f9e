"""Run directories: one writer, nothing foreign touched, and every file whole or named as damaged."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ungated.lab.errors import CheckpointError, LabError, RunBusyError, RunError
from ungated.lab.training.run import RunDirectory

WEIGHTS = {"W": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).bfloat16()}


def begun(path: Path) -> RunDirectory:
    run = RunDirectory(path)
    with run.locked():
        run.create("name = 'x'\n", {"seed": 3})
    return run


def test_a_run_begins_in_a_new_or_empty_directory(tmp_path: Path) -> None:
    run = begun(tmp_path / "deep" / "run")
    assert run.exists and not run.finished
    assert run.read_recipe() == "name = 'x'\n"
    assert run.read_environment() == {"seed": 3}
    assert run.read_result() is None
    (tmp_path / "empty").mkdir()
    begun(tmp_path / "empty")


def test_traces_of_a_run_killed_at_its_very_start_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "run.lock").touch()
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / ".recipe.toml-0123456789abcdef.ungated-tmp").touch()
    begun(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_finished_and_an_unfinished_run_are_refused_with_what_to_do(tmp_path: Path) -> None:
    run = begun(tmp_path)
    with pytest.raises(RunError, match="unfinished run: `ungated resume"):
        run.check_free()
    run.write_result({"steps": 1})
    with pytest.raises(RunError, match="finished run: choose another"), run.locked():
        run.create("", {})
    assert run.read_result() == {"steps": 1}


def test_a_directory_that_holds_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "zebra").touch()
    with pytest.raises(RunError, match=r"something else \(thesis.tex and 1 more\)"):
        RunDirectory(tmp_path).check_free()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex", "zebra"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        RunDirectory(tmp_path / "file").check_free()
    with pytest.raises(RunError, match="is a file"):
        RunDirectory(tmp_path / "file" / "run").check_free()


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(RunError, match=f"{tmp_path} is not writable"):
        RunDirectory(tmp_path / "run").check_free()
    with pytest.raises(RunError, match="not writable"), RunDirectory(tmp_path / "run").locked():
        pass
    assert not (tmp_path / "run").exists()


def test_no_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run directory"):
        RunDirectory(tmp_path / "nothing").read_recipe()
    with pytest.raises(RunError, match="holds no run"):
        RunDirectory(tmp_path).read_environment()


HOLD = """
import sys, time
from ungated.lab.training.run import RunDirectory
with RunDirectory(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_at_once_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunBusyError, match=f"{tmp_path}.*process {holder.pid}"), RunDirectory(tmp_path).locked():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with RunDirectory(tmp_path).locked():
            pass
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def test_metrics_are_appended_and_a_torn_tail_is_cut(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert run.metrics() == []
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "valid": {"x": None}})
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    for size in range(len(whole) - 10, len(whole)):
        file.write_bytes(whole[:size])
        assert [entry["epoch"] for entry in run.metrics()] == [1, 2]
        run.cut_metrics(3)
        run.append_metrics({"epoch": 3})
        assert [entry["epoch"] for entry in run.metrics()] == [1, 2, 3]
    run.cut_metrics(1)
    assert [entry["epoch"] for entry in run.metrics()] == [1]
    run.cut_metrics(0)
    assert run.metrics() == []


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = begun(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(CheckpointError, match="line 2"):
        run.metrics()


def test_nan_is_no_json(tmp_path: Path) -> None:
    run = begun(tmp_path)
    with pytest.raises(ValueError):
        run.append_metrics({"loss": float("nan")})
    with pytest.raises(ValueError):
        run.write_result({"loss": float("inf")})
    assert run.metrics() == [] and not run.finished


APPEND_ON_A_FULL_DISK = """
import resource, sys
from ungated.lab.errors import LabError
from ungated.lab.training.run import RunDirectory
run = RunDirectory(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (30, resource.RLIM_INFINITY))
for epoch in range(1, 9):
    try:
        run.append_metrics({"epoch": epoch})
    except LabError as error:
        print(epoch, error)
        break
"""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    run = begun(tmp_path)
    command = [sys.executable, "-c", APPEND_ON_A_FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"3 cannot write {tmp_path / 'metrics.jsonl'}"), done.stderr
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"epoch": 1}\n{"epoch": 2}\n'
    assert len(run.metrics()) == 2


def test_best_weights_come_back_with_what_they_fit(tmp_path: Path) -> None:
    run = begun(tmp_path)
    with pytest.raises(CheckpointError, match="no best weights yet"):
        run.read_best()
    run.write_best(WEIGHTS, {"hidden_size": 3, "data": {"vocabulary": "abc"}})
    weights, description = run.read_best()
    assert description == {"hidden_size": 3, "data": {"vocabulary": "abc"}}
    assert weights.keys() == WEIGHTS.keys() and all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


def test_best_weights_are_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from ungated.lab.training.run import RunDirectory;"
        "RunDirectory(sys.argv[1]).write_best({k: torch.ones(2) for k in 'abcdef'}, {k: 1 for k in 'abcdef'})"
    )
    contents = set()
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True, timeout=60)
        contents.add((tmp_path / name / "best.safetensors").read_bytes())
    assert len(contents) == 1


def test_every_flipped_bit_and_cut_of_the_best_weights_is_noticed(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.write_best(WEIGHTS, {"hidden_size": 3})
    file = tmp_path / "best.safetensors"
    whole = file.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=str(file)):
            run.read_best()
    for size in random.Random(1).sample(range(len(whole)), 30):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=str(file)):
            run.read_best()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    run = begun(tmp_path)
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"result\.json is damaged"):
        run.read_result()
    (tmp_path / "environment.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"environment\.json is damaged"):
        run.read_environment()


def test_results_are_readable_json(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.write_result({"metric": "nll_per_frame", "value": 8.1})
    assert json.loads((tmp_path / "result.json").read_text()) == {"metric": "nll_per_frame", "value": 8.1}
    assert isinstance(RunError("x"), LabError)

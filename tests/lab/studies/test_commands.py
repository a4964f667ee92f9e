"""tune and study through the command line: what is refused, what is listed, what is said at the end."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ungated.lab.cli import main
from ungated.lab.studies.leases import FileLeases
from ungated.lab.studies.opening import open_trials
from ungated.lab.studies.study import create_study
from ungated.lab.studies.worker import Worker

from .conftest import TINY, MakeStudy

SWEEP = """
kind = "sweep"
name = "rates"
recipe = "tiny.toml"
cells = ["gru"]
[axes]
learning_rate = [0.01, 0.02]
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    Path("sweep.toml").write_text(SWEEP)
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("precious")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tune", "copy-memory"], "say what to tune"),
        (["tune", "copy-memory", "--cell", "gruu"], "did you mean gru?"),
        (["tune", "copy-memroy", "--cell", "gru"], "did you mean copy-memory?"),
        (["tune", "copy-memory", "--cell", "gru", "--trials", "0"], "at least 1"),
        (["tune", "copy-memory", "--cell", "gru", "--sampler", "papre"], "did you mean paper?"),
        (["tune", "copy-memory", "--cell", "gru", "lerning_rate=1"], "did you mean learning_rate?"),
        (["tune", "copy-memory", "--cell", "gru", "learning_rate=1", "recurrent_dropout=0"], "empty space"),
        (["tune", "copy-memory", "--cell", "gru", "parameters=3"], "too small"),
        (["tune", "copy-memory", "--cell", "gru", "--out", "other"], "thesis.tex"),
        (["tune", "copy-memory", "--cell", "gru", "--out", "tiny.toml"], "is a file"),
        (["tune", "copy-memory", "--cell", "gru", "--storage", "redis://x"], "no storage redis"),
        (["tune", "copy-memory", "--cell", "gru", "--workers", "2", "--storage", "sqlite:///x.db"], "one worker"),
        (["tune", "copy-memory", "--cell", "gru", "--device", "gpu9"], "gpu9"),
        (["study", "start"], "FILE.toml"),
        (["study", "start", "nothing.toml"], "nothing.toml"),
        (["study", "start", "dropuot"], "did you mean dropout"),
        (["study", "robustness", "copy-memory"], "nottingham and ptb-word"),
        (["study", "dropout", "copy-memory", "--cell", "gru", "recurrent_dropout=much"], "a number"),
        (["study", "start", "sweep.toml", "--cell", "mogrifier"], "cell"),
        (["study", "run", "nowhere"], "no study"),
        (["study", "status", "other"], "no study"),
        (["study", "collect", "other"], "from where"),
        (["study", "slurm", "other"], "no study"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_sentence_before_anything_is_made(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) in (1, 2)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("ungated: ") and said in errors[0], errors
    assert sorted(path.name for path in Path().iterdir()) == ["other", "sweep.toml", "tiny.toml"]
    assert [path.name for path in Path("other").iterdir()] == ["thesis.tex"]


def test_a_directory_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "start", "sweep.toml", "--out", "/proc/study"]) == 1
    assert "/proc" in capsys.readouterr().err


def test_a_dry_run_lists_sizes_and_times_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "start", "sweep.toml", "learning_rate=0.1,0.2,0.3", "max_epochs=4", "--workers", "2", "--dry-run"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["values"] for run in found["runs"]] == [{"learning_rate": rate} for rate in (0.1, 0.2, 0.3)]
    assert {run["hidden_size"] for run in found["runs"]} == {3}
    assert all(run["parameters"] > 0 and run["epoch_seconds"] > 0 for run in found["runs"])
    assert found["epochs"] == [4, 4]
    assert found["seconds_of_all"][0] == pytest.approx(3 * 4 * found["epoch_seconds"][0], rel=0.01)
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "3 runs of 4 epochs, 2 at a time: about" in text
    assert not Path("runs").exists()
    search = ["tune", "tiny.toml", "--cell", "gru", "--trials", "2", "--dry-run"]
    assert main(search) == 0
    assert "searched: learning_rate 0.0001 to 0.01, logarithmic" in capsys.readouterr().out


def test_begun_gone_on_with_and_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "start", "sweep.toml", "--workers", "1", "--seeds", "2"]) == 0
    captured = capsys.readouterr()
    assert "rates: 4 runs, 1 at a time, in runs/rates" in captured.err
    assert "4 of 4 runs done" in captured.err
    assert "rates: 4 runs: 4 finished" in captured.out
    assert captured.out.count("| gru |") == 2, "one row for each selection"
    assert "selected on test is how the RRU authors chose" in captured.out
    times = {path: path.stat().st_mtime_ns for path in Path("runs/rates").rglob("result.json")}
    assert len(times) == 4
    assert main(["study", "run", "runs/rates", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == {"finished": 4, "failed": 0, "running": 0, "waiting": 0}
    honest, papers = found["selected_on_validation"]["gru"], found["selected_on_test"]["gru"]
    assert honest["valid"] >= papers["valid"] and papers["test"] >= honest["test"]
    assert {path: path.stat().st_mtime_ns for path in Path("runs/rates").rglob("result.json")} == times
    assert main(["study", "start", "sweep.toml", "--seeds", "3"]) == 1
    assert "holds another study" in capsys.readouterr().err


def test_status_of_a_study_under_way(make_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study("mine")
    trials = open_trials(study, None)
    worker = Worker(study, trials, FileLeases(study.directory.leases), shared=True, heartbeat=60.0)
    worker.work(lambda: bool(trials.over()))
    assert main(["study", "status", "mine"]) == 0
    assert "1 finished, 2 waiting" in capsys.readouterr().out


def test_the_script_for_slurm_is_one_that_a_shell_reads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from ungated.lab.studies.definition import Definition

    axes = {"learning_rate": (0.1, 0.2, 0.3)}
    create_study("my study", Definition("sweep", "tiny.toml", ("gru",), axes=axes))
    words = ["study", "slurm", "my study", "--jobs", "16", "--device", "cuda", "--workers", "2", "--time", "1:00:00"]
    assert main([*words, "--data-dir", "data"]) == 0
    script = Path("my study/worker.sbatch")
    text = script.read_text()
    assert "#SBATCH --array=0-2\n" in text, "no more jobs than runs"
    assert "#SBATCH --gres=gpu:1\n" in text and "#SBATCH --time=1:00:00\n" in text
    command = text.splitlines()[-1]
    assert command.startswith("exec ")
    assert f"study run '{tmp_path}/my study' --workers 2 --device cuda --quiet --data-dir {tmp_path}/data" in command
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert main([*words, "--storage", "postgresql://me:secret@host/db"]) == 0
    assert "secret" not in script.read_text() and "UNGATED_STORAGE" in script.read_text()

"""The command line through its entry point: what it prints, what it leaves, and with which status it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from ungated.lab.cli import app, main

COMMANDS = (
    "bench",
    "compare",
    "train",
    "show",
    "evaluate",
    "resume",
    "report",
    "reproduce",
    "data list",
    "data fetch",
    "data verify",
    "doctor",
    "tune",
    "study start",
    "study winners",
    "study run",
    "study status",
    "study collect",
    "study slurm",
    "study robustness",
    "study dropout",
    "study ablation",
    "study convergence",
    "study depth",
)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> str:
    """Run a command that has to fail; return its one sentence."""
    assert main(words) == status
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("run directory")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("ungated: ")
    assert "Traceback" not in captured.err
    return lines[0]


# Help


def test_the_commands_are_these() -> None:
    command: Any = typer.main.get_command(app)
    found = [
        f"{name} {inner}".strip() for name, sub in command.commands.items() for inner in getattr(sub, "commands", [""])
    ]
    assert sorted(found) == sorted(COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ungated.lab.cli import main; main(['--help']);"
        "print([m for m in ('torch', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"Example: ungated {command}" in capsys.readouterr().out


@pytest.mark.parametrize("group", [[], ["data"], ["study"]])
def test_no_line_of_the_list_of_commands_is_cut(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*group, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_without_words_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("Usage: ungated")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from ungated import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ungated {__version__}\n"


# Wrong words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "jsb"], "'train'"),
        (["train", "jsb", "--cel", "rru"], "--cell"),
        (["train", "jsbb", "--cell", "rru"], "did you mean jsb?"),
        (["train", "jsb", "--cell", "rruu"], "did you mean rru?"),
        (["train", "jsb", "--cell", "rru", "learning_rat=1"], "did you mean learning_rate?"),
        (["train", "jsb", "--cell", "rru", "learning_rate=fast"], "a number"),
        (["train", "jsb", "--cell", "rru", "batch_size=1.5"], "an integer"),
        (["train", "jsb"], "choose one of"),
        (["train", "jsb", "rru"], "--cell"),
        (["train"], "say what to train"),
        (["train", "jsb", "--text", "book.txt"], "two names"),
        (["train", "jsb", "--cell", "rru", "--seed", "minus"], "--seed"),
        (["train", "jsb", "--cell", "rru", "--data-dir", "nowhere"], "nowhere"),
        (["train", "jsb", "--cell", "nowhere.py:Cell"], "nowhere.py"),
        (["show", "--cell", "rru"], "say which"),
        (["compare"], "say on which"),
        (["compare", "jsb"], "--parameters"),
        (["compare", "jsb", "--cell", "gru", "--cell", "gru"], "named twice"),
        (["data", "verify", "jsbb"], "did you mean jsb?"),
        (["data", "lits"], "'list'"),
        (["evaluate", "run", "--seed", "1"], "--mc-samples"),
        (["report", "--collect"], "say which runs"),
        (["report", "--name", "x"], "--collect"),
        (["report", "--out", "nowhere/report.html"], "nowhere"),
        (["reproduce", "tables-1"], "did you mean table-1?"),
        (["reproduce", "table-1", "--rows", "jbs"], "did you mean jsb?"),
        (["reproduce", "figure-2", "--budget", "large"], "small, paper"),
        (["reproduce", "figure-2", "--cells", "gruu"], "did you mean gru?"),
        (["reproduce", "table-1", "--seeds", "3"], "one seed"),
        (["report", "--tables", "missing.md"], "missing.md"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert said in fails(capsys, 2, *words)
    assert not list(tmp_path.glob("runs/*")), "nothing is left of a command that was refused"


def test_a_device_that_is_not_here(tiny_recipe: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "gpu9" in fails(capsys, 2, "train", str(tiny_recipe), "--device", "gpu9")
    assert not list(tmp_path.glob("runs/*"))


# One run


def test_train_evaluate_resume(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tiny_recipe), "--seed", "3", "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    result = json.loads(captured.out)
    assert result["run"] == "runs/tiny-0001"
    assert (result["seed"], result["hidden_size"]) == (3, 8)
    kept = Path(result.pop("run"))
    assert json.loads((kept / "result.json").read_text()) == result

    assert main(["evaluate", str(kept), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == result["metrics"]

    before = (kept / "result.json").read_bytes()
    assert main(["resume", str(kept)]) == 0
    assert "finished" in capsys.readouterr().err
    assert "holds a finished run" in fails(capsys, 1, "train", str(tiny_recipe), "--out", str(kept))
    assert (kept / "result.json").read_bytes() == before


def test_what_a_person_reads(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tiny_recipe), "max_epochs=1"]) == 0
    captured = capsys.readouterr()
    assert "run directory runs/tiny-0001" in captured.err
    assert "epoch 1: loss" in captured.err
    assert "accuracy (%)" in captured.out
    for protocol in ("paper", "standard"):
        assert protocol in captured.out
    assert main(["train", str(tiny_recipe), "max_epochs=1", "--quiet"]) == 0
    assert "runs/tiny-0002" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_is_a_failure_with_a_result(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cells.py").write_text(
        "import torch\n"
        "from ungated import Cell\n"
        "class Exploding(Cell):\n"
        "    def __init__(self, input_size, hidden_size):\n"
        "        super().__init__(input_size, hidden_size)\n"
        "        self.W = torch.nn.Parameter(torch.ones(input_size, hidden_size))\n"
        "    def step(self, x, h, noise=None):\n"
        "        return (x @ self.W + h) * 1e30, (x @ self.W + h) * 1e30\n"
    )
    words = ["train", str(tiny_recipe), "--cell", "cells.py:Exploding", "--quiet", "--out", "run"]
    assert "training diverged: the loss is not finite" in fails(capsys, 1, *words)
    assert json.loads(Path("run/result.json").read_text())["stopped"] == "diverged"


def test_a_text_of_ones_own_and_monte_carlo_samples_that_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my book.txt").write_text("the cat sat on the mat; a dog ran home. " * 60, encoding="utf-8")
    words = ["train", "--text", "my book.txt", "--cell", "gru", "parameters=2K", "embedding_size=8", "window=20"]
    words += ["batch_size=8", "max_epochs=1", "embedding_dropout=0.2", "--json", "--quiet"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["dataset"], result["metric"]) == ("text-my-book", "bits_per_char")
    assert result["parameters"] <= 2000

    sampled = []
    for count in ("2", "3"):
        assert main(["evaluate", result["run"], "--mc-samples", count, "--json", "--quiet"]) == 0
        sampled.append(json.loads(capsys.readouterr().out))
    assert [entry["metrics"]["samples"] for entry in sampled] == [2, 3]
    assert len(list(Path(sampled[1]["samples_kept_in"]).glob("*.npy"))) == 3
    assert main(["evaluate", result["run"], "--mc-samples", "3"]) == 0
    assert "bits per character of 3 averaged passes" in capsys.readouterr().out
    assert "valid or test" in fails(capsys, 2, "evaluate", result["run"], "--mc-samples", "1", "--split", "train")

    assert main(["report", result["run"], "--collect"]) == 0
    for kept in Path("results").rglob("*.json"):
        assert str(Path.cwd()) not in kept.read_text()


def test_monte_carlo_is_for_language_models(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tiny_recipe), "max_epochs=1", "--quiet", "--out", "run"]) == 0
    capsys.readouterr()
    assert "language models" in fails(capsys, 2, "evaluate", "run", "--mc-samples", "2")


def test_ctrl_c_saves_and_the_resumed_run_is_the_uninterrupted_one(tiny_recipe: Path) -> None:
    words = ["train", str(tiny_recipe), "max_epochs=8", "batch_size=128", "--out"]
    assert main([*words, "whole"]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "ungated", *words, "stopped"],
        stderr=subprocess.PIPE,
        text=True,
        # The number of threads is part of what makes two runs the same.
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    deadline = time.monotonic() + 60
    while not Path("stopped/metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "ungated resume stopped" in errors.splitlines()[-1]
    assert not Path("stopped/result.json").exists()
    assert main(["resume", "stopped"]) == 0
    assert Path("stopped/result.json").read_bytes() == Path("whole/result.json").read_bytes()


def test_a_run_directory_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("precious")
    assert "no run" in fails(capsys, 1, "evaluate", "other")
    assert "no run" in fails(capsys, 1, "resume", "nowhere")
    assert "no run" in fails(capsys, 1, "report", "other")


def test_a_directory_of_something_else_is_left_alone(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("precious")
    assert "thesis.tex" in fails(capsys, 1, "train", str(tiny_recipe), "--out", "other")
    assert [path.name for path in Path("other").iterdir()] == ["thesis.tex"]


# Recipes


def test_show(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tiny_recipe), "reset=before", "parameters=2K", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["parameters"] <= 2000
    assert shown["hidden_size"] == 23
    assert shown["settings"]["cell.reset"] == "before"
    assert shown["origin"]["cell.reset"] == "command line"
    assert shown["origin"]["cell.gate_bias"] == "default"
    assert shown["origin"].keys() == shown["settings"].keys()

    assert main(["show", str(tiny_recipe), "reset=before"]) == 0
    text = capsys.readouterr().out
    assert "hidden size 8" in text
    line = next(line for line in text.splitlines() if "cell.reset" in line)
    assert '"before"' in line
    assert "command line" in line


def test_show_without_a_name_lists_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show"]) == 0
    assert "jsb" in capsys.readouterr().out
    assert main(["show", "--json"]) == 0
    assert "jsb/rru" in json.loads(capsys.readouterr().out)


def test_show_without_the_data_still_shows_and_downloads_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object) -> None:
        pytest.fail("show should not download")

    monkeypatch.setattr("ungated.lab.data.store.fetch", fetch)
    Path("data").mkdir()
    assert main(["show", "jsb", "--cell", "rru", "--data-dir", "data", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["parameters"] is None
    assert "JSB_Chorales.mat is not in data" in captured.err
    assert len(captured.err.splitlines()) == 1


# Data


def test_data_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert main(["data", "list", "--data-dir", "data", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["digits"]["state"] == "built in"
    assert entries["jsb"]["state"] == "missing"
    assert entries["jsb"]["counts"]["train songs"] == 229
    assert {"name", "kind", "state", "size", "counts", "summary", "licence", "source"} == entries["jsb"].keys()
    assert main(["data", "list", "--data-dir", "data"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 160
    for entry in entries.values():
        assert entry["name"] in text


def test_data_verify(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert main(["data", "verify", "digits", "--data-dir", "data"]) == 0
    assert "1,252 train images" in capsys.readouterr().out
    assert "data fetch jsb" in fails(capsys, 3, "data", "verify", "jsb", "--data-dir", "data", "--json")


def test_a_damaged_file_is_named_and_left_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "data" / "poly_music" / "JSB_Chorales.mat"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"MATLAB 5.0 MAT-file, cut short")
    words = ["train", "jsb", "--cell", "gru", "--data-dir", "data"]
    assert "JSB_Chorales.mat" in fails(capsys, 1, *words)
    assert "jsb" in fails(capsys, 1, "data", "verify", "jsb", "--data-dir", "data")
    assert file.read_bytes() == b"MATLAB 5.0 MAT-file, cut short"
    assert not list(tmp_path.glob("runs/*"))


# Reports


def test_a_run_is_kept_and_written_into_a_document(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ungated.lab.reports.documents import begin, end

    for seed in ("0", "1"):
        assert main(["train", str(tiny_recipe), "--quiet", "--seed", seed, "--out", f"run{seed}"]) == 0
    Path("README.md").write_text(f"# Mine\n{begin('results')}\n{end('results')}\n")
    capsys.readouterr()
    assert main(["report", "run0", "run1", "--collect", "--tables", "README.md"]) == 0
    assert {path.name for path in Path("results/digits/gru").iterdir()} == {"tiny-seed0.json", "tiny-seed1.json"}
    assert "accuracy" in Path("README.md").read_text()
    capsys.readouterr()
    assert main(["report"]) == 0
    text = capsys.readouterr().out
    assert "±" in text
    assert main(["report", "--json"]) == 0
    assert [entry["result"]["seed"] for entry in json.loads(capsys.readouterr().out)] == [0, 1]


# Errors of any kind


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "jsbb", "--cell", "rru", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_error_that_nobody_foresaw_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("ungated.lab.training.recipe.load_recipe", broken)
    line = fails(capsys, 1, "show", "jsb", "--cell", "rru")
    assert "RuntimeError: CUDA out of memory. Tried to allocate" in line
    assert "--debug" in line


def test_ctrl_c_anywhere_exits_with_its_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ungated.lab.training.recipe.load_recipe", interrupted)
    assert fails(capsys, 75, "show", "jsb", "--cell", "rru") == "ungated: interrupted"


@pytest.mark.parametrize(
    ("program", "reader"),
    [
        ("-m ungated data list", "head -n 1"),
        # What is still in the buffer at the end, when the reader has long left.
        ("-c 'import sys; from ungated.lab import cli; cli.app = lambda *_, **__: print(1); cli.main([])'", "true"),
    ],
)
def test_a_reader_that_leaves_is_no_error_message(program: str, reader: str) -> None:
    command = f"PYTHONUNBUFFERED= {sys.executable} {program} | {reader}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("jsb") == (reader != "true")


def test_of_several_processes_only_the_first_speaks(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--out" in fails(capsys, 2, "train", str(tiny_recipe))
    monkeypatch.setenv("RANK", "1")
    assert main(["train", str(tiny_recipe)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")

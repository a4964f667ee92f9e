"""One run from beginning to end: its files, when it ends, and that stopping it changes nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ungated.lab.data import DATASETS
from ungated.lab.errors import CheckpointError, DataError, Interrupted, RecipeError, RunBusyError, RunError
from ungated.lab.tasks import TASKS
from ungated.lab.training import checkpoint
from ungated.lab.training.evaluate import evaluate_run, load_model
from ungated.lab.training.loop import Loop
from ungated.lab.training.progress import Progress
from ungated.lab.training.recipe import Recipe
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.train import resume, train

from ...faults import tiny


@pytest.fixture(autouse=True)
def _tiny_data() -> Iterator[None]:
    before = dict(DATASETS)
    tiny.register()
    yield
    DATASETS.clear()
    DATASETS.update(before)


def recipe(name: str = "music", **settings: object) -> Recipe:
    return Recipe.from_toml(tiny.RECIPES[name]).override(settings)


class Events(Progress):
    """Notes what it is told; acts at the n-th call of a kind."""

    def __init__(self, kind: str = "", number: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.kind, self.number, self.act = kind, number, act
        self.counts: dict[str, int] = {}
        self.notices: list[str] = []
        self.stopped = False

    def _happens(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind == self.kind and self.counts[kind] == self.number:
            self.act()

    def batch(self, done: int, total: int, loss: float) -> None:
        self._happens("batch")

    def evaluating(self, split: str, done: int, total: int) -> None:
        self._happens(split)

    def epoch(self, entry: Any, best: float | None, waited: int) -> None:
        self._happens("epoch")

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def stop(self) -> None:
        self.stopped = True


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def same_outcome(a: Path, b: Path) -> bool:
    """Result and weights, bit for bit, and the same losses."""
    names = ("result.json", "best.safetensors")
    losses = [
        [{key: value for key, value in entry.items() if key != "seconds"} for entry in RunDirectory(path).metrics()]
        for path in (a, b)
    ]
    return losses[0] == losses[1] and all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_what_a_run_leaves(tmp_path: Path) -> None:
    events = Events()
    run = RunDirectory(tmp_path / "run")
    result = train(run, recipe(), seed=4, progress=events)
    assert events.stopped and events.counts["epoch"] == 2 and events.notices == []
    assert sorted(path.name for path in run.path.iterdir()) == [
        "best.safetensors",
        "environment.json",
        "metrics.jsonl",
        "recipe.toml",
        "result.json",
        "run.lock",
    ]
    assert result == run.read_result()
    expected = {"dataset": "tiny-music", "cell": "gru", "recipe": "tiny-music/gru", "seed": 4, "trained_under": "paper"}
    expected |= {"hidden_size": 5, "epochs": 2, "stopped": "max_epochs", "metric": "nll_per_frame", "published": None}
    assert {key: result[key] for key in expected} == expected
    entries = run.metrics()
    assert [entry["epoch"] for entry in entries] == [1, 2] and entries[-1]["step"] == result["steps"]
    assert set(entries[0]) >= {"train_loss", "valid", "learning_rate", "seconds"}
    assert (
        min(entry["valid"]["nll_per_frame"] for entry in entries)
        == result["metrics"]["paper"]["valid"]["nll_per_frame"]
    )
    environment = run.read_environment()
    assert environment["seed"] == 4 and environment["device"] == "cpu"
    assert environment["threads"] == torch.get_num_threads()
    assert Recipe.from_toml(run.read_recipe()).values() == recipe().values()


@pytest.mark.parametrize("name", ["music", "text"])
def test_the_seed_decides_the_numbers(tmp_path: Path, name: str) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(folder) + seed)
        train(RunDirectory(tmp_path / folder), recipe(name), seed=seed)
    assert same_outcome(tmp_path / "a", tmp_path / "b")
    weights = [RunDirectory(tmp_path / folder).read_best()[0] for folder in ("a", "c")]
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_best_weights_measure_what_the_result_says(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    result = train(run, recipe())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert evaluate_run(run) == result["metrics"]
    assert torch.equal(before, torch.get_rng_state())
    model, task, kept = load_model(run)
    assert not model.training and task.metric == "nll_per_frame" and kept.name == "tiny-music/gru"


def test_training_loss_is_the_mean_of_each_epoch_by_itself(tmp_path: Path) -> None:
    made = recipe(max_epochs=3, learning_rate=1e-20, **{"cell.recurrent_dropout": 0.0, "task.train_stride": 6})
    run = RunDirectory(tmp_path)
    train(run, made)
    model, task, _ = load_model(run)
    parts = [task.loss(model, batch, None)[1].item() for batch in task.epoch(1, 0)]
    expected = sum(parts) / sum(batch.weight for batch in task.epoch(1, 0))
    assert [entry["train_loss"] for entry in run.metrics()] == pytest.approx([expected] * 3)
    assert all(entry["gradient_norm"] > 0 for entry in run.metrics())


# When a run ends


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let validation give these values, epoch by epoch."""
    task = TASKS["music"]
    measure = task.evaluate
    to_come = iter(values)

    def evaluate(self: Any, model: Any, split: str, protocol: str, progress: Any = None) -> dict[str, float]:
        value = next(to_come, None)
        return measure(self, model, split, protocol, progress) if value is None else {"nll_per_frame": value}

    monkeypatch.setattr(task, "evaluate", evaluate)


def test_early_stopping_waits_for_patience_epochs_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    scripted(monkeypatch, [9.0, 8.0, 8.0, 7.5, nan, 7.5, 8.0])
    result = train(RunDirectory(tmp_path), recipe(patience=3, max_epochs=50))
    assert (result["stopped"], result["epochs"], result["best_epoch"]) == ("patience", 7, 4)
    values = [entry["valid"]["nll_per_frame"] for entry in RunDirectory(tmp_path).metrics()]
    assert values == [9.0, 8.0, 8.0, 7.5, None, 7.5, 8.0]


def test_higher_may_be_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS["music"], "higher_is_better", True)
    scripted(monkeypatch, [1.0, 3.0, 2.0])
    assert train(RunDirectory(tmp_path), recipe(max_epochs=3))["best_epoch"] == 2


def test_without_patience_the_number_of_epochs_is_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [1.0, 2.0, 3.0, 4.0])
    result = train(RunDirectory(tmp_path), recipe(patience=None, max_epochs=4))
    assert (result["stopped"], result["epochs"], result["best_epoch"]) == ("max_epochs", 4, 1)


def test_validation_that_is_never_a_number_leaves_no_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [float("nan"), float("inf")])
    result = train(RunDirectory(tmp_path), recipe())
    assert result["metrics"] is None and result["best_epoch"] == 0
    with pytest.raises(CheckpointError, match="no best weights"):
        load_model(RunDirectory(tmp_path))


def break_down(monkeypatch: pytest.MonkeyPatch, at: int, how: str) -> list[dict[str, torch.Tensor]]:
    """Make loss or gradient of update number `at` NaN; returns a list that gets the weights before that update."""
    task = TASKS["music"]
    intact, count, seen = task.loss, [0], []

    def loss(self: Any, model: torch.nn.Module, batch: Any, state: Any = None) -> Any:
        count[0] += 1
        value, total, state = intact(self, model, batch, state)
        if count[0] == at:
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            if how == "loss":
                value = value * float("nan")
            else:
                value.register_hook(lambda gradient: gradient * float("inf"))
        return value, total, state

    monkeypatch.setattr(task, "loss", loss)
    return seen


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_nan_is_caught_before_the_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    updates = train(RunDirectory(tmp_path / "whole"), recipe())["steps"] // 2
    seen = break_down(monkeypatch, updates + 2, how)
    run = RunDirectory(tmp_path / "run")
    result = train(run, recipe())
    assert result["stopped"] == "diverged" and result["epochs"] == 1 and result["best_epoch"] == 1
    for words in (f"the {how} is not finite", "epoch 2, batch 2", f"after {updates + 1} updates", "rate 0.01"):
        assert words in result["message"]
    assert result["metrics"]["paper"]["test"]["nll_per_frame"] > 0
    loaded = checkpoint.load_state(run.path)  # the last good state is kept
    assert loaded is not None
    assert all(torch.equal(loaded.state["model"][name], seen[0][name]) for name in seen[0])
    assert resume(run) == result


def test_nan_in_the_first_batch_is_a_result_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_down(monkeypatch, 1, "loss")
    result = train(RunDirectory(tmp_path), recipe())
    assert result["stopped"] == "diverged" and result["metrics"] is None and result["steps"] == 0


def test_an_epoch_without_batches_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS["music"], "epoch", lambda self, number, seed: [])
    with pytest.raises(DataError, match="too little training data"):
        train(RunDirectory(tmp_path), recipe())


# Accumulation and precision


@pytest.mark.parametrize("name", ["music", "text"])
def test_accumulation_changes_memory_and_not_the_numbers(tmp_path: Path, name: str) -> None:
    results = {}
    for parts in (1, 2):
        # Plain SGD: adaptive optimisers blow up rounding where a gradient is nearly zero.
        settings = {"optimizer.name": "sgd", "cell.recurrent_dropout": 0.0, "model.dropout": 0.0}
        made = recipe(name, batch_size=4, accumulate=parts, **settings)
        run = RunDirectory(tmp_path / str(parts))
        train(run, made)
        results[parts] = run
    losses = [[entry["train_loss"] for entry in run.metrics()] for run in results.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    first, second = (run.read_best()[0] for run in results.values())
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-6)


def test_autocast_keeps_parameters_in_single_precision(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "half")
    result = train(run, recipe("text", autocast="bfloat16"))
    assert all(tensor.dtype == torch.float32 for tensor in run.read_best()[0].values())
    whole = train(RunDirectory(tmp_path / "single"), recipe("text"))
    assert result["metrics"] != whole["metrics"]
    for protocol in ("paper", "standard"):
        for name, value in whole["metrics"][protocol]["test"].items():
            assert result["metrics"][protocol]["test"][name] == pytest.approx(value, rel=0.05)


# Epochs shorter than a pass through the data


@pytest.mark.parametrize("name", ["music", "text"])
def test_a_shortened_epoch_goes_on_in_the_data_where_the_last_one_stopped(tmp_path: Path, name: str) -> None:
    whole = RunDirectory(tmp_path / "whole")
    updates = train(whole, recipe(name, max_epochs=2), seed=3)["steps"]
    short = RunDirectory(tmp_path / "short")
    train(short, recipe(name, epoch_updates=3, max_epochs=-(-updates // 3)), seed=3)
    entries = short.metrics()
    assert [entry["step"] for entry in entries] == [3 * entry["epoch"] for entry in entries]
    exact = RunDirectory(tmp_path / "exact")
    train(exact, recipe(name, epoch_updates=updates, max_epochs=1), seed=3)
    # One validation instead of two in the middle: the same updates, so the same last validation, to the bit.
    assert exact.metrics()[-1]["valid"] == whole.metrics()[-1]["valid"]


def test_shortened_epochs_stopped_anywhere_come_to_the_same_end(tmp_path: Path) -> None:
    made = recipe("text", epoch_updates=2, max_epochs=6)
    train(RunDirectory(tmp_path / "whole"), made, seed=3)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(run, made, seed=3, progress=Events("batch", 1, terminate))
    for _ in range(30):
        try:
            resume(run, progress=Events("batch", 1, terminate))
        except Interrupted:
            continue
        break
    assert same_outcome(tmp_path / "whole", run.path)


def test_an_epoch_has_at_least_one_update() -> None:
    with pytest.raises(RecipeError, match="epoch_updates should be at least 1, got 0"):
        recipe(epoch_updates=0)


# Stopping and going on


@pytest.mark.parametrize("name", ["music", "text"])
@pytest.mark.parametrize(
    ("kind", "number"), [("batch", 1), ("batch", 3), ("valid", 1), ("epoch", 1), ("epoch", 2), ("test", 1)]
)
def test_stopped_anywhere_a_run_goes_on_to_the_same_end(tmp_path: Path, name: str, kind: str, number: int) -> None:
    train(RunDirectory(tmp_path / "whole"), recipe(name), seed=3)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(Interrupted, match=r"SIGTERM.*`ungated resume .*run`") as stopped:
        train(run, recipe(name), seed=3, progress=Events(kind, number, terminate))
    assert stopped.value.exit_status == 75 and not run.finished
    torch.manual_seed(1234)
    events = Events()
    resume(run, progress=events)
    assert events.notices == []
    assert same_outcome(tmp_path / "whole", run.path)


def test_stopped_again_and_again(tmp_path: Path) -> None:
    train(RunDirectory(tmp_path / "whole"), recipe("text"), seed=3)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(run, recipe("text"), seed=3, progress=Events("batch", 1, terminate))
    for _ in range(20):
        try:
            resume(run, progress=Events("batch", 1, terminate))
        except Interrupted:
            continue
        break
    assert same_outcome(tmp_path / "whole", run.path)


def test_a_damaged_state_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    train(RunDirectory(tmp_path / "whole"), recipe(), seed=3)
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(Interrupted):
        train(run, recipe(), seed=3, save_every=0, progress=Events("batch", 3, terminate))
    newest = max(run.path.glob("state-*")) / "tensors.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-5] ^= 4
    newest.write_bytes(damaged)
    events = Events()
    resume(run, progress=events)
    assert len(events.notices) == 1 and str(newest) in events.notices[0]
    (kept,) = run.path.glob("damaged-*")
    for file in kept.iterdir():
        file.unlink()
    kept.rmdir()
    assert same_outcome(tmp_path / "whole", run.path)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    result = train(run, recipe())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"}
    events = Events()
    assert resume(run, progress=events) == result
    assert events.notices == [f"{run} is finished: nothing to resume"]
    with pytest.raises(RunError, match="finished run"):
        train(run, recipe())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"} == before


def test_epochs_after_the_state_are_logged_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(Interrupted):
        train(run, recipe(), progress=Events("epoch", 1, terminate))
    run.append_metrics({"epoch": 2, "step": 77})  # as one killed between its line and its state would leave
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "st')
    resume(run)
    assert [entry["epoch"] for entry in run.metrics()] == [1, 2] and run.metrics()[1]["step"] != 77


def interrupted(path: Path, made: Recipe) -> RunDirectory:
    run = RunDirectory(path)
    with pytest.raises(Interrupted):
        train(run, made, progress=Events("batch", 1, terminate))
    return run


def test_another_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    run = interrupted(tmp_path, recipe())
    with pytest.raises(RunError, match=r"optimizer\.learning_rate was 0\.01, is 0\.5"):
        resume(run, recipe(learning_rate=0.5))
    with pytest.raises(RunError, match="unfinished run"):
        train(run, recipe())
    file = tmp_path / "recipe.toml"
    file.write_text(file.read_text().replace("learning_rate = 0.01", "learning_rate = 0.02"))
    with pytest.raises(CheckpointError, match=r"recipe\.optimizer\.learning_rate was 0\.01, is 0\.02"):
        resume(run)
    file.write_text(file.read_text().replace("learning_rate = 0.02", "learning_rate = 0.01"))
    resume(run, recipe())


def test_another_seed_in_the_environment_is_refused(tmp_path: Path) -> None:
    run = interrupted(tmp_path, recipe())
    run.write_environment(run.read_environment() | {"seed": 1})
    with pytest.raises(CheckpointError, match="seed was 0, is 1"):
        resume(run)


def test_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(tmp_path / "a", recipe())
    finished = RunDirectory(tmp_path / "b")
    train(finished, recipe())
    signature = TASKS["music"].signature
    monkeypatch.setattr(TASKS["music"], "signature", lambda self: signature(self) | {"vocabulary": "other"})
    with pytest.raises(CheckpointError, match="vocabulary was None, is 'other'"):
        resume(run)
    with pytest.raises(CheckpointError, match="vocabulary was None, is 'other'"):
        load_model(finished)


ELMAN = """
import torch
from ungated.cells import Cell
class Elman(Cell):
    def __init__(self, input_size, hidden_size, *, gain=0.5):
        super().__init__(input_size, hidden_size)
        self.W = torch.nn.Parameter(gain * torch.randn(input_size + hidden_size, hidden_size))
    def step(self, drive, state, noise=None):
        h = torch.tanh(torch.cat([drive, state], dim=-1) @ self.W)
        return h, h
"""


def test_a_cell_of_ones_own_is_named_again_to_go_on(tmp_path: Path) -> None:
    file = tmp_path / "elman.py"
    file.write_text(ELMAN)
    cell = f"{file}:Elman"
    text = tiny.MUSIC.replace('name = "gru"\nrecurrent_dropout = 0.3', 'name = "elman"')
    made = Recipe.from_toml(text, cell=cell)
    train(RunDirectory(tmp_path / "whole"), made)
    run = interrupted(tmp_path / "run", made)
    with pytest.raises(RecipeError, match=r"elman.*--cell"):
        resume(run)
    file.write_text(ELMAN.replace("tanh", "sigmoid"))
    with pytest.raises(CheckpointError, match="the file of the cell elman has changed"):
        resume(run, cell=cell)
    file.write_text(ELMAN)
    resume(run, cell=cell)
    assert same_outcome(tmp_path / "whole", run.path)
    assert evaluate_run(run, cell=cell) == (run.read_result() or {})["metrics"]


def test_another_machine_is_a_notice(tmp_path: Path) -> None:
    run = interrupted(tmp_path, recipe())
    run.write_environment(run.read_environment() | {"torch": "2.8.0", "threads": 64})
    events = Events()
    resume(run, progress=events)
    (notice,) = events.notices
    assert "not bit-identical" in notice and "torch 2.8.0" in notice and "threads 64 is now" in notice


def test_a_run_killed_before_its_first_state_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(RunDirectory(tmp_path / "whole"), recipe(), seed=3)
    run = RunDirectory(tmp_path / "run")

    def die(self: Loop) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as context:
        context.setattr(Loop, "train", die)
        with pytest.raises(RuntimeError, match="killed"):
            train(run, recipe(), seed=3)
    resume(run)
    assert same_outcome(tmp_path / "whole", run.path)


def test_nothing_is_made_where_the_recipe_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="too small"):
        train(RunDirectory(tmp_path / "run"), recipe(hidden_size=None, parameters=7))
    assert not (tmp_path / "run").exists()


def test_a_busy_directory_is_left_alone(tmp_path: Path) -> None:
    run = interrupted(tmp_path, recipe())
    with RunDirectory(tmp_path).locked(), pytest.raises(RunBusyError, match=str(os.getpid())):
        resume(run)
    resume(run)


def test_states_take_a_share_of_the_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr("ungated.lab.training.loop.save_state", lambda run, state: saved.append(state["position"]))
    train(RunDirectory(tmp_path), recipe(max_epochs=3))
    assert [position["stopped"] for position in saved] == ["max_epochs"]


def test_results_are_json_without_times(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    train(run, recipe())
    text = (tmp_path / "result.json").read_text()
    assert "seconds" not in text
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))

"""The language task: batches, resets, losses, and what a text that does not fit is told."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from ungated import RNN
from ungated.cells import CELLS
from ungated.lab.data.families import LanguageData
from ungated.lab.errors import DataError, RecipeError
from ungated.lab.tasks.language import LanguageTask, from_nats


def data(train: int = 200, valid: int = 60, test: int = 50, unit: str = "char") -> LanguageData:
    return LanguageData(
        *(torch.arange(n) % 7 for n in (train, valid, test)),
        vocabulary=list("abcdefg"),
        unit=unit,
        stream="standard",
    )


def task(batch_size: int = 3, text: LanguageData | None = None, **settings: Any) -> LanguageTask:
    return LanguageTask(text or data(), LanguageTask.Settings(**settings), batch_size=batch_size)


def model_of(task: LanguageTask, cell: str = "gru") -> Any:
    torch.manual_seed(0)
    return task.model(lambda m: RNN(CELLS[cell], m, 5), LanguageTask.Model(embedding_size=4))


@pytest.mark.parametrize("streams", ["windows", "symbols"])
def test_streams_go_on_from_batch_to_batch(streams: str) -> None:
    epoch = task(window=8, streams=streams).epoch(1, 0)
    for before, after in pairwise(epoch):
        assert torch.equal(before.targets[:-1], before.inputs[1:])
        assert torch.equal(before.targets[-1], after.inputs[0])
    assert [batch.reset for batch in epoch] == [True] + [False] * (len(epoch) - 1)
    # 200 symbols: 24 windows in 3 parts of 8; or rows of 66 symbols with 8 windows.
    assert len(epoch) == 8
    starts = [0, 64, 128] if streams == "windows" else [0, 66, 132]
    assert epoch[0].inputs[0].tolist() == [start % 7 for start in starts]


def test_resets_come_with_their_probability_and_repeat() -> None:
    always = task(window=8, reset_probability=1.0).epoch(1, 0)
    assert all(batch.reset for batch in always)
    some = task(text=data(train=20_000), window=4, reset_probability=0.1)
    drawn = [batch.reset for batch in some.epoch(2, 5)]
    assert drawn == [batch.reset for batch in some.epoch(2, 5)]
    assert drawn != [batch.reset for batch in some.epoch(3, 5)]
    assert 0.07 < sum(drawn) / len(drawn) < 0.13


def test_shuffled_windows_hold_each_window_once() -> None:
    text = LanguageData(
        torch.arange(50) % 50,
        torch.arange(50),
        torch.arange(50),
        vocabulary=list(range(50)),
        unit="byte",
        stream="paper",
    )
    stateless = task(text=text, batch_size=4, window=8, stateful=False, train_stride=4)
    assert not stateless.carries_state
    epoch = stateless.epoch(1, 0)
    assert [batch.rows for batch in epoch] == [4, 7]  # starts 0, 4, ..., 40
    assert sorted(int(start) for batch in epoch for start in batch.inputs[0]) == list(range(0, 44, 4))
    assert all(torch.equal(batch.inputs + 1, batch.targets) for batch in epoch)
    assert epoch[0].inputs[0].tolist() != stateless.epoch(2, 0)[0].inputs[0].tolist()
    assert stateless.loss(model_of(stateless), epoch[0])[2] is None


@pytest.mark.parametrize("cell", ["gru", "lstm", "rhn"])
def test_the_carried_state_makes_windows_one_text_without_gradient(cell: str) -> None:
    stateful = task(window=8)
    assert stateful.carries_state
    model = model_of(stateful, cell)
    epoch = stateful.epoch(1, 0)
    _, first, state = stateful.loss(model, epoch[0])
    _, second, _ = stateful.loss(model, epoch[1], state)
    logits, _ = model(torch.cat([epoch[0].inputs, epoch[1].inputs]))
    targets = torch.cat([epoch[0].targets, epoch[1].targets])
    whole = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    assert (first + second).item() == pytest.approx(whole.item(), rel=1e-5)
    for tensor in (state,) if isinstance(state, torch.Tensor) else state or ():
        assert not tensor.requires_grad
    # A batch that resets does not look at the state.
    assert torch.equal(stateful.loss(model, epoch[0], state)[0], stateful.loss(model, epoch[0])[0])


def test_the_summed_loss_is_the_mean_times_the_window() -> None:
    mean, total = task(window=8, loss="mean"), task(window=8, loss="sum")
    model = model_of(mean)
    batch = mean.epoch(1, 0)[0]
    assert total.loss(model, batch)[0].item() == pytest.approx(8 * mean.loss(model, batch)[0].item(), rel=1e-6)
    assert mean.loss(model, batch)[1].item() / batch.weight == pytest.approx(mean.loss(model, batch)[0].item())
    assert batch.weight == 3 * 8


@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_the_loss_of_parts_adds_up(loss: str) -> None:
    whole = task(window=8, loss=loss, batch_size=5)
    model = model_of(whole)
    batch = whole.epoch(1, 0)[0]
    parts = [batch.part(i, 2) for i in range(2)]
    weighted = sum(part.weight * whole.loss(model, part)[0].item() for part in parts)
    assert weighted / batch.weight == pytest.approx(whole.loss(model, batch)[0].item(), rel=1e-5)


def test_metrics_are_named_after_the_unit() -> None:
    for unit, metric in [("word", "perplexity"), ("char", "bits_per_char"), ("byte", "bits_per_char")]:
        named = task(text=data(unit=unit), window=8)
        assert named.metric == metric
        for protocol in ("paper", "standard"):
            assert set(named.evaluate(model_of(named), "valid", protocol)) == {"nll", metric}


def test_nats_become_the_metric() -> None:
    assert from_nats(2.0, "perplexity") == pytest.approx(math.exp(2.0))
    assert from_nats(math.log(2), "bits_per_char") == pytest.approx(1.0)
    assert from_nats(1e4, "perplexity") == math.inf
    assert math.isnan(from_nats(math.nan, "perplexity"))


def test_the_paper_metric_is_the_recipes() -> None:
    model = model_of(task(window=8))
    half = task(window=8).evaluate(model, "test", "paper")
    rows = task(window=8, paper_metric="batched-rows").evaluate(model, "test", "paper")
    assert half != rows


def test_progress_goes_to_its_end() -> None:
    for settings in ({}, {"paper_metric": "batched-rows"}, {"stateful": False}):
        shown = task(window=8, **settings)
        for protocol in ("paper", "standard"):
            seen: list[tuple[int, int]] = []
            shown.evaluate(model_of(shown), "test", protocol, lambda done, total, seen=seen: seen.append((done, total)))
            assert seen == sorted(seen)
            assert seen[-1][0] == seen[-1][1] > 0


def test_a_text_that_does_not_fit_is_said() -> None:
    with pytest.raises(DataError, match="the test text has 8 symbols, but one window with its targets takes 9"):
        task(text=data(test=8), window=8)
    with pytest.raises(DataError, match="the train text has 0 symbols"):
        task(text=data(train=0), window=8)
    with pytest.raises(
        DataError, match=r"the train text has 200 symbols, but 30 streams .* lower batch_size or window"
    ):
        task(batch_size=30, window=8)
    strange = data()
    strange.valid[5] = 7
    with pytest.raises(DataError, match=r"the symbols of the valid text should be in 0..6, but at \[5\] there is 7"):
        task(text=strange, window=8)


def test_bad_settings_are_said() -> None:
    with pytest.raises(RecipeError, match="window = 0"):
        LanguageTask.Settings(window=0)
    with pytest.raises(RecipeError, match="stateful = true"):
        LanguageTask.Settings(window=8, train_stride=4)
    with pytest.raises(RecipeError, match="reset_probability"):
        LanguageTask.Settings(reset_probability=1.1)
    with pytest.raises(RecipeError, match='"mean", "sum"'):
        LanguageTask.Settings(loss="total")
    with pytest.raises(RecipeError, match='"hidden", "smaller"'):
        LanguageTask.Model(embedding_rule="narrow")


def test_the_signature_tells_vocabularies_apart() -> None:
    ours = task(window=8).signature()
    other = data()
    other.vocabulary[0] = "z"
    assert ours != task(text=other, window=8).signature()
    assert ours == task(window=9).signature()

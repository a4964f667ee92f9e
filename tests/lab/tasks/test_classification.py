"""Classification: the head, the loss, both averages of accuracy, and what bad data is told."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ungated import RNN, count_parameters
from ungated.cells import CELLS
from ungated.lab.data import DATASETS
from ungated.lab.data.families import ClassificationData, Examples
from ungated.lab.errors import DataError, RecipeError
from ungated.lab.tasks.classification import ClassificationTask


def texts(count: int = 7, steps: int = 6, symbols: int = 9, classes: int = 3, seed: int = 0) -> ClassificationData:
    """Ragged sequences of ids, padded with 0."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, steps + 1, (count,), generator=g)
    ids = torch.randint(1, symbols, (count, steps), generator=g)
    ids[torch.arange(steps) >= lengths[:, None]] = 0
    examples = Examples(ids, torch.randint(0, classes, (count,), generator=g), lengths)
    return ClassificationData(examples, examples, examples, classes=classes, vocabulary_size=symbols)


class Answers(nn.Module):
    """Logits that are written in the inputs' first step."""

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        return inputs[0]


def test_both_averages_on_a_worked_example() -> None:
    # Five examples of two classes, batches of two: (0, 1), (2, 3, 4). Right: 0, 1, 2.
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    examples = Examples(logits[:, None], torch.tensor([0, 1, 0, 0, 0]))
    task = ClassificationTask(ClassificationData(examples, examples, examples, classes=2), batch_size=2)
    nll = [math.log1p(math.exp(-2)), math.log1p(math.exp(-2)), math.log1p(math.exp(-1))]
    nll += [math.log1p(math.exp(1)), math.log1p(math.exp(3))]
    standard = task.evaluate(Answers(), "test", "standard")
    paper = task.evaluate(Answers(), "test", "paper")
    assert standard["accuracy"] == pytest.approx(3 / 5)
    assert standard["cross_entropy"] == pytest.approx(sum(nll) / 5)
    assert paper["accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert paper["cross_entropy"] == pytest.approx((sum(nll[:2]) / 2 + sum(nll[2:]) / 3) / 2)


def test_label_smoothing_moves_the_targets() -> None:
    # Two classes, smoothing 0.1: targets 0.95 and 0.05.
    examples = Examples(torch.tensor([[[1.0, -1.0]]]), torch.tensor([0]))
    data = ClassificationData(examples, examples, examples, classes=2)
    task = ClassificationTask(data, ClassificationTask.Settings(label_smoothing=0.1), batch_size=1)
    p = 1 / (1 + math.exp(-2))
    loss, total, _ = task.loss(Answers(), task.epoch(1, 0)[0])
    assert loss.item() == pytest.approx(-0.95 * math.log(p) - 0.05 * math.log(1 - p))
    assert total.item() == pytest.approx(loss.item())
    assert task.evaluate(Answers(), "test", "standard")["cross_entropy"] == pytest.approx(-math.log(p))


@pytest.mark.parametrize("cell", CELLS)
def test_padding_and_neighbours_do_not_matter(cell: str) -> None:
    data = texts(count=9)
    torch.manual_seed(0)
    task = ClassificationTask(data, batch_size=4)
    model = task.model(lambda m: RNN(CELLS[cell], m, 5, num_layers=2), ClassificationTask.Model(embedding_size=4))
    model = model.double()
    alone = []
    with torch.no_grad():
        for ids, length in zip(data.test.inputs, data.test.lengths, strict=True):  # type: ignore[arg-type]
            alone.append(model(ids[:length, None])[0])
        together = model(data.test.inputs.T, data.test.lengths)
    assert torch.allclose(together, torch.stack(alone), atol=1e-12)
    nll = nn.functional.cross_entropy(torch.stack(alone), data.test.targets).item()
    assert task.evaluate(model, "test", "standard")["cross_entropy"] == pytest.approx(nll, rel=1e-12)


def test_batches_are_trimmed_and_hold_every_example_once() -> None:
    data = texts(count=11)
    epoch = ClassificationTask(data, batch_size=3).epoch(4, 2)
    assert [batch.rows for batch in epoch] == [3, 3, 5]
    seen = []
    for batch in epoch:
        assert batch.lengths is not None
        assert batch.inputs.shape[0] == int(batch.lengths.max())
        assert batch.weight == batch.rows
        for row in range(batch.rows):
            seen.append((*batch.inputs[: batch.lengths[row], row].tolist(), -1, int(batch.targets[row])))
    expected = [
        (*ids[:length].tolist(), -1, int(target))
        for ids, length, target in zip(data.train.inputs, data.train.lengths, data.train.targets, strict=True)  # type: ignore[arg-type]
    ]
    assert sorted(seen) == sorted(expected)


def test_ids_are_one_hot_without_an_embedding() -> None:
    data = texts()
    task = ClassificationTask(data, batch_size=2)
    model = task.model(lambda m: RNN(CELLS["gru"], m, 5))
    assert model.rnn.input_size == 9
    read = model.read(data.train.inputs[:1].T)
    assert torch.equal(read.argmax(-1)[:, 0], data.train.inputs[0])
    assert torch.equal(read.sum(-1), torch.ones(6, 1))


@pytest.mark.parametrize(
    ("cell", "n", "options", "parameters"),
    [
        ("rru", 49, {"output_size": 64}, 68_624),
        ("gru", 87, {}, 69_784),
        ("lstm", 75, {}, 69_160),
        ("mogrifier", 46, {"rounds": 6, "rank": 50}, 68_531),
    ],
)
def test_published_sizes_for_pixels(cell: str, n: int, options: dict[str, Any], parameters: int) -> None:
    examples = Examples(torch.zeros(1, 784, 1), torch.zeros(1, dtype=torch.int64))
    task = ClassificationTask(ClassificationData(examples, examples, examples, classes=10), batch_size=64)
    with torch.device("meta"):
        assert count_parameters(task.model(lambda m: RNN(CELLS[cell], m, n, 2, **options))) == parameters


@pytest.mark.parametrize(
    ("cell", "n", "options", "parameters"),
    [
        ("rru", 1490, {"output_size": 64}, 19_977_594),
        ("gru", 1455, {}, 19_984_227),
        ("lstm", 1259, {}, 19_995_868),
        ("mogrifier", 1233, {"rounds": 5, "rank": 40}, 19_972_871),
    ],
)
def test_published_sizes_for_reviews(cell: str, n: int, options: dict[str, Any], parameters: int) -> None:
    task = ClassificationTask(texts(symbols=10_000, classes=2), batch_size=64)
    with torch.device("meta"):
        model = task.model(lambda m: RNN(CELLS[cell], m, n, 2, **options), ClassificationTask.Model(embedding_size=64))
    assert count_parameters(model) == parameters


def test_bad_data_and_settings_are_said() -> None:
    data = texts()
    wrong = replace(data.valid, targets=torch.tensor([0, 1, 2, 3, 0, 0, 0]))
    with pytest.raises(DataError, match=r"the valid classes should be in 0..2, but at \[3\] there is 3"):
        ClassificationTask(replace(data, valid=wrong), batch_size=2)
    with pytest.raises(DataError, match=r"the train inputs should be in 0..3"):
        ClassificationTask(replace(data, vocabulary_size=4), batch_size=2)
    empty = Examples(torch.zeros(0, 3, 1), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="the train examples are empty"):
        ClassificationTask(ClassificationData(empty, empty, empty, classes=2), batch_size=2)
    short = replace(data.test, lengths=torch.tensor([0, 1, 1, 1, 1, 1, 1]))
    with pytest.raises(DataError, match=r"lengths of the test examples should be in 1..6"):
        ClassificationTask(replace(data, test=short), batch_size=2)
    with pytest.raises(DataError, match="no vocabulary_size"):
        ClassificationTask(replace(data, vocabulary_size=None), batch_size=2)
    with pytest.raises(DataError, match="7 train examples but 6 targets"):
        ClassificationTask(replace(data, train=replace(data.train, targets=data.train.targets[:6])), batch_size=2)
    with pytest.raises(RecipeError, match="label_smoothing"):
        ClassificationTask.Settings(label_smoothing=1.0)
    with pytest.raises(RecipeError, match="batch_size"):
        ClassificationTask(data, batch_size=0)
    numbers = Examples(torch.zeros(2, 3, 1), torch.zeros(2, dtype=torch.int64))
    task = ClassificationTask(ClassificationData(numbers, numbers, numbers, classes=2), batch_size=2)
    with pytest.raises(RecipeError, match="embedding_size is for inputs that are ids"):
        task.model(lambda m: RNN(CELLS["gru"], m, 4), ClassificationTask.Model(embedding_size=3))


def test_a_bidirectional_layer_reads_the_whole_sequence() -> None:
    task = ClassificationTask(texts(), batch_size=2)
    model = task.model(lambda m: RNN(CELLS["lstm"], m, 5, bidirectional=True))
    assert model.output.in_features == 10
    task.loss(model, task.epoch(1, 0)[0])[0].backward()


def test_digits_are_learnt() -> None:
    data = DATASETS["digits"].load(None, DATASETS["digits"].Options())
    task = ClassificationTask(data, batch_size=64)
    torch.manual_seed(0)
    model = task.model(lambda m: RNN(CELLS["gru"], m, 32))
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for number in range(1, 4):
        for batch in task.epoch(number, 0):
            optimizer.zero_grad()
            task.loss(model, batch)[0].backward()
            optimizer.step()
    assert task.evaluate(model, "valid", "standard")["accuracy"] > 0.5


def test_published_batches_of_pixels(data_dir: Path) -> None:
    data = DATASETS["smnist"].load(data_dir, DATASETS["smnist"].Options())
    epoch = ClassificationTask(data, batch_size=64).epoch(1, 0)
    assert (len(epoch), epoch[-1].rows) == (781, 80)
    assert epoch[0].inputs.shape == (784, 64, 1)

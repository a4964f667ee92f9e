"""Copy memory: what counts is the recall part."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ungated import RNN
from ungated.cells import CELLS
from ungated.lab.data import DATASETS
from ungated.lab.data.families import CopyData, Examples
from ungated.lab.errors import DataError, RecipeError
from ungated.lab.tasks.copy_memory import CopyTask


class Says(nn.Module):
    """Puts the probability 0.7 on each input id, 0.1 on the three others."""

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        p = torch.full((*inputs.shape, 4), 0.1)
        return p.scatter(-1, inputs[..., None], 0.7).log()


def test_metrics_on_a_worked_example() -> None:
    # Recall: the last two steps. Row 0 has one right, row 1 both, row 2 none; blanks (the first step) never count.
    targets = torch.tensor([[0, 1, 2], [0, 2, 2], [0, 3, 1]])
    inputs = torch.tensor([[3, 1, 1], [3, 2, 2], [0, 0, 0]])
    examples = Examples(inputs, targets)
    task = CopyTask(CopyData(examples, examples, examples, symbols=4), batch_size=1)
    right, wrong = -math.log(0.7), -math.log(0.1)
    standard = task.evaluate(Says(), "test", "standard")
    assert standard["accuracy"] == pytest.approx(0.5)
    assert standard["cross_entropy"] == pytest.approx((3 * right + 3 * wrong) / 6)
    task = CopyTask(CopyData(examples, examples, examples, symbols=4), batch_size=2)
    assert task.evaluate(Says(), "test", "paper")["accuracy"] == pytest.approx(0.5)  # one batch of three
    loss, total, _ = task.loss(Says(), task.epoch(1, 0)[0])
    assert loss.item() == pytest.approx((4 * right + 5 * wrong) / 9)  # all steps: of the blanks, row 2's is right
    assert total.item() == pytest.approx(3 * loss.item())


def test_the_real_task_scores_what_guessing_scores() -> None:
    options = DATASETS["copy-memory"].Options(train=10, valid=10, test=400)
    task = CopyTask(DATASETS["copy-memory"].load(None, options), batch_size=100)
    model = task.model(lambda m: RNN(CELLS["gru"], m, 3))
    assert model.rnn.input_size == 10
    nn.init.zeros_(model.output.weight)
    metrics = task.evaluate(model, "test", "standard")
    assert metrics["cross_entropy"] == pytest.approx(math.log(10), rel=1e-5)
    assert metrics["accuracy"] == 0.0  # all alike: the first id, the blank


def test_bad_data_is_said() -> None:
    good = Examples(torch.tensor([[1, 0]]), torch.tensor([[0, 1]]))
    blank = Examples(torch.tensor([[1, 0]]), torch.tensor([[0, 0]]))
    outside = Examples(torch.tensor([[1, 0]]), torch.tensor([[0, 7]]))
    with pytest.raises(DataError, match="a valid sequence has nothing to recall"):
        CopyTask(CopyData(good, blank, good, symbols=3), batch_size=1)
    with pytest.raises(DataError, match=r"the test targets should be in 0..2, but at \[0, 1\] there is 7"):
        CopyTask(CopyData(good, good, outside, symbols=3), batch_size=1)
    with pytest.raises(RecipeError, match="bidirectional"):
        CopyTask(CopyData(good, good, good, symbols=3), batch_size=1).model(
            lambda m: RNN(CELLS["gru"], m, 3, bidirectional=True)
        )

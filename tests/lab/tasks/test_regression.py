"""Regression: of whole sequences and at every step, with both averages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ungated import RNN
from ungated.cells import CELLS
from ungated.lab.data import DATASETS
from ungated.lab.data.families import Examples, RegressionData
from ungated.lab.errors import DataError, RecipeError
from ungated.lab.tasks.regression import RegressionTask
from ungated.lab.tasks.sequence_models import EveryStepModel, FinalStateModel


class LastInput(nn.Module):
    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        return inputs[-1]


class EveryInput(nn.Module):
    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        return inputs


def same(examples: Examples) -> RegressionData:
    return RegressionData(examples, examples, examples)


def test_both_averages_of_final_values() -> None:
    # Squared errors 1, 4, 9, 0, 16 in batches (0, 1), (2, 3, 4).
    errors = torch.tensor([1.0, 2.0, -3.0, 0.0, 4.0])
    task = RegressionTask(same(Examples(errors.view(5, 1, 1), torch.zeros(5, 1))), batch_size=2)
    assert task.evaluate(LastInput(), "test", "standard") == {"mse": pytest.approx(30 / 5)}
    assert task.evaluate(LastInput(), "test", "paper") == {"mse": pytest.approx((5 / 2 + 25 / 3) / 2)}
    loss, total, _ = task.loss(LastInput(), task.epoch(1, 0)[0])
    assert total.item() == pytest.approx(2 * loss.item())


def test_several_values_are_averaged() -> None:
    task = RegressionTask(same(Examples(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 2))), batch_size=1)
    assert task.evaluate(LastInput(), "test", "standard")["mse"] == pytest.approx(5.0)


def test_every_step_counts_its_real_steps_alone() -> None:
    # Row 0: errors 1, 2; row 1: error 3, then padding that does not count.
    inputs = torch.tensor([[[1.0], [2.0]], [[3.0], [50.0]]])
    task = RegressionTask(same(Examples(inputs, torch.zeros(2, 2, 1), torch.tensor([2, 1]))), batch_size=2)
    assert task.every_step
    assert task.evaluate(EveryInput(), "test", "standard")["mse"] == pytest.approx((1 + 4 + 9) / 3)
    assert task.evaluate(EveryInput(), "test", "paper")["mse"] == pytest.approx((2.5 + 9) / 2)
    loss, _, _ = task.loss(EveryInput(), task.epoch(1, 0)[0])
    assert loss.item() == pytest.approx((2.5 + 9) / 2)


def test_models_fit_the_targets() -> None:
    whole = RegressionTask(same(Examples(torch.zeros(2, 5, 3), torch.zeros(2, 4))), batch_size=1)
    model = whole.model(lambda m: RNN(CELLS["rru"], m, 6, output_size=2))
    assert isinstance(model, FinalStateModel)
    assert model(torch.zeros(5, 2, 3)).shape == (2, 4)
    steps = RegressionTask(same(Examples(torch.zeros(2, 5, 3), torch.zeros(2, 5, 4))), batch_size=1)
    model = steps.model(lambda m: RNN(CELLS["rru"], m, 6, output_size=2))
    assert isinstance(model, EveryStepModel)
    assert model(torch.zeros(5, 2, 3)).shape == (5, 2, 4)
    with pytest.raises(RecipeError, match="bidirectional"):
        steps.model(lambda m: RNN(CELLS["gru"], m, 6, bidirectional=True))


def test_values_that_are_not_finite_are_refused() -> None:
    good = Examples(torch.zeros(2, 5, 3), torch.zeros(2, 4))
    bad = replace(good, targets=torch.full((2, 4), float("nan")))
    with pytest.raises(DataError, match="the valid targets hold values that are not finite"):
        RegressionTask(RegressionData(good, bad, good), batch_size=1)


def test_adding_starts_at_its_variance_and_falls() -> None:
    options = DATASETS["adding"].Options(train=500, valid=100, test=100, length=10)
    task = RegressionTask(DATASETS["adding"].load(None, options), batch_size=50)
    torch.manual_seed(0)
    model = task.model(lambda m: RNN(CELLS["gru"], m, 24))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for number in range(1, 21):
        for batch in task.epoch(number, 0):
            optimizer.zero_grad()
            task.loss(model, batch)[0].backward()
            optimizer.step()
    assert task.evaluate(model, "test", "standard")["mse"] < 0.1 < 1 / 6

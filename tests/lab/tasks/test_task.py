"""What all tasks share: batches that can be divided, epochs that can be entered anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ungated import RNN
from ungated.cells import CELLS
from ungated.lab.errors import DataError, RecipeError
from ungated.lab.tasks.heads import output_layer, top_state
from ungated.lab.tasks.task import Batch, Epoch, check_choices, choice, epoch_generator, evaluating


def batch_of(rows: int, *, per_step: bool) -> Batch:
    inputs = torch.arange(3 * rows * 2).view(3, rows, 2).float()
    targets = torch.arange(3 * rows).view(3, rows) if per_step else torch.arange(rows)
    return Batch(inputs, targets, torch.arange(1, rows + 1), torch.arange(rows).float(), per_step=per_step, reset=True)


@pytest.mark.parametrize("per_step", [True, False])
def test_the_parts_of_a_batch_are_the_batch(per_step: bool) -> None:
    batch = batch_of(7, per_step=per_step)
    parts = [batch.part(i, 3) for i in range(3)]
    assert [part.rows for part in parts] == [2, 2, 3]
    assert torch.equal(torch.cat([part.inputs for part in parts], 1), batch.inputs)
    assert torch.equal(torch.cat([part.targets for part in parts], 1 if per_step else 0), batch.targets)
    assert torch.equal(torch.cat([part.lengths for part in parts if part.lengths is not None]), torch.arange(1, 8))
    assert sum(part.weight for part in parts) == batch.weight == 21.0
    assert all(part.reset for part in parts)


def test_more_parts_than_rows_are_refused() -> None:
    with pytest.raises(DataError, match="2 rows cannot be divided into 3 parts"):
        batch_of(2, per_step=False).part(0, 3)


def test_an_epoch_is_entered_anywhere() -> None:
    made = []

    def make(index: int) -> Batch:
        made.append(index)
        return batch_of(index + 1, per_step=False)

    epoch = Epoch(4, make)
    assert len(epoch) == 4
    assert epoch[2].rows == 3
    assert epoch[-1].rows == 4
    assert made == [2, 3]  # none before it had to be made
    assert [batch.rows for batch in epoch[1:3]] == [2, 3]
    assert [batch.rows for batch in epoch] == [1, 2, 3, 4]
    with pytest.raises(IndexError):
        epoch[4]


def test_orders_depend_on_seed_and_epoch_alone() -> None:
    def order(seed: int, number: int) -> list[int]:
        return epoch_generator(seed, number).permutation(20).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(2, 1)
    assert order(1, 2) != order(1, 3)


def test_a_choice_takes_its_words_alone() -> None:
    @dataclass
    class Settings:
        way: str = choice("near", "far")

    check_choices(Settings())
    check_choices(Settings(way="far"))
    with pytest.raises(RecipeError, match=r"way = 'further' .* choose from \"near\", \"far\""):
        check_choices(Settings(way="further"))


def test_evaluation_leaves_the_mode_as_it_was() -> None:
    model = nn.Linear(1, 1)
    for training in (True, False):
        model.train(training)
        with pytest.raises(KeyError), evaluating(model):
            assert not model.training
            assert not torch.is_grad_enabled()
            raise KeyError
        assert model.training is training
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("cell", CELLS)
def test_the_top_state_is_h_of_the_last_layer(cell: str) -> None:
    rnn = RNN(CELLS[cell], 2, 3, num_layers=2)
    _, state = rnn(torch.randn(4, 5, 2))
    h = state if isinstance(state, torch.Tensor) else state[0]
    assert torch.equal(top_state(state, 1), h[1])
    both = RNN(CELLS[cell], 2, 3, num_layers=2, bidirectional=True)
    _, state = both(torch.randn(4, 5, 2))
    h = state if isinstance(state, torch.Tensor) else state[0]
    assert torch.equal(top_state(state, 2), torch.cat([h[2], h[3]], dim=-1))


def test_output_layers_start_glorot_uniform_without_bias() -> None:
    layer = output_layer(300, 100)
    bound = (6.0 / 400) ** 0.5
    assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not layer.bias.any()

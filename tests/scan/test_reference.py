"""The loop every other path must equal, on a cell simple enough to follow by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ungated import Cell
from ungated.scan import scan


class Trace(Cell):
    """features = previous state + drive; the new state is ten times that; masks multiply the drive."""

    def step(self, drive: Tensor, state: Tensor, noise: Any = None) -> tuple[Tensor, Tensor]:
        if noise is not None:
            drive = drive * noise
        return state + drive, 10 * (state + drive)


def column(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


def test_order_of_steps() -> None:
    features, last = scan(Trace(1, 1), column(1, 2, 3), torch.tensor([[5.0]]))
    assert features.flatten().tolist() == [6, 62, 623]
    assert last.tolist() == [[6230]]


def test_one_step() -> None:
    features, last = scan(Trace(1, 1), column(1), torch.tensor([[0.0]]))
    assert features.shape == (1, 1, 1)
    assert last.tolist() == [[10]]


def test_masks_of_each_step_or_of_all() -> None:
    drive, state = column(1, 2, 3), torch.zeros(1, 1)
    features, _ = scan(Trace(1, 1), drive, state, column(1, 0, 2))
    assert features.flatten().tolist() == [1, 10, 106]
    features, _ = scan(Trace(1, 1), drive, state, column(2))
    assert features.flatten().tolist() == [2, 24, 246]


def test_a_row_keeps_its_state_after_its_last_step() -> None:
    drive = torch.tensor([[[1.0], [4.0]], [[2.0], [5.0]], [[3.0], [6.0]]])
    state = torch.zeros(2, 1)
    features, last = scan(Trace(1, 1), drive, state, lengths=torch.tensor([1, 3]))
    assert last.flatten().tolist() == [10, 4560]
    assert features[:, 1].flatten().tolist() == [4, 45, 456]
    assert features[0, 0].item() == 1


class Pair(Cell):
    """Two state tensors of different widths."""

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch_size, 1), torch.zeros(batch_size, 2, 3)

    def step(self, drive: Tensor, state: Any, noise: Any = None) -> tuple[Tensor, Any]:
        a, b = state
        return a, (a + drive, b - drive[:, :, None])


def test_a_tuple_of_states_of_any_shape() -> None:
    cell = Pair(1, 1)
    drive = torch.ones(4, 2, 1)
    features, (a, b) = scan(cell, drive, cell.initial_state(2), lengths=torch.tensor([4, 2]))
    assert a.flatten().tolist() == [4, 2]
    assert b[:, 0, 0].tolist() == [-4, -2]
    assert b.shape == (2, 2, 3)
    assert features[:, 0, 0].tolist() == [0, 1, 2, 3]


def test_gradients_do_not_pass_through_a_row_that_has_ended() -> None:
    drive = torch.ones(3, 2, 1, requires_grad=True)
    _, last = scan(Trace(1, 1), drive, torch.zeros(2, 1), lengths=torch.tensor([1, 3]))
    (gradient,) = torch.autograd.grad(last.sum(), drive)
    assert gradient[:, 0].flatten().tolist() == [10, 0, 0]
    assert gradient[:, 1].flatten().tolist() == [1000, 100, 10]

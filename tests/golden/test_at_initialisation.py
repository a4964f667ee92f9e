"""What a cell computes before its first update."""

from __future__ import annotations

import math

import torch

from ungated.cells import GRUCell, LSTMCell, RHNCell, RRUCell
from ungated.scan import scan


def test_rru_state_ignores_the_input_and_decays_by_its_share() -> None:
    torch.manual_seed(0)
    cell = RRUCell(3, 9).double()
    states = []
    for _ in range(2):
        x = torch.randn(4, 2, 3, dtype=torch.float64)
        states.append(scan(cell, cell.project(x), cell.initial_state(2))[1])
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    expected = torch.zeros(2, 9, dtype=torch.float64)
    expected[:, 0] = 0.75 * torch.sigmoid(10 * cell.S[0]) ** 4
    torch.testing.assert_close(states[0], expected)


def test_rru_first_gradient_reaches_Z_and_not_W_c() -> None:
    torch.manual_seed(0)
    cell = RRUCell(3, 9)
    _, state = cell(torch.randn(5, 3))
    state.square().sum().backward()
    assert torch.count_nonzero(cell.W_c.grad) == 0
    assert torch.count_nonzero(cell.b_c.grad) == 0
    assert cell.Z.grad[0] != 0
    assert cell.S.grad[0] != 0


def test_rru_output_does_see_the_input() -> None:
    torch.manual_seed(0)
    cell = RRUCell(3, 9)
    one, _ = cell(torch.randn(5, 3))
    two, _ = cell(torch.randn(5, 3))
    assert not torch.allclose(one, two)


def test_gru_keeps_most_of_its_state() -> None:
    cell = GRUCell(1, 3).double()
    with torch.no_grad():
        for W in (cell.W_xg, cell.W_hg, cell.W_xc, cell.W_hc):
            W.zero_()
    h = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    y, _ = cell(torch.zeros(1, 1, dtype=torch.float64), h)
    torch.testing.assert_close(y, h / (1 + math.exp(-1)))


def test_lstm_forget_bias_enters_the_cell_state() -> None:
    cell = LSTMCell(1, 2, forget_bias=1.5).double()
    with torch.no_grad():
        cell.W_x.zero_()
        cell.W_h.zero_()
    c = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    _, (h, after) = cell(torch.zeros(1, 1, dtype=torch.float64), (torch.zeros_like(c), c))
    torch.testing.assert_close(after, c / (1 + math.exp(-1.5)))
    torch.testing.assert_close(h, 0.5 * torch.tanh(after))


def test_rhn_share_of_the_old_state_that_survives_a_time_step() -> None:
    # sigmoid(-2) = 0.119 of it is replaced in each of ten micro-steps: 0.28 is left; 0.83 with a bias of -4.
    for bias, left in ((-2.0, 0.28), (-4.0, 0.83)):
        cell = RHNCell(1, 1, depth=10, transform_bias=bias, init_scale=0.0)
        y, _ = cell(torch.zeros(1, 1), torch.ones(1, 1))
        assert abs(y.item() - left) < 0.005

"""Dropout masks: inverted, fresh where they should be fresh, shared where they should be shared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ungated.cells import CELLS, RHNCell
from ungated.cells.cell import Cell
from ungated.rnn import RNN

T, B, N = 50, 20, 30
FRESH = {"rru": 66, "gru": N, "lstm": N, "mogrifier": N}  # width of the mask at m = 3, n = 30
RATES = {"rhn": {"depth": 2, "input_dropout": 0.75, "state_dropout": 0.25}}


def assert_inverted_dropout(mask: Tensor, rate: float) -> None:
    kept = 1.0 / (1.0 - rate)
    assert mask.unique().tolist() == pytest.approx([0.0, kept], rel=2**-17 * kept + 1e-6)  # `rate` to 2^-16
    sd = (rate * (1 - rate) / mask.numel()) ** 0.5
    assert abs((mask == 0).double().mean() - rate) < 5 * sd


@pytest.mark.parametrize("name", FRESH)
def test_recurrent_dropout_is_fresh_at_every_step_row_and_unit(name: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](3, N, recurrent_dropout=0.3)
    mask = cell.noise(T, B)
    assert isinstance(mask, Tensor)
    assert mask.shape == (T, B, FRESH[name])
    assert_inverted_dropout(mask, 0.3)
    dropped = (mask == 0).double()
    for dim in range(3):  # a mask shared along a dimension would have rates of 0 and 1 there, not near 0.3
        assert ((dropped.mean(dim) > 0) & (dropped.mean(dim) < 1)).double().mean() > 0.95
    assert not torch.equal(mask, cell.noise(T, B))


@pytest.mark.parametrize("tied", [True, False])
def test_rhn_masks_hold_for_the_sequence(tied: bool) -> None:
    torch.manual_seed(0)
    m, n = 400, 300
    cell = RHNCell(m, n, depth=2, input_dropout=0.75, state_dropout=0.25, tie_masks=tied)
    z_i, z_h = cell.noise(T, B)
    assert z_i.shape == (1, 1 if tied else 2, B, m)
    assert z_h.shape == (1, 1 if tied else 2, B, n)
    assert_inverted_dropout(z_i, 0.75)
    assert_inverted_dropout(z_h, 0.25)
    assert not torch.equal(z_i[0, 0, 0], z_i[0, 0, 1])  # rows differ
    if not tied:
        assert not torch.equal(z_i[0, 0], z_i[0, 1])
        assert not torch.equal(z_h[0, 0], z_h[0, 1])
    assert not torch.equal(z_i, cell.noise(T, B)[0])  # the next window


def test_rhn_rate_of_zero_leaves_ones() -> None:
    z_i, z_h = RHNCell(5, 6, input_dropout=0.5).noise(T, B)
    assert (z_h == 1).all()
    assert (z_i == 0).any()


@pytest.mark.parametrize("name", CELLS)
def test_no_dropout_draws_nothing(name: str) -> None:
    before = torch.get_rng_state()
    cell: Cell = CELLS[name](3, 4)
    after_build = torch.get_rng_state()
    assert cell.noise(T, B) is None
    assert torch.equal(torch.get_rng_state(), after_build)
    assert not torch.equal(before, after_build)


@pytest.mark.parametrize("name", CELLS)
def test_stacked_layers_and_directions_have_masks_of_their_own(name: str) -> None:
    torch.manual_seed(0)
    options = RATES.get(name, {"recurrent_dropout": 0.5})
    layer = RNN(CELLS[name], 30, 30, 2, bidirectional=True, **options)
    noise = layer.noise(T, B)
    assert len(noise) == 4
    states = [part[-1] if isinstance(part, tuple) else part for part in noise]
    same_width = [s for s in states if s.shape == states[0].shape]
    assert len(same_width) >= 2
    assert not torch.equal(same_width[0], same_width[1])

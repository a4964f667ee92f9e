"""Masks keep the share they should, whole in expectation, and their entries know nothing of each other."""

from __future__ import annotations

import pytest
import torch

from ungated.dropout import dropout_mask

SHAPE = (41, 53, 461)  # a million entries, and not a multiple of four


@pytest.mark.parametrize("rate", [0.0001, 0.1, 0.5, 0.79362, 0.9999])
def test_share_and_value(rate: float) -> None:
    torch.manual_seed(1)
    mask = dropout_mask(torch.empty(0), SHAPE, rate)
    assert mask.shape == SHAPE and mask.dtype == torch.float32 and mask.is_contiguous()
    zero, kept = mask.unique().tolist()
    share = 1.0 - rate
    assert zero == 0.0 and kept == pytest.approx(1.0 / share, rel=2**-17 / share + 1e-6)
    spread = (share * rate / mask.numel()) ** 0.5
    assert abs((mask > 0).double().mean().item() - share) < 4.0 * spread + 2**-17
    # At every place within the numbers that four entries share, and along every axis.
    for place in range(4):
        assert abs((mask.flatten()[place::4] > 0).double().mean().item() - share) < 10.0 * spread + 2**-17


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 461])
def test_entries_are_independent(distance: int) -> None:
    torch.manual_seed(2)
    kept = (dropout_mask(torch.empty(0), SHAPE, 0.3) > 0).flatten().double() - 0.7
    correlation = (kept[distance:] * kept[:-distance]).mean().item() / (0.3 * 0.7)
    assert abs(correlation) < 5.0 / kept.numel() ** 0.5


@pytest.mark.parametrize("rate", [0.0, 1e-9, 1.0 - 1e-9])
def test_rates_beyond_the_levels(rate: float) -> None:
    mask = dropout_mask(torch.empty(0, dtype=torch.float64), (1000,), rate)
    assert mask.dtype == torch.float64 and mask.isfinite().all()
    assert mask.eq(1.0).all() if rate < 0.5 else mask.count_nonzero() <= 10


def test_follows_the_generator() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout_mask(torch.empty(0, dtype=torch.bfloat16), (7, 3), 0.5)

    assert draw(3).equal(draw(3)) and not draw(3).equal(draw(4))
    assert dropout_mask(torch.empty(0), (0, 4, 5), 0.5).shape == (0, 4, 5)

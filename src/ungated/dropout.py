"""Dropout masks, drawn once for all time steps and every backend."""

from __future__ import annotations

from torch import Tensor


def dropout_mask(like: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
    """Inverted dropout: entries 0 with probability `rate`, else 1 / (1 - rate); device and dtype of `like`.

    Drawn from torch's default generator.
    """
    keep = 1.0 - rate
    return like.new_empty(shape).bernoulli_(keep).div_(keep)

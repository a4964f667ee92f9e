"""Sizes from parameter budgets, as both papers size their models."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ungated.cells.cell import check_size


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters; a shared (tied) one counts once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def size_for(make_model: Callable[[int], nn.Module], parameters: int) -> int:
    """The largest hidden size whose whole model has at most `parameters` trainable parameters.

    make_model: hidden size -> module; it is called on the meta device, so that no memory is allocated and no random
    number drawn. Its parameter count has to grow with the hidden size.
    Raises ValueError where even hidden size 1 exceeds the budget.
    """
    check_size("parameters", parameters)

    def count(size: int) -> int:
        with torch.device("meta"):
            return count_parameters(make_model(size))

    if (smallest := count(1)) > parameters:
        raise ValueError(
            f"a budget of {parameters:,} parameters is too small: hidden size 1 already takes {smallest:,}"
        )
    fits, exceeds = 1, 2
    while count(exceeds) <= parameters:
        fits, exceeds = exceeds, 2 * exceeds
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        if count(middle) <= parameters:
            fits = middle
        else:
            exceeds = middle
    return fits

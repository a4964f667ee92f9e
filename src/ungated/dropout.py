"""Dropout masks, drawn once for all time steps and every backend."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ungated.pages import fresh

_LEVELS = 1 << 16  # of the share kept, where four entries come from one number


def dropout_mask(like: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
    """Inverted dropout: entries 0 with probability `rate`, else 1 over the share kept; device and dtype of `like`.

    Drawn from torch's default generator. On the CPU `rate` counts to the nearest 2^-16.
    """
    keep = 1.0 - rate
    if like.device.type != "cpu" or _transformed():
        return like.new_empty(shape).bernoulli_(keep).div_(keep)
    # Four entries from each number drawn: bernoulli_ draws one for every entry, which can cost as much as the scan.
    kept = min(max(round(keep * _LEVELS), 1), _LEVELS)
    count = prod(shape)
    numbers = fresh(torch.empty(0, dtype=torch.int64), (count + 3) // 4)
    torch.randint(-(1 << 63), (1 << 63) - 1, numbers.shape, out=numbers)
    levels = numbers.view(torch.int16)[:count].view(shape)  # from -2^15 on
    return torch.le(levels, kept - 1 - _LEVELS // 2, out=fresh(like.detach(), *shape)).mul_(_LEVELS / kept)


def _transformed() -> bool:
    """Whether torch.func or a tracer is at work, to which `fresh` is a constant; the compiler knows it."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or torch._C._is_tracing()

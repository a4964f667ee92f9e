"""Where a loop over time leaves what it computes: kept for the backward pass, or scratch that the steps share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

# A span's values should stay in cache while they are worked on, and its calls be few: measured, and not sharp.
_SPAN_ENTRIES = 131_072


def places(kept: Tensor, T: int, *shape: int) -> Sequence[Tensor]:
    """A place of this shape for each of T steps: those of `kept` (T, *shape), or one for all if that is empty."""
    return kept.unbind(0) if len(kept) else [kept.new_empty(shape)] * T


def state_places(first: Tensor, kept: Tensor, last: Tensor, T: int) -> list[Tensor]:
    """T + 1 places of a state, before each step and after the last one, with `first` copied into the first.

    Those of `kept` (T, B, n), or two in turn if that is empty; then `last`.
    """
    found = kept.unbind(0) if len(kept) else islice(cycle((last.new_empty(last.shape), last.new_empty(last.shape))), T)
    before = [*found, last]
    before[0].copy_(first)
    return before


def spans_backwards(T: int, entries: int) -> Iterator[tuple[int, int]]:
    """(start, end) of runs of time steps, last first, of `entries` each step."""
    steps = max(1, _SPAN_ENTRIES // max(entries, 1))
    for end in range(T, 0, -steps):
        yield max(end - steps, 0), end


def received(gradient: Tensor | None, T: int) -> Sequence[Tensor | None]:
    """The gradient that each of T steps receives; None: zero."""
    return [None] * T if gradient is None else gradient.unbind(0)


def total(*gradients: Tensor | None, like: Tensor) -> Tensor:
    """The sum of gradients, None: zero, fresh or one of them."""
    found = [gradient for gradient in gradients if gradient is not None]
    return sum(found[1:], found[0]) if found else torch.zeros_like(like)

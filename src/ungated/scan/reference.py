"""The loop over time that every other path must equal; it runs any cell."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ungated.cells.cell import Cell, Noise, State, map_state, noise_at


def reference_scan(
    cell: Cell, drive: Tensor, state: State, noise: Noise = None, lengths: Tensor | None = None
) -> tuple[Tensor, State]:
    """Run `cell.step` over drive (T, B, ...), T >= 1, from `state`; returns features (T, B, ...) and the last state.

    With `lengths` (B,), a row's state stays as it is after its last step; features there are finite but meaningless.
    The last state has the dtype of `state`, under autocast too, where a step may compute it in a lower one.
    """
    features, start = [], state
    for t, drive_t in enumerate(drive.unbind(0)):
        features_t, after = cell.step(drive_t, state, noise_at(noise, t))
        features.append(features_t)
        state = after if lengths is None else map_state(partial(_frozen, lengths <= t), state, after)
    return torch.stack(features), map_state(_in_dtype_of, start, state)


def _frozen(ended: Tensor, before: Tensor, after: Tensor) -> Tensor:
    return torch.where(ended.view(-1, *[1] * (after.dim() - 1)), before, after)


def _in_dtype_of(start: Tensor, last: Tensor) -> Tensor:
    return last.to(start.dtype)


def reference_in(
    reduced: torch.dtype | None, cell: Any, drive: Tensor, state: State, noise: Noise, lengths: Tensor | None
) -> tuple[Tensor, ...]:
    """`reference_scan` under autocast to `reduced` (None: not at all), whatever is around it; all tensors in a row."""
    with autocast_to(reduced, drive.device.type):
        features, last = reference_scan(cell, drive, state, noise, lengths)
    return (features, last) if isinstance(last, Tensor) else (features, *last)


def autocast_to(reduced: torch.dtype | None, device: str) -> AbstractContextManager[Any]:
    """Autocast to `reduced` (None: not at all) on a type of device."""
    known = torch.amp.is_autocast_available(device)
    return torch.autocast(device, dtype=reduced, enabled=reduced is not None) if known else nullcontext()

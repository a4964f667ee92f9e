"""Batches whose rows end at different times."""

from __future__ import annotations

import torch
from torch import Tensor


def ended_rows(lengths: Tensor | None, T: int) -> tuple[int, Tensor | None]:
    """The first time step at which a row may have ended (T: never), and which rows have, (T, B, 1) booleans."""
    if lengths is None:
        return T, None
    ended = lengths <= torch.arange(T, device=lengths.device)[:, None]
    # Looking at values would make a GPU's queue run dry.
    first = int(lengths.min()) if lengths.device.type == "cpu" and lengths.numel() else 0
    return min(first, T), ended.unsqueeze(-1)

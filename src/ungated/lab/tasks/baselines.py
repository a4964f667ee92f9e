"""Models that know only frequencies: what any trained model has to beat, scored through the same code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ungated.cells.cell import State


class UnigramModel(nn.Module):
    """Predicts every symbol with its frequency in a training stream; a symbol never seen there is impossible."""

    def __init__(self, train: Tensor, symbols: int) -> None:
        super().__init__()
        counts = torch.bincount(train.long(), minlength=symbols).double()
        self.register_buffer("logits", (counts / counts.sum()).log().float())
        self.logits: Tensor

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """ids (T, B) -> logits (T, B, symbols); the state is empty."""
        return self.logits.expand(*ids.shape, len(self.logits)), self.logits.new_zeros(1, ids.shape[1], 0)


class NoteFrequencyModel(nn.Module):
    """Predicts every note with its frequency in the training frames that are to be predicted.

    By Laplace's rule, (k + 1) / (N + 2), so that no note is impossible.
    """

    def __init__(self, train: Sequence[NDArray[np.uint8]]) -> None:
        super().__init__()
        frames = np.concatenate([song[1:] for song in train])
        frequencies = (frames.sum(axis=0, dtype=np.float64) + 1.0) / (len(frames) + 2.0)
        self.register_buffer("logits", torch.from_numpy(frequencies).logit().float())
        self.logits: Tensor

    def forward(
        self, frames: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """frames (T, B, notes) -> logits (T, B, notes); the state is empty."""
        return self.logits.expand(*frames.shape), self.logits.new_zeros(1, frames.shape[1], 0)

"""Polyphonic music: the notes of each frame from the frames before it.

With l_t = the sum over the notes of the binary cross-entropy of frame t, in nats:

    standard  silent frames kept, each song from its start to its end with the state carried,
              total of l_t over the total of predicted frames (Boulanger-Lewandowski et al. 2012, Bai et al. 2018)
    paper     silent frames dropped, songs cut into windows of 200 with the state reset at each (training: every
              100 frames, so that windows overlap by half); mean of l_t within a window, mean over the windows of
              a batch, mean over batches: a window of one frame weighs as much as a full one, and the last batch,
              which takes the remainder, as much as the others (RRU code, mm_utils.py, mm_main.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ungated.cells.cell import State
from ungated.lab.data.families import MusicData
from ungated.lab.errors import DataError, RecipeError
from ungated.lab.tasks.batching import blocks
from ungated.lab.tasks.heads import output_layer
from ungated.lab.tasks.task import (
    Batch,
    Epoch,
    MakeRNN,
    Progress,
    Task,
    check_choices,
    check_protocol,
    choice,
    epoch_generator,
    evaluating,
    first_rows,
    in_full_precision,
    refuse_bidirectional,
)
from ungated.rnn import RNN

Frames = NDArray[np.uint8]

#: Frames that the standard evaluation runs at once, so that long songs need no more memory than short ones.
_CHUNK = 512


@dataclass(frozen=True)
class Window:
    """`length` predictions: inputs are frames start .. start + length - 1 of a song, targets one frame later."""

    song: int
    start: int
    length: int


def without_silence(songs: Sequence[Frames]) -> list[Frames]:
    """The songs without the frames in which no note sounds."""
    return [song[song.any(axis=1)] for song in songs]


def cut(songs: Sequence[Frames], window: int | None, stride: int | None = None) -> list[Window]:
    """Windows of each song, in order; window None: whole songs. stride: from start to start, default `window`.

    A song's last window takes what is left and may be shorter, down to one prediction.
    """
    windows = []
    for index, song in enumerate(songs):
        start = 0
        if window is not None:
            while start < len(song) - window:
                windows.append(Window(index, start, window))
                start += stride or window
        if len(song) - start >= 2:
            windows.append(Window(index, start, len(song) - start - 1))
    return windows


class MusicModel(nn.Module):
    """A recurrent layer straight on the notes, and one logit a note of the next frame."""

    def __init__(self, rnn: RNN, notes: int = 88) -> None:
        super().__init__()
        self.rnn = rnn
        self.output = output_layer(rnn.output_size, notes)

    def forward(
        self, frames: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """frames (T, B, notes) of any dtype -> logits (T, B, notes) of the frame after each, state after the last."""
        features, state = self.rnn(frames.to(self.output.weight.dtype), state, lengths)
        return self.output(features), state


class MusicTask(Task):
    """Next-frame prediction on piano rolls."""

    kind: ClassVar[str] = "music"

    @dataclass
    class Settings:
        """What a recipe's [task] may set."""

        window: int = 200  # frames; both for training and for the metric of the paper protocol
        train_stride: int = 100  # from one training window's start to the next one's
        train_on: str = choice("windows", "songs")  # "songs": whole ones, window and train_stride unused

        def __post_init__(self) -> None:
            if self.window < 1 or self.train_stride < 1:
                raise RecipeError(f"window = {self.window} and train_stride = {self.train_stride} should be at least 1")
            if self.train_stride > self.window:
                raise RecipeError(f"train_stride = {self.train_stride} would skip frames: window is {self.window}")
            check_choices(self)

    @dataclass
    class Model:
        """What a recipe's [model] may set for this task: nothing of its own."""

    metric = "nll_per_frame"

    def __init__(self, data: MusicData, settings: Any = None, *, batch_size: int, protocol: str = "standard") -> None:
        """Raises DataError where a split has no song of at least two frames."""
        super().__init__(data, settings or self.Settings(), batch_size=batch_size, protocol=protocol)
        self.notes = data.train[0].shape[1] if data.train else 88  # none: the check below says so
        for split in ("train", "valid", "test"):
            if not cut(self.songs(split, protocol), None):
                raise DataError(f"the {split} songs hold nothing to predict: none has two frames")
        self._train_songs = self.songs("train", protocol)
        window = None if self.settings.train_on == "songs" else self.settings.window
        self._train_windows = cut(self._train_songs, window, self.settings.train_stride)

    def songs(self, split: str, protocol: str) -> list[Frames]:
        """The songs of a split as the protocol sees them."""
        songs: list[Frames] = getattr(self.data, split)
        return without_silence(songs) if protocol == "paper" else songs

    def model(self, make_rnn: MakeRNN, options: Any = None) -> MusicModel:
        rnn = make_rnn(self.notes)
        refuse_bidirectional(rnn)
        return MusicModel(rnn, self.notes)

    def epoch(self, number: int, seed: int) -> Epoch:
        order = epoch_generator(seed, number).permutation(len(self._train_windows))
        batches = blocks(len(order), self.batch_size)

        def make(index: int) -> Batch:
            windows = [self._train_windows[i] for i in order[batches[index]]]
            inputs, targets, lengths = _padded(self._train_songs, windows)
            weights = torch.ones(len(windows)) if self.protocol == "paper" else lengths.float()
            return Batch(inputs, targets, lengths, weights)

        return Epoch(len(batches), make)

    def loss(self, model: nn.Module, batch: Batch, state: State | None = None) -> tuple[Tensor, Tensor, State | None]:
        """Mean over the batch under the row weights: over windows (paper) or over frames (standard)."""
        assert batch.lengths is not None
        logits, _ = model(batch.inputs, None, batch.lengths)
        rows = _nll(logits, batch.targets, batch.lengths).sum(0) / batch.lengths
        total = (rows * batch.row_weights.to(rows.device)).sum()
        return total / batch.weight, total.detach(), None

    def evaluate(
        self, model: nn.Module, split: str, protocol: str, progress: Progress | None = None
    ) -> dict[str, float]:
        """{"nll_per_frame"}: nats, by the protocol's average. Independent of batch_size under "standard"."""
        check_protocol(protocol)
        songs = self.songs(split, protocol)
        # The state is carried through a song, but a window starts with a fresh one.
        windows = cut(songs, self.settings.window if protocol == "paper" else None)
        if not windows:
            raise DataError(f"the {split} songs hold nothing to predict: none has two frames")
        totals = self._window_totals(model, songs, windows, progress)
        lengths = np.array([window.length for window in windows])
        if protocol == "standard":
            return {"nll_per_frame": float(totals.sum() / lengths.sum())}
        means = totals / lengths
        return {"nll_per_frame": float(np.mean([means[batch].mean() for batch in blocks(len(means), self.batch_size)]))}

    def _window_totals(
        self, model: nn.Module, songs: Sequence[Frames], windows: Sequence[Window], progress: Progress | None
    ) -> NDArray[np.float64]:
        """Total nats of every window, each run from the initial state; windows of like length run together."""
        totals = np.zeros(len(windows))
        order = sorted(range(len(windows)), key=lambda i: -windows[i].length)
        done = 0
        with evaluating(model) as device:
            for rows in (order[block] for block in blocks(len(order), self.batch_size)):
                state: State | None = None
                for start in range(0, windows[rows[0]].length, _CHUNK):
                    # Sorted by length, the windows that go on are the first ones.
                    rows = [i for i in rows if windows[i].length > start]
                    pieces = [
                        Window(windows[i].song, windows[i].start + start, min(windows[i].length - start, _CHUNK))
                        for i in rows
                    ]
                    if state is not None:
                        state = first_rows(state, len(rows))
                    inputs, targets, lengths = (tensor.to(device) for tensor in _padded(songs, pieces))
                    logits, state = model(inputs, state, lengths)
                    totals[rows] += _nll(logits, targets, lengths).double().sum(0).cpu().numpy()
                    done += int(lengths.sum())
                    if progress is not None:
                        progress(done, sum(window.length for window in windows))
        return totals


def _padded(songs: Sequence[Frames], windows: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs and targets uint8 (T, B, notes), T the longest length, and lengths (B,)."""
    frames = [torch.from_numpy(songs[w.song][w.start : w.start + w.length + 1]) for w in windows]
    inputs = pad_sequence([piece[:-1] for piece in frames])
    targets = pad_sequence([piece[1:] for piece in frames])
    return inputs, targets, torch.tensor([w.length for w in windows])


def _nll(logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """Nats of each frame (T, B), summed over the notes; 0 on the padding."""
    logits = in_full_precision(logits)
    nll = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").sum(-1)
    real = torch.arange(len(nll), device=nll.device)[:, None] < lengths
    return nll.masked_fill(~real, 0.0)

"""Mean nats per symbol of a language model on a stream, by three rules.

    every_symbol  one stateful pass over the stream, every symbol but the first scored once: the field's standard,
                  and the RHN paper's final figures (batch 1)
    half_windows  windows that overlap by half, each from a fresh state, of which the second half is scored; but of
                  the first batch whole windows count, twice; divided by the number of batches plus one. Batches of
                  streams drop their remainder, others have it in the last batch (RRU code, lm_main.py)
    batched_rows  the stream cut into rows that run side by side, row ends dropped (RHN code, during training)

A model is anything that maps (ids (T, B), state or None) to (logits (T, B, symbols), state).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ungated.cells.cell import State
from ungated.lab.tasks.batching import blocks, interleaved, row_starts, window_starts
from ungated.lab.tasks.language_batches import window_batch
from ungated.lab.tasks.task import Progress, evaluating, in_full_precision

#: Logits at once: in a pass over a stream, and over independent windows (a CPU is faster within its caches).
_PASS_LOGITS = 1 << 22
_WINDOW_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 27}


def every_symbol(
    model: nn.Module,
    stream: Tensor,
    symbols: int,
    *,
    parts: int = 1,
    context: int = 0,
    progress: Progress | None = None,
) -> float:
    """Exact with one part. With more, parts of the stream run side by side, each after `context` unscored symbols.

    Every symbol but the first is still scored once, but with the part's own symbols and `context` as its past.
    """
    predictions = len(stream) - 1
    bounds = torch.tensor([predictions * part // parts for part in range(parts + 1)])
    begins = (bounds[:-1] - context).clamp(min=0)
    longest = int((bounds[1:] - begins).max())
    piece = piece_length(symbols, parts, longest)
    total, state = torch.zeros((), dtype=torch.float64), None
    with evaluating(model) as device:
        for start in range(0, longest, piece):
            # Past its end a part runs on, unscored; what it reads there does not matter.
            places = begins + torch.arange(start, min(start + piece, longest))[:, None]
            scored = (places >= bounds[:-1]) & (places < bounds[1:])
            places = places.clamp(max=predictions - 1)
            nll, state = _nll(model, stream[places], stream[places + 1], state, device)
            total += nll[scored].sum()
            if progress is not None:
                progress(min(start + piece, longest), longest)
    return float(total) / predictions


def half_windows(
    model: nn.Module,
    stream: Tensor,
    symbols: int,
    *,
    window: int,
    batch_size: int,
    streams: bool,
    progress: Progress | None = None,
) -> float:
    """The RRU paper's rule; streams: batches are those of stateful training, not in the order of the text.

    A stream of fewer windows than a batch makes one batch.
    """
    starts = window_starts(len(stream), window, max(window // 2, 1))
    whole, half = _window_means(model, stream, starts, window, symbols, batch_size, progress)
    count = len(starts)
    if streams and count >= batch_size:
        batches = list(interleaved(count, batch_size))
    else:
        batches = [np.arange(count)[rows] for rows in blocks(count, batch_size)]
    means = [half[rows].mean() for rows in batches]
    means[0] = 2.0 * whole[batches[0]].mean()
    return float(sum(means)) / (len(batches) + 1)


def _window_means(
    model: nn.Module,
    stream: Tensor,
    starts: NDArray[np.int64],
    window: int,
    symbols: int,
    batch_size: int,
    progress: Progress | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean nats of each window from a fresh state: over all of it, and over its second half."""
    whole, half = np.zeros(len(starts)), np.zeros(len(starts))
    with evaluating(model) as device:
        most = _WINDOW_LOGITS.get(device.type, _WINDOW_LOGITS["cuda"])
        rows = max(min(batch_size, most // (window * symbols)), 1)
        for first in range(0, len(starts), rows):
            chosen = slice(first, first + rows)
            batch = window_batch(stream, starts[chosen], window)
            nll, _ = _nll(model, batch.inputs, batch.targets, None, device)
            whole[chosen] = nll.mean(0).numpy()
            half[chosen] = nll[-max(window // 2, 1) :].mean(0).numpy()
            if progress is not None:
                progress(min(first + rows, len(starts)), len(starts))
    return whole, half


def batched_rows(
    model: nn.Module, stream: Tensor, *, window: int, batch_size: int, progress: Progress | None = None
) -> float:
    """The RHN paper's rule during training; a stream too short for that many rows is cut into fewer."""
    starts = row_starts(len(stream), max(min(batch_size, len(stream) // (window + 1)), 1), window)
    total, state = torch.zeros((), dtype=torch.float64), None
    with evaluating(model) as device:
        for i, row in enumerate(starts):
            batch = window_batch(stream, row, window)
            nll, state = _nll(model, batch.inputs, batch.targets, state, device)
            total += nll.sum()
            if progress is not None:
                progress(i + 1, len(starts))
    return float(total) / (starts.size * window)


def piece_length(symbols: int, rows: int, longest: int) -> int:
    """Steps to run at once."""
    return max(min(_PASS_LOGITS // (symbols * rows), 2048, longest), 1)


def _nll(
    model: nn.Module, inputs: Tensor, targets: Tensor, state: State | None, device: torch.device
) -> tuple[Tensor, State]:
    """Nats (T, B) in double precision on the CPU, and the state after."""
    logits, state = model(inputs.long().to(device), state)
    nll = F.cross_entropy(
        in_full_precision(logits).flatten(0, 1), targets.long().to(device).flatten(), reduction="none"
    )
    return nll.view(inputs.shape).double().cpu(), state

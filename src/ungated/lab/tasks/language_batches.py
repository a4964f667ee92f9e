"""A stream of symbols as training batches: stateful streams, or shuffled windows without a carried state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ungated.lab.tasks.batching import Indices, blocks, interleaved, row_starts, window_starts
from ungated.lab.tasks.task import Batch, Epoch, epoch_generator


def window_batch(stream: Tensor, starts: Indices, window: int, *, reset: bool = False) -> Batch:
    """Inputs (T, B) are `window` symbols from each start, targets those one later; every row weighs T predictions."""
    places = torch.from_numpy(np.ascontiguousarray(starts))[None, :] + torch.arange(window)[:, None]
    weights = torch.full((len(starts),), float(window))
    return Batch(stream[places].long(), stream[places + 1].long(), None, weights, reset=reset)


def stateful_starts(symbols: int, batch_size: int, window: int, cut: str) -> Indices:
    """Starts (batches, batch_size) of windows that follow each other along B streams.

    cut "windows" (RRU code): the sequence of windows is cut into B parts. "symbols" (RHN code): the sequence of symbols
    is cut into B rows, and those into windows. Remainders are dropped.
    """
    if cut == "symbols":
        return row_starts(symbols, batch_size, window)
    windows = window_starts(symbols, window, window)
    return windows[interleaved(len(windows), batch_size)]


def stateful_epoch(
    stream: Tensor, starts: Indices, window: int, reset_probability: float, number: int, seed: int
) -> Epoch:
    """Batches in the order of the text. The state of all streams starts afresh at the first, and at each other
    with the given probability, drawn from (seed, number)."""
    resets = epoch_generator(seed, number).random(len(starts)) < reset_probability
    return Epoch(len(starts), lambda i: window_batch(stream, starts[i], window, reset=i == 0 or bool(resets[i])))


def shuffled_epoch(stream: Tensor, starts: Indices, window: int, batch_size: int, number: int, seed: int) -> Epoch:
    """Windows in a new order, each from a fresh state; the last batch takes the remainder."""
    order = epoch_generator(seed, number).permutation(starts)
    batches = blocks(len(order), batch_size)
    return Epoch(len(batches), lambda i: window_batch(stream, order[batches[i]], window, reset=True))

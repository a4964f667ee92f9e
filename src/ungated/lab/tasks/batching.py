"""Which items make up which batch: the authors' rules, in one place.

RRU code, utils.py: N items and batch size B make nb = floor(N / B) batches. In ordinary batches the last one also
takes the remainder (up to 2B - 1 items). In continuous batches, batch i holds items i, i + nb, i + 2 nb, ...: B
parallel contiguous streams; items beyond nb * B are dropped. Evaluation has the same batch size.

RHN code, data/reader.py: the stream itself is cut into B rows, and those into windows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def blocks(count: int, batch_size: int) -> list[slice]:
    """Ordinary batches of `count` items in order: the last takes the remainder; fewer items than one batch make one."""
    number = max(count // batch_size, 1) if count else 0
    return [slice(i * batch_size, (i + 1) * batch_size if i < number - 1 else count) for i in range(number)]


def interleaved(count: int, batch_size: int) -> Indices:
    """Continuous batches (batches, batch_size) of the first floor(count / batch_size) * batch_size items.

    Row r of batch i + 1 follows row r of batch i in the stream.
    """
    number = count // batch_size
    return np.arange(number * batch_size, dtype=np.int64).reshape(batch_size, number).T


def window_starts(symbols: int, window: int, stride: int) -> Indices:
    """Starts 0, stride, ... of windows whose inputs and targets (one later) lie wholly within the stream."""
    return np.arange(0, max(symbols - window, 0), stride, dtype=np.int64)


def row_starts(symbols: int, batch_size: int, window: int) -> Indices:
    """RHN batches (windows, batch_size): starts in a stream that is cut into batch_size rows of equal length.

    Rows have floor(symbols / batch_size) symbols and floor((that - 1) / window) windows; the remainders are dropped.
    """
    length = symbols // batch_size
    offsets = np.arange((length - 1) // window, dtype=np.int64) * window if length > 0 else np.empty(0, np.int64)
    return offsets[:, None] + np.arange(batch_size, dtype=np.int64) * length

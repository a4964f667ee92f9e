"""Huge pages of memory for large tensors."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

from torch import Tensor

_HUGE_PAGE, _MADV_HUGEPAGE = 1 << 21, 14


def on_huge_pages(*tensors: Tensor) -> None:
    """Ask Linux for huge pages under fresh CPU tensors: else page faults cost more than writing to them does.

    Does nothing elsewhere, nor to small tensors.
    """
    if sys.platform != "linux":
        return
    for tensor in tensors:
        if tensor.nbytes >= _HUGE_PAGE and tensor.device.type == "cpu":
            start = -(-tensor.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
            length = tensor.data_ptr() + tensor.nbytes - start
            _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)


def fresh(like: Tensor, *shape: int) -> Tensor:
    """An empty tensor of this shape, of the dtype and on the device of `like`, on huge pages if it is large."""
    made = like.new_empty(shape)
    on_huge_pages(made)
    return made


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)

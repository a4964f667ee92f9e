"""Memory for large tensors on the CPU: huge pages, and used again."""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from functools import cache
from math import prod

import torch
from torch import Tensor

_HUGE_PAGE, _MADV_HUGEPAGE = 1 << 21, 14

#: Bytes that are kept, at most, for tensors to come.
KEPT = 1 << 29


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
    """An empty tensor of this shape, of the dtype and on the device of `like`.

    If it is large and on Linux's CPU, it is on huge pages, which another such tensor may have left: a page that is new
    costs far more than writing to it, most of all on a virtual machine, whose host has to find it. Its storage cannot
    be resized.
    """
    count = prod(shape)
    if torch.compiler.is_compiling():  # it plans memory itself
        return like.new_empty(shape)
    if sys.platform == "linux" and type(like) is Tensor and like.device.type == "cpu":
        nbytes = count * like.element_size()
        if nbytes >= _HUGE_PAGE and (pages := _pages(nbytes)) is not None:
            made = torch.frombuffer(pages, dtype=like.dtype, count=count).view(shape)
            if torch.are_deterministic_algorithms_enabled():  # torch.empty hands out no leftovers then either
                made.fill_(torch.nan)
            return made
    return like.new_empty(shape)


# What tensors have left, oldest first. Only single operations on it, each of which no other thread can come between:
# a tensor may end in any thread, and while another is being made.
_left: list[mmap.mmap] = []


def _pages(nbytes: int) -> memoryview | None:
    """Huge pages for this many bytes, kept again once nothing refers to them; None if there is no memory."""
    step = max(_HUGE_PAGE, 1 << (nbytes.bit_length() - 3))  # few different sizes: batches differ in length
    size = -(-nbytes // step) * step
    pages = None
    for found in sorted(_left, key=len):
        if size <= len(found) <= 2 * size:
            try:
                _left.remove(found)
            except ValueError:  # another thread has taken it
                continue
            pages = found
            break
    if pages is None:
        try:
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            pages.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, ValueError):  # a kernel without huge pages is not short of memory
            if pages is None:
                return None
    view = memoryview(pages)
    weakref.finalize(view, _leave, pages).atexit = False
    return view


def _leave(pages: mmap.mmap) -> None:
    if len(pages) > KEPT:
        return
    while sum(map(len, list(_left))) + len(pages) > KEPT:
        try:
            _left.pop(0)
        except IndexError:
            break
    _left.append(pages)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)

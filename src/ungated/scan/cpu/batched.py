"""Gradients of weights: products of two tall matrices, summed over time and batch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

from torch import Tensor

from ungated.pages import fresh
from ungated.scan.cpu import library
from ungated.scan.cpu.library import Argument, Library


class Sums:
    """Sums over time and batch of left' right and of right, for up to two tensors (T, B, ...) a side; float32."""

    products: list[list[Tensor]]  # of each left tensor (T, B, k) with each right one (T, B, n): (k, n)
    totals: list[Tensor]  # of each right tensor: (n)

    def __init__(self) -> None:
        self.products, self.totals = [], []

    def add(
        self,
        left: Sequence[Tensor],
        right: Sequence[Tensor],
        *,
        rectify: bool = False,
        sparse: bool = False,
        mask: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        """Add left' (scale * right), and right, over some time steps; the widths are those of the first call.

        rectify: the first left tensor is taken as max(left, 0). mask (1 or T, B, k): then times this. scale: (T, B).
        sparse: what of a single left tensor is then zero is skipped, as is worth it from a third of it on.
        Raises MemoryError.
        """
        lefts, rights = ([_tall(tensor) for tensor in side] for side in (left, right))
        mask = None if mask is None else _tall(mask).contiguous()
        given: dict[str, Argument] = {"rows": len(lefts[0]), "rectify": rectify, "sparse": sparse}
        given |= {"mask": mask, "scale": scale, "mask_rows": 0 if mask is None else len(mask), "add": len(self.totals)}
        if not self.totals:
            self.products = [[fresh(a, a.shape[1], b.shape[1]) for b in rights] for a in lefts]
            self.totals = [b.new_empty(b.shape[1]) for b in rights]
        for name, side in (("left", lefts), ("right", rights)):
            for i, tensor in enumerate(side):
                given |= {f"{name}_{i}": tensor, f"{name}_{i}_n": tensor.shape[1], f"{name}_{i}_ld": tensor.stride(0)}
        given |= {f"out_{i}{j}": product for i, row in enumerate(self.products) for j, product in enumerate(row)}
        given |= {f"sums_{j}": total for j, total in enumerate(self.totals)}
        made = product_library()
        if made.function("run")(ctypes.byref(made.arguments(given)), library.thread_count(), library.openmp()):
            raise MemoryError("no memory or no thread for a product")


def batched(left: Tensor, right: Tensor) -> Tensor:
    """Sum over time and batch of left' right: (T, B, k), (T, B, n) -> (k, n)."""
    sums = Sums()
    sums.add([left], [right])
    return sums.products[0][0]


@cache
def product_library() -> Library:
    """Raises Unavailable."""
    return Library("batched")


def _tall(tensor: Tensor) -> Tensor:
    """(T, B, k) as (T * B, k), each row in one piece."""
    tensor = tensor.flatten(0, -2)
    return tensor if tensor.stride(1) == 1 or tensor.shape[1] == 1 else tensor.contiguous()

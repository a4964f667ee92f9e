"""The RRU's loops over time by Triton: two products a time step, each with all around it in one kernel.

They take and make what the loops in scan/rru_torch.py do, and what is left after a loop is that file's too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import cycle, islice
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.rru import EPSILON
from ungated.pages import fresh
from ungated.scan.places import places
from ungated.scan.products import tf32_allowed
from ungated.scan.ragged import ended_rows
from ungated.scan.rru_torch import _Arguments, _Made, gradients_of, kept_share
from ungated.scan.scan_op import Gradient


@cache
def kernels() -> ModuleType:
    """Imported where they are first needed: Triton comes with torch, but not with every torch."""
    from ungated.scan.triton import kernels

    return kernels


class Blocks(NamedTuple):
    """How the kernels divide the batch, g, n and the sum over g: rows and columns of a program's share of a product."""

    rows: int
    wide: int  # columns of g
    thin: int  # columns of n
    inner_g: int  # steps along g in a sum over it
    inner_n: int
    splits: int


def blocks(B: int, n: int, g: int) -> Blocks:
    """Tiles of at least 16 rows and columns, as the matrix units take; as many programs as a large GPU has parts."""
    rows = _tile(B, 64)
    wide, thin = _tile(g, 64 if rows == 64 else 32), _tile(n, 32)
    inner_g, inner_n = _tile(g, 64), _tile(n, 32)  # 64 along n, with all partial sums, spills registers
    programs = -(-n // thin) * -(-B // rows)
    return Blocks(rows, wide, thin, inner_g, inner_n, max(1, min(8, 128 // programs, -(-g // inner_g))))


def _tile(size: int, most: int) -> int:
    return min(most, max(16, 1 << (size - 1).bit_length()))


class _Kernels:
    """The kernels as one scan calls them: its sizes, tiles and settings, and the scratch between them."""

    def __init__(self, a: _Arguments) -> None:
        (_, B, g), n, new = a.drive.shape, a.h0.shape[1], a.drive.new_empty
        tiles = blocks(B, n, g)
        rows, wide, thin = -(-B // tiles.rows), -(-g // tiles.wide), -(-n // tiles.thin)
        self._wide_grid, self._thin_grid, self._B = (wide, rows), (thin, tiles.splits, rows), B
        told: dict[str, Any] = {"g": g, "PRECISION": "tf32" if tf32_allowed() else "ieee", "BLOCK_B": tiles.rows}
        sized = {"n": n, "SPLITS": tiles.splits}
        summed = {"TILES": wide, "BLOCK_TILES": 1 << (wide - 1).bit_length()}
        normal = {"NORMALIZE": a.normalize, "EPSILON": EPSILON}
        # Two stages: a third would put another block of the state and of all its partial sums into shared memory.
        self._widen = {"num_stages": 2, **told, **sized, "BLOCK_N": tiles.inner_n, "BLOCK_G": tiles.wide}
        self._middle = {**told, **summed, **normal, "BLOCK_K": tiles.inner_g, "BLOCK_G": tiles.wide}
        self._narrow = {**told, **sized, **summed, **normal, "BLOCK_G": tiles.inner_g, "BLOCK_N": tiles.thin}
        self.sums, self.partial, self.wide = new(wide, B), new(tiles.splits, B, n), new(B, g)

    def widen(self, *tensors: Tensor, **flags: bool) -> None:
        kernels().widen[self._wide_grid](*tensors, self._B, **self._widen, **flags)

    def middle(self, *tensors: Tensor, **flags: bool) -> None:
        kernels().middle[self._wide_grid](*tensors, self._B, **self._middle, **flags)

    def narrow(self, *tensors: Tensor, **flags: bool) -> None:
        kernels().narrow[self._thin_grid](*tensors, self._B, **self._narrow, **flags)


def forward(made: _Made, a: _Arguments) -> None:
    """As the loop in torch; without ReLU over c, and float32 or with reduced factors."""
    (T, B, g), n, new, layers = a.drive.shape, a.h0.shape[1], a.drive.new_empty, len(a.W_k)
    run, (s, shift), ended, nothing = _Kernels(a), _shares(a), _ended(a), a.drive.new_empty(1)
    W_h, W_c, W_k = _factor(a.W_h, a), _factor(a.W_c * a.Z, a), [_factor(W, a) for W in a.W_k]
    b_k = [b.contiguous() for b in a.b_k]
    drive, d, noise = a.drive.contiguous().unbind(0), made.d.unbind(0), _noise(a)
    h = made.h.unbind(0) if a.save else list(islice(cycle((new(B, n), new(B, n))), T))
    y, r = places(made.y, T, B, g), places(made.r, T, B, 1)
    inner = made.inner.unbind(0) if a.save else [made.inner] * (layers - 1)
    j = [*(places(kept, T, B, g) for kept in inner), [new(B, g)] * T]
    h[0].copy_(a.h0)
    for t in range(T):
        from_x = (drive[t], nothing, nothing, run.wide, run.sums)
        over = nothing if ended is None or t == 0 else ended[t - 1]
        run.widen(
            h[max(t - 1, 0)], run.partial, over, nothing, s, shift, h[t], W_h, *from_x,
            FIRST=t == 0, ENDED=ended is not None, BACKWARD=False, BASE=True, MASK=False, MASKED_GATE=False,
        )  # fmt: skip
        x = run.wide
        for k in range(layers):
            run.middle(x, W_k[k], b_k[k], nothing, run.sums, r[t], y[t], j[k][t], nothing, BACKWARD=False, FIRST=k == 0)
            x = j[k][t]
        run.narrow(
            x, W_c, nothing if noise is None else noise[t], y[t], r[t], run.sums, d[t], run.partial,
            BACKWARD=False, MASK=noise is not None, FIRST=layers == 0, KEEP=a.save,
        )  # fmt: skip
    last = torch.addcmul(shift, s, h[T - 1]) + run.partial.sum(0)
    made.last.copy_(last if ended is None else torch.where(ended[T - 1].bool()[:, None], h[T - 1], last))


def backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    """As the loop in torch, of what either loop forward has made."""
    (T, B, g), n, layers = a.drive.shape, a.h0.shape[1], len(a.W_k)
    run, (s, _), ended, nothing = _Kernels(a), _shares(a), _ended(a), a.drive.new_empty(1)
    W_h, W_c = _factor(a.W_h.t(), a), _factor((a.W_c * a.Z).t(), a)
    W_k = [_factor(W.t(), a) for W in a.W_k]
    from_d = None if gradients[0] is None else gradients[0].contiguous().unbind(0)
    d, y, noise = made.d.unbind(0), made.y.unbind(0), _noise(a)
    r = made.r.unbind(0) if a.normalize else [nothing] * T
    G_h, G_a, G_k = fresh(a.drive, T + 1, B, n), fresh(a.drive, T, B, g), fresh(a.drive, layers, T, B, g)
    G_h[T].zero_() if gradients[1] is None else G_h[T].copy_(gradients[1])
    for t in range(T - 1, -1, -1):
        first, masked = t == T - 1, noise is not None
        over, ends = (nothing, nothing) if ended is None else (ended[min(t + 1, T - 1)], ended[t])
        gated = (y[t], run.wide) if layers == 0 else (d[t], G_k[-1, t])
        run.widen(
            G_h[T if first else t + 2], run.partial, over, ends, s, nothing, G_h[t + 1], W_c,
            nothing if from_d is None else from_d[t], nothing if noise is None else noise[t], *gated, run.sums,
            FIRST=first, ENDED=ended is not None, BACKWARD=True, BASE=from_d is not None, MASK=masked,
            MASKED_GATE=masked and layers > 0,
        )  # fmt: skip
        for k in range(layers - 1, -1, -1):
            gate, out = (made.inner[k - 1, t], G_k[k - 1, t]) if k > 0 else (y[t], run.wide)
            run.middle(
                G_k[k, t], W_k[k], nothing, gate, nothing, nothing, nothing, out, run.sums, BACKWARD=True, FIRST=False
            )
        run.narrow(
            run.wide, W_h, nothing, y[t], r[t], run.sums, G_a[t], run.partial,
            BACKWARD=True, MASK=False, FIRST=False, KEEP=False,
        )  # fmt: skip
    kept = G_h[1] * s if ended is None else torch.where(ended[0].bool()[:, None], G_h[1], G_h[1] * s)
    torch.add(kept, run.partial.sum(0), out=G_h[0])
    return gradients_of(made, a, G_a, G_h, G_k)


def _factor(W: Tensor, a: _Arguments) -> Tensor:
    return W.to(a.reduced or W.dtype).contiguous()


def _shares(a: _Arguments) -> tuple[Tensor, Tensor]:
    """What is kept of a state, and added to it, (n,) each."""
    n = a.h0.shape[1]
    return kept_share(a.S, a.Z).expand(n).contiguous(), a.b_c * a.Z


def _noise(a: _Arguments) -> Sequence[Tensor] | None:
    return None if a.noise is None else a.noise.contiguous().expand(a.drive.shape).unbind(0)


def _ended(a: _Arguments) -> Sequence[Tensor] | None:
    """Of each step which rows have ended, (B,) bytes."""
    _, ended = ended_rows(a.lengths, len(a.drive))
    return None if ended is None else ended.squeeze(-1).to(torch.uint8).unbind(0)

"""The RRU along time by one GPU kernel: notation and gradients as in scan/rru_torch.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ungated.cells.rru import EPSILON, RRUCell
from ungated.scan import rru_torch
from ungated.scan.cuda.kernel import Arguments, run, stacked
from ungated.scan.cuda.plan import Product, Work
from ungated.scan.rru_torch import _Arguments, _reference, arguments_of, gradients_of, kept_share
from ungated.scan.scan_op import Gradient, scan_op


class _Made(NamedTuple):
    d: Tensor
    last: Tensor  # h
    h: Tensor  # (T + 1, B, n): the state before each step, and the last
    a: Tensor  # (T, B, g): what Normalize takes
    r: Tensor  # (T, B, 1)
    inner: Tensor  # (relu_layers - 2, T, B, g): outputs of the ReLU layers that are neither the first nor the last


def rru_scan(
    cell: RRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`; without ReLU over c."""
    d, h = _op(arguments_of(cell, drive, h0, noise, lengths))
    return d, h


def works(cell: RRUCell, masked: bool, ragged: bool) -> tuple[Work, Work]:
    """What its kernels do, forward and backward."""
    given = (cell.hidden_size, cell.middle_size, len(cell.W_k), bool(cell.normalize), masked, ragged)
    return _work(*given), _work(*given, backward=True)


def _work(n: int, g: int, inner: int, normalize: bool, masked: bool, ragged: bool, *, backward: bool = False) -> Work:
    state = "G" if backward else "H"
    products = (
        Product("ToMiddle", n, g, state, held=2),
        Product("Between", g, g, "J", count=inner, held=2 if inner else 0),
        Product("ToState", g, n, "J", held=4),
    )
    # Backward, the row's mean is of what the first ReLU layer passes.
    summed = "Between" if backward and inner else "ToMiddle"
    constants = (("INNER", inner), ("NORMALIZE", int(normalize)), ("MASKED", int(masked)), ("RAGGED", int(ragged)))
    kernel = "rru_backward" if backward else "rru_forward"
    return Work(kernel, products, ((state, n), ("J", g)), summed if normalize else "", constants)


def _of(a: _Arguments, *, backward: bool = False) -> Work:
    given = (a.h0.shape[1], a.drive.shape[2], len(a.W_k), a.normalize, a.noise is not None, a.lengths is not None)
    return _work(*given, backward=backward)


def _allocate(a: _Arguments) -> _Made:
    (T, B, g), n, new = a.drive.shape, a.h0.shape[1], a.drive.new_empty
    d, last = new(T, B, g), new(B, n)
    if not a.save:
        return _Made(d, last, *(new(0) for _ in _Made._fields[2:]))
    inner = new(max(len(a.W_k) - 1, 0), T, B, g)
    return _Made(d, last, h=new(T + 1, B, n), a=new(T, B, g), r=new((T, B, 1) if a.normalize else (0,)), inner=inner)


def _forward(made: _Made, a: _Arguments) -> None:
    (T, B, _), n = a.drive.shape, a.h0.shape[1]
    before = made.a if a.save else torch.empty_like(made.d) if a.W_k else made.d
    r = made.r if a.save and a.normalize else a.drive.new_empty(T, B, 1)
    h, Z = made.h if a.save else made.last, a.Z.expand(n)
    given: Arguments = {"save": int(a.save), "epsilon": EPSILON, "h0": a.h0}
    given |= {"W_h": a.W_h, "W_k": stacked(a.W_k), "b_k": stacked(a.b_k), "W_c": a.W_c}
    given |= {"s": kept_share(a.S, a.Z).expand(n), "Z": Z, "Zb": Z * a.b_c}
    given |= {"a": before, "r": r, "d": made.d, "inner": made.inner, "h": h}
    run(_of(a), a.drive, a.noise, a.lengths, a.reduced, (before, made.d, h), **given)
    if a.save:
        made.last.copy_(made.h[-1])
    if not a.W_k:
        torch.clamp_min(before, 0.0, out=made.d)
        for factor in ([r] if a.normalize else []) + ([] if a.noise is None else [a.noise]):
            made.d.mul_(factor)


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    (T, B, g), n, new = a.drive.shape, a.h0.shape[1], a.drive.new_empty
    G_a, G_k, G_h, mean = new(T, B, g), new(len(a.W_k), T, B, g), new(T + 1, B, n), new(T, B, 1)
    y = made.a * made.r if a.normalize else made.a
    given: Arguments = {
        "W_h": a.W_h,
        "W_k": stacked(a.W_k),
        "W_c": a.W_c,
        "s": kept_share(a.S, a.Z).expand(n),
        "Z": a.Z.expand(n),
    }
    given |= {"a": made.a, "r": made.r, "d": made.d, "inner": made.inner}
    given |= {"V": _with(y, a.W_h.t(), a.reduced) if a.normalize else None}
    given |= {"grad_d": gradients[0], "grad_h": gradients[1], "G_a": G_a, "G_k": G_k, "G_h": G_h, "mean": mean}
    run(_of(a, backward=True), a.drive, a.noise, a.lengths, a.reduced, (G_a, G_k, G_h), **given)
    if a.normalize:
        G_a.addcmul_(y, mean.mul_(made.r), value=-1.0).mul_(made.r)
    kept = rru_torch._Made(made.d, made.last, y, made.r, made.inner, made.h[:-1], new(0))
    return gradients_of(kept, a, G_a, G_h, G_k)


def _with(x: Tensor, W: Tensor, reduced: torch.dtype | None) -> Tensor:
    """x W for all time steps."""
    return x @ W if reduced is None else (x.to(reduced) @ W.to(reduced)).to(x.dtype)


_op = scan_op(
    "rru_cuda",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

"""The RHN along time by the compiled engine: notation and gradients as in scan/rhn_torch.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from torch import Tensor

from ungated.cells.rhn import RHNCell
from ungated.pages import fresh
from ungated.scan.cpu.batched import Sums
from ungated.scan.cpu.library import Prepared, Scan, engine, mask_step
from ungated.scan.rhn_torch import _Arguments, _reference
from ungated.scan.scan_op import Gradient, scan_op


class _Made(NamedTuple):
    features: Tensor  # s_depth
    last: Tensor  # s
    gates: Tensor  # (depth, T, B, 2n): h, t of each micro-step
    inner: Tensor  # (depth - 1, T, B, n): s before each micro-step but the first
    s: Tensor  # (T + 1, B, n): before each step, and the last


def rhn_scan(
    cell: RHNCell, drive: Tensor, s0: Tensor, noise: tuple[Tensor, Tensor] | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`; float32, with one mask for H and T."""
    features, s = _op(_arguments(cell, drive, s0, None if noise is None else noise[1], lengths))
    return features, s


def rhn_prepared(cell: RHNCell, x: Tensor, s0: Tensor, packed: Tensor | None) -> Prepared:
    """From the layer's input."""
    drive = cell.project(x)
    a = _arguments(cell, drive, s0, None, None)
    made = _allocate(a)
    scan = _scan(made, a)(backward=False, packed=packed)
    return Prepared(made.features, made.last, scan, lambda: drive.copy_(cell.project(x)))


def _arguments(cell: RHNCell, drive: Tensor, s0: Tensor, z_h: Tensor | None, lengths: Tensor | None) -> _Arguments:
    return _Arguments(drive, s0, z_h, lengths, list(cell.R_H), list(cell.R_T), list(cell.b_H), list(cell.b_T))


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, depth, new = a.drive.shape[:2], a.s0.shape[1], len(a.R_H), a.drive.new_empty
    results = (new(T, B, n), new(B, n))
    if not a.save:
        return _Made(*results, new(0), new(0), new(0))
    return _Made(*results, gates=new(depth, T, B, 2 * n), inner=new(depth - 1, T, B, n), s=new(T + 1, B, n))


def _scan(made: _Made, a: _Arguments) -> Callable[..., Scan]:
    """The engine's scan, told what both directions need."""
    (T, B), n = a.drive.shape[:2], a.s0.shape[1]
    told = partial(engine("rhn").scan, T=T, B=B, n=n, depth=len(a.R_H), drive=a.drive, s0=a.s0, lengths=a.lengths)
    told = partial(told, mask=a.z_h, mask_step=mask_step(a.z_h), lists={"R": [*a.R_H, *a.R_T], "b": [*a.b_H, *a.b_T]})
    if not a.save:
        return partial(told, features=made.features, s=made.last)
    return partial(told, features=made.features, kept=1, s=made.s, gates=made.gates, inner=made.inner)


def _forward(made: _Made, a: _Arguments) -> None:
    _scan(made, a)(backward=False).run()
    if a.save:
        made.last.copy_(made.s[-1])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    depth = len(a.R_H)
    G_z, G_s = fresh(a.drive, *made.gates.shape), a.s0.new_empty(a.s0.shape)
    given = dict(zip(("grad_features", "grad_s"), gradients, strict=True))
    _scan(made, a)(backward=True, **given, grad_z=G_z, grad_s0=G_s).run()

    @cache
    def sums(l: int) -> Sums:
        s = made.s[:-1] if l == 0 else made.inner[l - 1]
        found = Sums()
        found.add([s if a.z_h is None else s * a.z_h[:, 0]], G_z[l].chunk(2, -1))
        return found

    return [
        lambda: G_z[0],
        lambda: G_s,
        *(None for mask in (a.z_h, a.lengths) if mask is not None),
        *(partial(lambda l, k: sums(l).products[0][k], l, k) for k in (0, 1) for l in range(depth)),
        *(partial(lambda l, k: sums(l).totals[k], l, k) for k in (0, 1) for l in range(depth)),
    ]


_op = scan_op(
    "rhn_cpu",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

"""The GRU along time by the compiled engine: notation and gradients as in scan/gru_torch.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ungated.cells.gru import GRUCell
from ungated.pages import fresh
from ungated.scan.cpu.batched import batched
from ungated.scan.cpu.library import Prepared, Scan, engine, mask_step
from ungated.scan.gru_torch import _Arguments, _reference
from ungated.scan.scan_op import Gradient, scan_op


class _Made(NamedTuple):
    features: Tensor  # h'
    last: Tensor  # h
    gates: Tensor  # (T, B, 3n): r, u, c
    q: Tensor  # (T, B, n): where reset="after"
    h: Tensor  # (T + 1, B, n): before each step, and the last


def gru_scan(
    cell: GRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`; float32."""
    features, h = _op(_arguments(cell, drive, h0, noise, lengths))
    return features, h


def gru_prepared(cell: GRUCell, x: Tensor, h0: Tensor, packed: Tensor | None) -> Prepared:
    """From the layer's input."""
    drive = cell.project(x)
    a = _arguments(cell, drive, h0, None, None)
    made = _allocate(a)
    scan = _scan(made, a)(backward=False, packed=packed)
    return Prepared(made.features, made.last, scan, lambda: drive.copy_(cell.project(x)))


def _arguments(cell: GRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None) -> _Arguments:
    b_hc = cell.b_hc if cell.reset == "after" else None
    return _Arguments(drive, h0, noise, lengths, cell.W_hg, cell.W_hc, b_hc)


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, new = a.drive.shape[:2], a.h0.shape[1], a.drive.new_empty
    results = (new(T, B, n), new(B, n))
    if not a.save:
        return _Made(*results, new(0), new(0), new(0))
    q = new(0) if a.b_hc is None else new(T, B, n)
    return _Made(*results, gates=new(T, B, 3 * n), q=q, h=new(T + 1, B, n))


def _scan(made: _Made, a: _Arguments) -> Callable[..., Scan]:
    """The engine's scan, told what both directions need."""
    (T, B), n = a.drive.shape[:2], a.h0.shape[1]
    told = partial(engine("gru").scan, T=T, B=B, n=n, drive=a.drive, h0=a.h0, lengths=a.lengths)
    told = partial(told, mask=a.noise, mask_step=mask_step(a.noise), W_hg=a.W_hg, W_hc=a.W_hc, b_hc=a.b_hc)
    if not a.save:
        return partial(told, features=made.features, h=made.last)
    return partial(told, features=made.features, kept=1, h=made.h, gates=made.gates, q=made.q)


def _forward(made: _Made, a: _Arguments) -> None:
    _scan(made, a)(backward=False).run()
    if a.save:
        made.last.copy_(made.h[-1])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    n, h, after = a.h0.shape[1], made.h[:-1], a.b_hc is not None
    G_z, G_h, G_q = (fresh(a.drive, *like.shape) for like in (a.drive, a.h0, made.q))
    given = dict(zip(("grad_features", "grad_h"), gradients, strict=True))
    _scan(made, a)(backward=True, **given, grad_drive=G_z, grad_q=G_q, grad_h0=G_h).run()

    def G_W_hc() -> Tensor:
        return batched(h, G_q) if after else batched(made.gates[:, :, :n] * h, G_z[:, :, 2 * n :])

    return [
        lambda: G_z,
        lambda: G_h,
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        lambda: batched(h, G_z[:, :, : 2 * n]),
        G_W_hc,
        *([lambda: torch.sum(G_q, (0, 1))] if after else []),
    ]


_op = scan_op(
    "gru_cpu",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

"""The LSTM along time by the compiled engine: notation and gradients as in scan/lstm_torch.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ungated.cells.lstm import LSTMCell
from ungated.scan.cpu.batched import batched
from ungated.scan.cpu.library import engine, mask_step
from ungated.scan.lstm_torch import _Arguments, _reference
from ungated.scan.pages import on_huge_pages
from ungated.scan.scan_op import Gradient, scan_op


class _Made(NamedTuple):
    features: Tensor  # h'
    last_h: Tensor
    last_c: Tensor
    gates: Tensor  # (T, B, 4n): i, j, f, o
    h: Tensor  # (T + 1, B, n): before each step, and the last
    c: Tensor


def lstm_scan(
    cell: LSTMCell, drive: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As `reference_scan`; float32."""
    features, h, c = _op(_Arguments(drive, *state, noise, lengths, cell.W_h, float(cell.forget_bias)))
    return features, (h, c)


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, new = a.drive.shape[:2], a.h0.shape[1], a.drive.new_empty
    results = (new(T, B, n), new(B, n), new(B, n))
    if not a.save:
        return _Made(*results, new(0), new(0), new(0))
    return _Made(*results, gates=new(T, B, 4 * n), h=new(T + 1, B, n), c=new(T + 1, B, n))


def _scan(made: _Made, a: _Arguments) -> Callable[..., Tensor]:
    """The engine's scan, told what both directions need."""
    (T, B), n = a.drive.shape[:2], a.h0.shape[1]
    told = partial(engine("lstm").scan, T=T, B=B, n=n, forget_bias=a.forget_bias, drive=a.drive, h0=a.h0, c0=a.c0)
    told = partial(told, mask=a.noise, mask_step=mask_step(a.noise), lengths=a.lengths, W_h=a.W_h)
    if not a.save:
        return partial(told, features=made.features, h=made.last_h, c=made.last_c)
    return partial(told, features=made.features, kept=1, h=made.h, c=made.c, gates=made.gates)


def _forward(made: _Made, a: _Arguments) -> None:
    on_huge_pages(made.gates)
    _scan(made, a)(backward=False)
    if a.save:
        made.last_h.copy_(made.h[-1])
        made.last_c.copy_(made.c[-1])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    G_z, G_h, G_c = (a.drive.new_empty(like.shape) for like in (a.drive, a.h0, a.c0))
    on_huge_pages(G_z)
    given = dict(zip(("grad_features", "grad_h", "grad_c"), gradients, strict=True))
    _scan(made, a)(backward=True, **given, grad_drive=G_z, grad_h0=G_h, grad_c0=G_c)
    no_gradient = [None for mask in (a.noise, a.lengths) if mask is not None]
    return [lambda: G_z, lambda: G_h, lambda: G_c, *no_gradient, lambda: batched(made.h[:-1], G_z)]


_op = scan_op(
    "lstm_cpu",
    _Arguments,
    _Made,
    results=3,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

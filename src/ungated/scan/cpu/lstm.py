"""The LSTM along time by the compiled engine: notation and gradients as in scan/lstm_torch.py.

With the input's weights too, the drive is made and given up inside, and all gradients of weights are one product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.lstm import LSTMCell
from ungated.pages import fresh
from ungated.scan.cpu.batched import Sums
from ungated.scan.cpu.library import Prepared, Scan, engine, mask_step
from ungated.scan.reference import reference_in
from ungated.scan.scan_op import Gradient, scan_op


class _Arguments(NamedTuple):
    x: Tensor  # with W_x the input (T, B, m), else the drive (T, B, 4n)
    h0: Tensor
    c0: Tensor
    noise: Tensor | None
    lengths: Tensor | None
    W_x: Tensor | None
    b: Tensor | None
    W_h: Tensor
    forget_bias: float
    reduced: torch.dtype | None = None
    save: bool = False


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
    features, h, c = _op(_Arguments(drive, *state, noise, lengths, None, None, cell.W_h, float(cell.forget_bias)))
    return features, (h, c)


def lstm_layer(
    cell: LSTMCell, x: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As `lstm_scan` of `cell.project(x)`, which is also its readout."""
    forget_bias = float(cell.forget_bias)
    features, h, c = _op(_Arguments(x, *state, noise, lengths, cell.W_x, cell.b, cell.W_h, forget_bias))
    return features, (h, c)


def lstm_prepared(cell: LSTMCell, x: Tensor, state: tuple[Tensor, Tensor], packed: Tensor | None) -> Prepared:
    """From the layer's input."""
    drive = cell.project(x)
    a = _Arguments(drive, *state, None, None, None, None, cell.W_h, float(cell.forget_bias))
    made = _allocate(a)
    scan = _scan(made, a)(backward=False, drive=drive, packed=packed)
    return Prepared(made.features, (made.last_h, made.last_c), scan, lambda: drive.copy_(cell.project(x)))


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, new = a.x.shape[:2], a.h0.shape[1], a.x.new_empty
    results = (new(T, B, n), new(B, n), new(B, n))
    if not a.save:
        return _Made(*results, new(0), new(0), new(0))
    return _Made(*results, gates=new(T, B, 4 * n), h=new(T + 1, B, n), c=new(T + 1, B, n))


def _scan(made: _Made, a: _Arguments) -> Callable[..., Scan]:
    """The engine's scan, told what both directions need."""
    (T, B), n = a.x.shape[:2], a.h0.shape[1]
    told = partial(engine("lstm").scan, T=T, B=B, n=n, forget_bias=a.forget_bias, h0=a.h0, c0=a.c0)
    told = partial(told, mask=a.noise, mask_step=mask_step(a.noise), lengths=a.lengths, W_h=a.W_h)
    if not a.save:
        return partial(told, features=made.features, h=made.last_h, c=made.last_c)
    return partial(told, features=made.features, kept=1, h=made.h, c=made.c, gates=made.gates)


def _forward(made: _Made, a: _Arguments) -> None:
    drive = a.x
    if a.W_x is not None and a.b is not None:
        drive = fresh(a.x, *a.x.shape[:2], a.W_x.shape[1])
        torch.addmm(a.b, a.x.flatten(0, 1), a.W_x, out=drive.flatten(0, 1))
    _scan(made, a)(backward=False, drive=drive).run()
    if a.save:
        made.last_h.copy_(made.h[-1])
        made.last_c.copy_(made.c[-1])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    G_z, G_h, G_c = fresh(a.x, *made.gates.shape), a.h0.new_empty(a.h0.shape), a.c0.new_empty(a.c0.shape)
    given = dict(zip(("grad_features", "grad_h", "grad_c"), gradients, strict=True))
    _scan(made, a)(backward=True, **given, grad_drive=G_z, grad_h0=G_h, grad_c0=G_c).run()

    @cache
    def sums() -> Sums:
        found = Sums()
        found.add([made.h[:-1], *([] if a.W_x is None else [a.x])], [G_z])
        return found

    def G_x(W_x: Tensor) -> Tensor:
        return (G_z.flatten(0, 1) @ W_x.t()).view(a.x.shape)

    return [
        (lambda: G_z) if a.W_x is None else partial(G_x, a.W_x),
        lambda: G_h,
        lambda: G_c,
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        *([] if a.W_x is None else [lambda: sums().products[1][0], lambda: sums().totals[0]]),
        lambda: sums().products[0][0],
    ]


def _reference(a: _Arguments) -> tuple[Tensor, ...]:
    cell: Any = SimpleNamespace(**a._asdict())  # what its stages read of a cell
    cell.step = partial(LSTMCell.step, cell)
    with torch.autocast("cpu", enabled=False):
        drive = a.x if a.W_x is None else LSTMCell.project(cell, a.x)
        return reference_in(None, cell, drive, (a.h0, a.c0), a.noise, a.lengths)


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

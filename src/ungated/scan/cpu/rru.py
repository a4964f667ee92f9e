"""The RRU along time by the compiled engine: notation and gradients as in scan/rru_torch.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ungated.cells.rru import EPSILON, S_SCALE, RRUCell
from ungated.scan.cpu.library import engine, mask_step
from ungated.scan.pages import on_huge_pages
from ungated.scan.products import batched
from ungated.scan.rru_torch import _Arguments, _reference
from ungated.scan.scan_op import Gradient, scan_op


class _Made(NamedTuple):
    d: Tensor
    last: Tensor  # h
    h: Tensor  # (T + 1, B, n): the state before each step, and the last
    a: Tensor  # (T, B, g): what Normalize takes
    r: Tensor  # (T, B)
    y: Tensor  # (relu_layers - 1, T, B, g): outputs of the ReLU layers but the last


def rru_scan(
    cell: RRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`; float32, without ReLU over c."""
    weights = (cell.W_h, list(cell.W_k), list(cell.b_k), cell.W_c, cell.b_c, cell.S, cell.Z)
    d, h = _op(_Arguments(drive, h0, noise, lengths, *weights, bool(cell.normalize), bool(cell.output_relu)))
    return d, h


def _allocate(a: _Arguments) -> _Made:
    (T, B, g), n, new = a.drive.shape, a.h0.shape[1], a.drive.new_empty
    d, last = new(T, B, g), new(B, n)
    if not a.save:
        return _Made(d, last, *(new(0) for _ in _Made._fields[2:]))
    return _Made(d, last, h=new(T + 1, B, n), a=new(T, B, g), r=new(T, B), y=new(len(a.W_k), T, B, g))


def _scan(made: _Made, a: _Arguments) -> Callable[..., None]:
    """The engine's scan, told what both directions need."""
    (T, B, g), n, Z = a.drive.shape, a.h0.shape[1], a.Z.expand(a.h0.shape[1]).contiguous()
    told = partial(engine("rru").scan, T=T, B=B, n=n, g=g, inner=len(a.W_k), normalize=int(a.normalize))
    told = partial(told, epsilon=EPSILON, drive=a.drive, h0=a.h0, W_h=a.W_h, W_c=a.W_c, lengths=a.lengths)
    told = partial(told, W_k=_stacked(a.W_k), b_k=_stacked(a.b_k), s=_kept_share(a).expand(n), Z=Z, Zb=Z * a.b_c)
    told = partial(told, mask=a.noise, mask_step=mask_step(a.noise), d=made.d)
    if not a.save:
        return partial(told, h=made.last)
    return partial(told, h=made.h, h_step=B * n, a=made.a, r=made.r, y=made.y)


def _forward(made: _Made, a: _Arguments) -> None:
    on_huge_pages(made.d, made.a)
    _scan(made, a)(backward=False)
    if a.save:
        made.last.copy_(made.h[-1])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    (T, B, g), n, new = a.drive.shape, a.h0.shape[1], a.drive.new_empty
    layers = len(a.W_k)
    # The state of an ended row has no c: G_h, the gradient by the state after each step, is zero there.
    G_a, G_z, G_h, G_h0 = new(T, B, g), new(layers, T, B, g), new(T, B, n), new(B, n)
    on_huge_pages(G_a)
    grad_d, grad_h = gradients
    _scan(made, a)(backward=True, grad_d=grad_d, grad_h=grad_h, grad_a=G_a, grad_z=G_z, grad_c=G_h, grad_h0=G_h0)
    s, h = _kept_share(a), made.h[:-1]

    @cache
    def M() -> Tensor:
        return batched(made.d, G_h)

    @cache
    def total() -> Tensor:
        return G_h.sum((0, 1))

    return [
        lambda: G_a,
        lambda: G_h0,
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        lambda: batched(h, G_a),
        *(partial(batched, made.y[k], G_z[k]) for k in range(layers)),
        *(partial(G_z[k].sum, (0, 1)) for k in range(layers)),
        lambda: M() * a.Z,
        lambda: total() * a.Z,
        *([] if a.S is None else [lambda: (G_h * h).sum((0, 1)) * (S_SCALE * s * (1.0 - s))]),
        lambda: ((a.W_c * M()).sum(0) + a.b_c * total()).sum_to_size(a.Z.shape),
    ]


def _stacked(tensors: Sequence[Tensor]) -> Tensor | None:
    return torch.stack(list(tensors)) if tensors else None


def _kept_share(a: _Arguments) -> Tensor:
    return a.Z.new_ones(()) if a.S is None else torch.sigmoid(S_SCALE * a.S)


_op = scan_op(
    "rru_cpu",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

"""The RRU along time by the compiled engine: notation and gradients as in scan/rru_torch.py.

With the input's and the output's weights too, the whole layer is one scan: neither the drive nor d is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.rru import EPSILON, S_SCALE, RRUCell
from ungated.scan.cpu.batched import Sums, batched
from ungated.scan.cpu.library import engine, mask_step
from ungated.scan.pages import on_huge_pages
from ungated.scan.reference import reference_scan
from ungated.scan.scan_op import Gradient, scan_op


class _Arguments(NamedTuple):
    x: Tensor  # with W_x the input (T, B, m), else the drive (T, B, g)
    h0: Tensor
    noise: Tensor | None
    lengths: Tensor | None
    W_x: Tensor | None
    b_j: Tensor | None
    W_h: Tensor
    W_k: list[Tensor]
    b_k: list[Tensor]
    W_c: Tensor
    b_c: Tensor
    S: Tensor | None
    Z: Tensor
    W_o: Tensor | None
    b_o: Tensor | None
    normalize: bool
    reduced: torch.dtype | None = None
    save: bool = False


class _Made(NamedTuple):
    output: Tensor  # with W_o (T, B, p), else d (T, B, g)
    last: Tensor  # h
    h: Tensor  # (T + 1, B, n): the state before each step, and the last
    a: Tensor  # (T, B, g and what fills its last register): what Normalize takes
    r: Tensor  # (T, B)
    y: Tensor  # (relu_layers - 1, T, B, g): outputs of the ReLU layers but the first


def rru_scan(
    cell: RRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`; float32, without ReLU over c."""
    d, h = _op(_arguments(cell, drive, h0, noise, lengths, (None, None), (None, None)))
    return d, h


def rru_layer(
    cell: RRUCell, x: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `cell.readout` of `rru_scan` of `cell.project(x)`."""
    o, h = _op(_arguments(cell, x, h0, noise, lengths, (cell.W_x, cell.b_j), (cell.W_o, cell.b_o)))
    return o, h


def _arguments(cell: RRUCell, x: Tensor, h0: Tensor, noise: Any, lengths: Any, before: Any, after: Any) -> _Arguments:
    weights = (*before, cell.W_h, list(cell.W_k), list(cell.b_k), cell.W_c, cell.b_c, cell.S, cell.Z, *after)
    return _Arguments(x, h0, noise, lengths, *weights, normalize=bool(cell.normalize))


def _allocate(a: _Arguments) -> _Made:
    (T, B), (n, g), new = a.x.shape[:2], a.W_h.shape, a.x.new_empty
    output, last = new(T, B, g if a.W_o is None else a.W_o.shape[1]), new(B, n)
    if not a.save:
        return _Made(output, last, *(new(0) for _ in _Made._fields[2:]))
    return _Made(output, last, h=new(T + 1, B, n), a=new(T, B, _padded(g)), r=new(T, B), y=new(len(a.W_k), T, B, g))


def _padded(g: int) -> int:
    return -(-g // 16) * 16


def _scan(made: _Made, a: _Arguments) -> Callable[..., None]:
    """The engine's scan, told what both directions need."""
    (T, B), (n, g) = a.x.shape[:2], a.W_h.shape
    m, p = (0 if W is None else W.shape[axis] for W, axis in ((a.W_x, 0), (a.W_o, 1)))
    told = partial(engine("rru").scan, T=T, B=B, n=n, g=g, m=m, p=p, inner=len(a.W_k), normalize=int(a.normalize))
    told = partial(told, **{"in": a.x}, h0=a.h0, mask=a.noise, mask_step=mask_step(a.noise), lengths=a.lengths)
    told = partial(told, epsilon=EPSILON, W_x=a.W_x, b_j=a.b_j, W_h=a.W_h, W_c=a.W_c, W_o=a.W_o, b_o=a.b_o)
    Z = a.Z.expand(n).contiguous()
    told = partial(told, lists={"W_k": a.W_k, "b_k": a.b_k}, s=_kept_share(a).expand(n), Z=Z, Zb=Z * a.b_c)
    if not a.save:
        return partial(told, out=made.output, h=made.last)
    kept = {"a": made.a, "ld": made.a.shape[2], "r": made.r, "y": made.y}
    return partial(told, out=made.output, h=made.h, h_step=B * n, **kept)


def _forward(made: _Made, a: _Arguments) -> None:
    _scan(made, a)(backward=False)
    if a.save:
        made.last.copy_(made.h[-1])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    (T, B), (n, g), layers, new = a.x.shape[:2], a.W_h.shape, len(a.W_k), a.x.new_empty
    width = g if a.W_x is None else _padded(g)
    # The state of an ended row has no c: G_h, the gradient by the state after each step, is zero there.
    G_a, G_z, G_h, G_h0, G_s = new(T, B, width), new(layers, T, B, g), new(T, B, n), new(B, n), new(B, n)
    on_huge_pages(G_a, G_z, G_h)
    given = {"grad_out": gradients[0], "grad_h": gradients[1], "grad_a": G_a, "grad_a_ld": width, "grad_z": G_z}
    _scan(made, a)(backward=True, **given, grad_c=G_h, grad_h0=G_h0, grad_s=G_s)
    s, G_a = _kept_share(a), G_a[..., :g]
    # What the first ReLU layer gives is max(a, 0) r, times the mask if it is also the last.
    first: dict[str, Any] = {"rectify": True, "scale": made.r if a.normalize else None}

    @cache
    def into_middle() -> Sums:
        return batched([made.h[:-1], *([] if a.W_x is None else [a.x])], [G_a])

    @cache
    def between(k: int) -> Sums:
        return batched([made.y[k - 1]], [G_z[k]]) if k else batched([made.a[..., :g]], [G_z[0]], **first)

    @cache
    def out_of_middle() -> Sums:
        right = [G_h, *([] if a.W_o is None or gradients[0] is None else [gradients[0]])]
        return batched([made.y[-1]], right) if layers else batched([made.a[..., :g]], right, mask=a.noise, **first)

    def M() -> Tensor:
        return out_of_middle().products[0][0]

    def G_b_c() -> Tensor:
        return out_of_middle().totals[0]

    def G_x(W_x: Tensor) -> Tensor:
        return (G_a.flatten(0, 1) @ W_x.t()).view(a.x.shape)

    def of_output(found: Callable[[Sums], Tensor], like: Tensor) -> Tensor:
        return like.new_zeros(like.shape) if gradients[0] is None else found(out_of_middle())

    return [
        (lambda: G_a) if a.W_x is None else partial(G_x, a.W_x),
        lambda: G_h0,
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        *([] if a.W_x is None else [lambda: into_middle().products[1][0], lambda: into_middle().totals[0]]),
        lambda: into_middle().products[0][0],
        *(partial(lambda k: between(k).products[0][0], k) for k in range(layers)),
        *(partial(lambda k: between(k).totals[0], k) for k in range(layers)),
        lambda: M() * a.Z,
        lambda: G_b_c() * a.Z,
        *([] if a.S is None else [lambda: G_s.sum(0) * (S_SCALE * s * (1.0 - s))]),
        lambda: ((a.W_c * M()).sum(0) + a.b_c * G_b_c()).sum_to_size(a.Z.shape),
        *([] if a.W_o is None else [partial(of_output, lambda sums: sums.products[0][1], a.W_o)]),
        *([] if a.b_o is None else [partial(of_output, lambda sums: sums.totals[1], a.b_o)]),
    ]


def _reference(a: _Arguments) -> tuple[Tensor, ...]:
    cell: Any = SimpleNamespace(**a._asdict(), output_relu=False)  # what its stages read of a cell
    cell.step = partial(RRUCell.step, cell)
    with torch.autocast("cpu", enabled=False):
        drive = a.x if a.W_x is None else RRUCell.project(cell, a.x)
        d, h = reference_scan(cell, drive, a.h0, a.noise, a.lengths)
        return d if a.W_o is None else RRUCell.readout(cell, d), h  # type: ignore[return-value]


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

"""The RRU along time with a hand-derived backward pass, in plain torch.

Notation as in cells/rru.py; a_t is what Normalize takes, y_t what it gives, r_t = 1 / rms(a_t), and G(x) is the
gradient of the loss by x. The loop backwards carries only G(h_t),

    G(d_t) = what the features receive + (Z * G(h_{t+1})) W_c'
    G(y_t) = G(d_t) * mask where y_t > 0, else 0
    G(a_t) = r_t (G(y_t) - y_t mean(G(y_t) * y_t))
    G(h_t) = s * G(h_{t+1}) + G(a_t) W_h'

and every gradient of a weight is one product over time and batch after it; with M = sum_t d_t' G(h_{t+1}):

    G(W_h) = sum_t h_t' G(a_t)      G(W_c) = M * Z      G(Z) = sum over rows of W_c * M + b_c * sum_t G(h_{t+1})
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from itertools import cycle, islice
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.rru import EPSILON, S_SCALE, RRUCell
from ungated.pages import fresh
from ungated.scan.products import batched, product, put
from ungated.scan.ragged import ended_rows
from ungated.scan.reference import reference_in
from ungated.scan.scan_op import Gradient, scan_op

_relu_backward = torch.ops.aten.threshold_backward.grad_input


class _Arguments(NamedTuple):
    drive: Tensor
    h0: Tensor
    noise: Tensor | None
    lengths: Tensor | None
    W_h: Tensor
    W_k: list[Tensor]
    b_k: list[Tensor]
    W_c: Tensor
    b_c: Tensor
    S: Tensor | None
    Z: Tensor
    normalize: bool
    output_relu: bool
    reduced: torch.dtype | None = None
    save: bool = False


class _Made(NamedTuple):
    d: Tensor
    last: Tensor  # h
    y: Tensor  # (T, B, g)
    r: Tensor  # (T, B, 1)
    inner: Tensor  # (relu_layers - 2, T, B, g): outputs of the ReLU layers that are neither the first nor the last
    h: Tensor  # (T, B, n): the state before each step
    c: Tensor  # (T, B, n): where output_relu


def rru_scan(
    cell: RRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`."""
    d, h = _op(arguments_of(cell, drive, h0, noise, lengths))
    return d, h


def arguments_of(cell: RRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None) -> _Arguments:
    weights = (cell.W_h, list(cell.W_k), list(cell.b_k), cell.W_c, cell.b_c, cell.S, cell.Z)
    return _Arguments(drive, h0, noise, lengths, *weights, bool(cell.normalize), bool(cell.output_relu))


def _allocate(a: _Arguments) -> _Made:
    (T, B, g), n, new = a.drive.shape, a.h0.shape[1], a.drive.new_empty
    results, nothing = (new(T, B, g), new(B, n)), (0,)
    if not a.save:
        return _Made(*results, *(new(nothing) for _ in _Made._fields[2:]))
    return _Made(
        *results,
        y=new(T, B, g),
        r=new((T, B, 1) if a.normalize else nothing),
        inner=new(max(len(a.W_k) - 1, 0), T, B, g),
        h=new(T, B, n),
        c=new((T, B, n) if a.output_relu else nothing),
    )


def _forward(made: _Made, a: _Arguments) -> None:
    (T, B, g), n, new = a.drive.shape, a.h0.shape[1], a.drive.new_empty

    def steps(kept: Tensor, width: int) -> Sequence[Tensor]:
        """Where each step leaves its (B, width): scratch, the same for all, if no backward pass will follow."""
        return kept.unbind(0) if a.save and kept.numel() else [new(B, width)] * T

    drive, d, y, r, c = a.drive.unbind(0), made.d.unbind(0), steps(made.y, g), steps(made.r, 1), steps(made.c, n)
    h = [*(made.h.unbind(0) if a.save else islice(cycle((new(B, n), new(B, n))), T)), made.last]
    noise = None if a.noise is None else a.noise.expand(T, B, g).unbind(0)
    # Outputs of the ReLU layers; that of the first is recomputed from y if it is not d.
    j = [*([[new(B, g)] * T] if a.W_k else []), *(steps(kept, g) for kept in _inner(made, a)), d]
    with_W_h = product(a.W_h, B, T, a.reduced)
    with_W_k = [(product(W, B, T, a.reduced), b.expand(B, g)) for W, b in zip(a.W_k, a.b_k, strict=True)]
    # Z goes into the weights where only sums stand between it and them.
    with_W_c = product(a.W_c if a.output_relu else a.W_c * a.Z, B, T, a.reduced)
    b_c = (a.b_c if a.output_relu else a.b_c * a.Z).expand(B, n)
    s = kept_share(a.S, a.Z)
    first_end, ended = ended_rows(a.lengths, T)
    norm, scratch, epsilon = new(B, 1), new(B, g), a.drive.new_full((B, 1), EPSILON)

    h[0].copy_(a.h0)
    for t in range(T):
        a_t = with_W_h(drive[t], h[t], scratch)
        if a.normalize:
            torch.linalg.vector_norm(a_t, 2, -1, True, out=norm)
            torch.rsqrt(torch.addcmul(epsilon, norm, norm, value=1.0 / g, out=norm), out=r[t])
            torch.mul(a_t, r[t], out=y[t])
        else:
            y[t].copy_(a_t)
        torch.clamp_min(y[t], 0.0, out=j[0][t])
        for (with_W, b), before, after in zip(with_W_k, j, j[1:], strict=False):
            torch.clamp_min(with_W(b, before[t], scratch), 0.0, out=after[t])
        if noise is not None:
            d[t].mul_(noise[t])
        if a.output_relu:
            torch.clamp_min(with_W_c(b_c, d[t], h[t + 1]), 0.0, out=c[t])
            torch.addcmul(s * h[t], a.Z, c[t], out=h[t + 1])
        else:
            carried = torch.addcmul(b_c, s, h[t], out=h[t + 1])
            put(with_W_c(carried, d[t], h[t + 1]), h[t + 1])
        if ended is not None and t >= first_end:
            torch.where(ended[t], h[t], h[t + 1], out=h[t + 1])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    (T, B, g), n, new = a.drive.shape, a.h0.shape[1], a.drive.new_empty
    layers = len(a.W_k)
    from_d: Sequence[Tensor | None] = [None] * T if gradients[0] is None else gradients[0].unbind(0)
    G_h, G_a = fresh(a.drive, T + 1, B, n), fresh(a.drive, T, B, g)  # G_h[t]: the gradient by the state before step t
    G_k, G_c = fresh(a.drive, layers, T, B, g), new(T, B, n) if a.output_relu else G_h[1:]  # by what the ReLUs take
    noise = None if a.noise is None else a.noise.expand(T, B, g).unbind(0)
    with_W_h = product(a.W_h.t(), B, T, a.reduced)
    with_W_k = [product(W.t(), B, T, a.reduced) for W in a.W_k]
    with_W_c = product((a.W_c if a.output_relu else a.W_c * a.Z).t(), B, T, a.reduced)
    s = kept_share(a.S, a.Z)
    first_end, ended = ended_rows(a.lengths, T)
    d, y, r, c = made.d.unbind(0), made.y.unbind(0), made.r.unbind(0), made.c.unbind(0)
    j = [*_inner(made, a), made.d]  # outputs of the ReLU layers but the first
    scratch, dot = new(B, g), new(B, 1)

    if gradients[1] is None:
        G_h[T].zero_()
    else:
        G_h[T].copy_(gradients[1])
    for t in range(T - 1, -1, -1):
        G_after = G_h[t + 1]
        if ended is not None and t >= first_end:
            G_after = G_after.masked_fill(ended[t], 0.0)
        G_c_t = _relu_backward(G_after * a.Z, c[t], 0.0, grad_input=G_c[t]) if a.output_relu else G_after
        G_j = with_W_c(from_d[t], G_c_t, scratch)
        if noise is not None:
            G_j = torch.mul(G_j, noise[t], out=scratch)
        for k in range(layers - 1, -1, -1):
            # The mask has left its sign in d, and takes it out again.
            passed = d[t] * noise[t] if k == layers - 1 and noise is not None else j[k][t]
            G_j = with_W_k[k](None, _relu_backward(G_j, passed, 0.0, grad_input=G_k[k, t]), scratch)
        G_a_t = _relu_backward(G_j, y[t], 0.0, grad_input=G_a[t])
        if a.normalize:
            torch.sum(torch.mul(G_a_t, y[t], out=scratch), -1, True, out=dot)
            torch.addcmul(G_a_t, y[t], dot, value=-1.0 / g, out=G_a_t).mul_(r[t])
        carried = torch.mul(G_after, s, out=G_h[t])
        if ended is not None and t >= first_end:
            torch.where(ended[t], G_h[t + 1], carried, out=carried)
        put(with_W_h(carried, G_a_t, carried), carried)

    return gradients_of(made, a, G_a, G_h, G_k, G_c if a.output_relu else None)


def gradients_of(
    made: _Made, a: _Arguments, G_a: Tensor, G_h: Tensor, G_k: Tensor, G_c: Tensor | None = None
) -> list[Gradient | None]:
    """All gradients, from what the loop backwards found; G_c: where output_relu."""
    layers, s, (_, ended) = len(a.W_k), kept_share(a.S, a.Z), ended_rows(a.lengths, len(a.drive))
    G_after = G_h[1:] if ended is None else G_h[1:].masked_fill(ended, 0.0)
    G_c = G_after if G_c is None else G_c

    @cache
    def M() -> Tensor:
        return batched(made.d, G_c, a.reduced)

    def G_W_k(k: int) -> Tensor:
        return batched(made.inner[k - 1] if k else made.y.clamp_min(0.0), G_k[k], a.reduced)

    def G_S() -> Tensor:
        return (G_after * made.h).sum((0, 1)) * (S_SCALE * s * (1.0 - s))

    def G_Z() -> Tensor:
        if a.output_relu:
            return (G_after * made.c).sum((0, 1)).sum_to_size(a.Z.shape)
        return ((a.W_c * M()).sum(0) + a.b_c * G_after.sum((0, 1))).sum_to_size(a.Z.shape)

    return [
        lambda: G_a,
        lambda: G_h[0].clone(),
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        lambda: batched(made.h, G_a, a.reduced),
        *(partial(G_W_k, k) for k in range(layers)),
        *(partial(G_k[k].sum, (0, 1)) for k in range(layers)),
        lambda: M() if a.output_relu else M() * a.Z,
        lambda: G_c.sum((0, 1)) if a.output_relu else G_c.sum((0, 1)) * a.Z,
        *([] if a.S is None else [G_S]),
        G_Z,
    ]


def _reference(a: _Arguments) -> tuple[Tensor, ...]:
    cell: Any = SimpleNamespace(**a._asdict())  # what `step` reads of a cell
    cell.step = partial(RRUCell.step, cell)
    return reference_in(a.reduced, cell, a.drive, a.h0, a.noise, a.lengths)


def _inner(made: _Made, a: _Arguments) -> Sequence[Tensor]:
    return made.inner.unbind(0) if a.save else a.W_k[1:]


def kept_share(S: Tensor | None, Z: Tensor) -> Tensor:
    """What a step keeps of the state: sigmoid(10 S) (n), or 1 () where there is no S."""
    return Z.new_ones(()) if S is None else torch.sigmoid(S_SCALE * S)


_op = scan_op(
    "rru",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

"""A whole RRU layer along time, from its input to its output, with a hand-derived backward pass in plain torch.

Notation as in scan/rru_torch.py. A step has as few and as small operations as the algebra allows. With j_t the masked
max(a_t, 0) and q_t = sqrt(g) / r_t the norm of a_t, d_t is sqrt(g) / q_t * j_t, so that the norm divides the short rows

    e_t = j_t [W_c Z, W_o]    h_{t+1} = s * h_t + b_c Z + sqrt(g) / q_t * e_t[:n]    o_t = sqrt(g) / q_t * e_t[n:] + b_o

and never the long ones. Backwards, with P_t = [G(h_{t+1}), G(o_t)] and G(a_t) = r_t G_t, Normalize's mean is a short
row's too:

    G_t = (P_t [W_c Z, W_o]') * mask where a_t > 0, else 0    minus a_t / q_t^2 * sum(P_t * e_t)

Where ReLU layers are between, they take the whole y_t, and the mean is of G_t * a_t. Weights' gradients are summed over
spans of time steps, while what they are made of is in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.rru import EPSILON, S_SCALE, RRUCell
from ungated.scan.pages import fresh
from ungated.scan.places import state_places
from ungated.scan.products import add_batched, product, put
from ungated.scan.ragged import ended_rows
from ungated.scan.reference import autocast_to, reference_scan
from ungated.scan.rru_torch import rru_scan
from ungated.scan.scan_op import Gradient, scan_op

# A span of steps backwards: its gradients should stay in the cache, and its products be large (measured, not sharp).
_SPAN_ENTRIES, _FEWEST_ROWS = 1 << 19, 512

_relu_backward = torch.ops.aten.threshold_backward.grad_input


class _Arguments(NamedTuple):
    x: Tensor
    h0: Tensor
    noise: Tensor | None
    lengths: Tensor | None
    W_x: Tensor
    b_j: Tensor
    W_h: Tensor
    W_k: list[Tensor]
    b_k: list[Tensor]
    W_c: Tensor
    b_c: Tensor
    S: Tensor | None
    Z: Tensor
    W_o: Tensor
    b_o: Tensor
    normalize: bool
    reduced: torch.dtype | None = None
    save: bool = False


class _Made(NamedTuple):
    output: Tensor
    last: Tensor  # h
    a: Tensor  # (T, B, g)
    q: Tensor  # (T, B, 1)
    y: Tensor  # (relu_layers - 1, T, B, g): outputs of the ReLU layers but the first, without the mask
    h: Tensor  # (T, B, n): the state before each step
    e: Tensor  # (T, B, n + p)


def rru_layer(
    cell: RRUCell, x: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `cell.readout` of `reference_scan` of `cell.project(x)`."""
    if cell.output_relu:
        d, h = rru_scan(cell, cell.project(x), h0, noise, lengths)
        return cell.readout(d), h
    chain = (cell.W_x, cell.b_j, cell.W_h, list(cell.W_k), list(cell.b_k), cell.W_c, cell.b_c, cell.S, cell.Z)
    o, h = _op(_Arguments(x, h0, noise, lengths, *chain, cell.W_o, cell.b_o, bool(cell.normalize)))
    return o, h


def _allocate(a: _Arguments) -> _Made:
    (T, B), (n, g), p, new = a.x.shape[:2], a.W_h.shape, a.W_o.shape[1], a.x.new_empty
    results = (new(T, B, p), new(B, n))
    if not a.save:
        return _Made(*results, *(new(0) for _ in _Made._fields[2:]))
    kept = {"a": new(T, B, g), "q": new(T, B, 1), "y": new(len(a.W_k), T, B, g)}
    return _Made(*results, **kept, h=new(T, B, n), e=new(T, B, n + p))


def _forward(made: _Made, a: _Arguments) -> None:
    (T, B), (n, g), p, new = a.x.shape[:2], a.W_h.shape, a.W_o.shape[1], a.x.new_empty
    kept = made if a.save else made._replace(a=fresh(a.x, T, B, g), q=new(T, B, 1), e=new(T, B, n + p))
    layers, root = len(a.W_k), math.sqrt(g)
    drive = kept.a.view(T * B, g)
    put(product(a.W_x, T * B, 1, a.reduced)(a.b_j, a.x.reshape(T * B, -1), drive), drive)
    a_, q, e, c = kept.a.unbind(0), kept.q.unbind(0), kept.e.unbind(0), kept.e[..., :n].unbind(0)
    y = [y_k.unbind(0) for y_k in made.y] if a.save else [[new(B, g)] * T for _ in a.W_k]
    h, noise = state_places(a.h0, made.h, made.last, T), _masks(a)
    with_W_h, with_W_k = product(a.W_h, B, T, a.reduced), [product(W, B, T, a.reduced) for W in a.W_k]
    with_W_co, b_c, s = product(_out_of_middle(a), B, T, a.reduced), a.b_c * a.Z, _kept_share(a)
    first_end, ended = ended_rows(a.lengths, T)
    scratch, masked, least = new(B, g), new(B, g), a.x.new_full((), math.sqrt(g * EPSILON))

    if not a.normalize:
        kept.q.fill_(root)
    for t in range(T):
        a_t = with_W_h(a_[t], h[t], a_[t])
        if a.save:
            put(a_t, a_[t])
        if a.normalize:
            torch.linalg.vector_norm(a_t, 2, -1, True, out=q[t])
            torch.hypot(q[t], least, out=q[t])
        j = torch.clamp_min(a_t, 0.0, out=scratch)
        for k in range(layers):
            if k == 0:
                torch.addcdiv(a.b_k[k], with_W_k[k](None, j, masked), q[t], value=root, out=y[k][t])
            else:
                put(with_W_k[k](a.b_k[k], j, y[k][t]), y[k][t])
            j = y[k][t].clamp_min_(0.0)
        if noise is not None:
            j = torch.mul(j, noise[t], out=masked)
        put(with_W_co(None, j, e[t]), e[t])
        torch.addcmul(b_c, s, h[t], out=h[t + 1])
        if layers:
            h[t + 1].add_(c[t])
        else:
            h[t + 1].addcdiv_(c[t], q[t], value=root)
        if ended is not None and t >= first_end:
            torch.where(ended[t], h[t], h[t + 1], out=h[t + 1])
    if layers:
        torch.add(a.b_o, kept.e[..., n:], out=made.output)
    else:
        torch.addcdiv(a.b_o, kept.e[..., n:], kept.q, value=root, out=made.output)


def _backward(
    gradients: Sequence[Tensor | None], made: _Made, a: _Arguments, wanted: Sequence[bool]
) -> list[Gradient | None]:
    (T, B), (n, g), new = a.x.shape[:2], a.W_h.shape, a.x.new_empty
    P, G_h0, layers = fresh(a.x, *made.e.shape), new(B, n), len(a.W_k)
    for place, gradient in ((P[..., n:], gradients[0]), (P[-1, :, :n], gradients[1])):
        place.zero_() if gradient is None else place.copy_(gradient)
    r = math.sqrt(g) / made.q
    back = _Back(a, made, P, [G_h0, *P[..., :n].unbind(0)], r)
    steps = min(T, max(1, max(_FEWEST_ROWS, _SPAN_ENTRIES // g) // B))
    sums = _Sums(a, made, P, r, steps) if any(wanted[2:]) else None
    G_x = fresh(a.x, *a.x.shape) if wanted[0] else None
    with_W_x = product(a.W_x.t(), steps * B, 1, a.reduced)
    G_a, *G_k = (fresh(a.x, steps, B, g) for _ in range(1 + layers))
    for end in range(T, 0, -steps):
        span = slice(max(end - steps, 0), end)
        G_span, *G_k_span = (G[: end - span.start] for G in (G_a, *G_k))
        back.run(span, G_span, G_k_span)
        if sums is not None:
            sums.add(span, G_span, G_k_span)
        if G_x is not None:
            place = G_x[span].view(-1, a.x.shape[2])
            put(with_W_x(None, G_span.flatten(0, 1), place), place)
    if G_x is not None:
        G_x.mul_(r)
    no_gradient = [None for mask in (a.noise, a.lengths) if mask is not None]
    found = [G_x, G_h0, *no_gradient, *([None] * (len(wanted) - 2) if sums is None else sums.gradients())]
    return [None if gradient is None else partial(_itself, gradient) for gradient in found]


class _Back:
    """The loop backwards. G_h: (B, n) for each of T + 1 states, of which the last is given."""

    def __init__(self, a: _Arguments, made: _Made, P: Tensor, G_h: list[Tensor], r: Tensor) -> None:
        (T, B, g), n, new = made.a.shape, a.h0.shape[1], P.new_empty
        self._normalize, self._G_h, self._s = a.normalize, G_h, _kept_share(a)
        self._P, self._e, self._a_ = P.unbind(0), made.e.unbind(0), made.a.unbind(0)
        self._y, self._noise = [y_k.unbind(0) for y_k in made.y], _masks(a)
        self._r, self._factor = r.unbind(0), made.q.square().reciprocal_().neg_().unbind(0)
        self._first_end, self._ended = ended_rows(a.lengths, T)
        self._with_W_h = product(a.W_h.t(), B, T, a.reduced)
        self._with_W_k = [product(W.t(), B, T, a.reduced) for W in a.W_k]
        self._with_W_co = product(_out_of_middle(a).t(), B, T, a.reduced)
        self._short, self._state, self._long, self._mean = new(P.shape[1:]), new(B, n), new(B, g), new(B, 1)

    def run(self, span: slice, G_a: Tensor, G_k: Sequence[Tensor]) -> None:
        """Fill in G_t of these steps, and the gradients by what the other ReLUs take."""
        P, e, a_, y, factor, mean = self._P, self._e, self._a_, self._y, self._factor, self._mean
        into, others, noise, long = G_a.unbind(0), [G.unbind(0) for G in G_k], self._noise, self._long
        for i, t in reversed(list(enumerate(range(span.start, span.stop)))):
            G_after, kept = self._G_h[t + 1], None
            if self._ended is not None and t >= self._first_end:
                kept = G_after.clone()
                G_after.masked_fill_(self._ended[t], 0.0)
            G = self._with_W_co(None, P[t], long)
            if noise is not None:
                G = torch.mul(G, noise[t], out=long)
            for k in range(len(y) - 1, -1, -1):
                G = _relu_backward(G, y[k][t], 0.0, grad_input=others[k][i])
                G = self._with_W_k[k](None, G, long)
            G = _relu_backward(G, a_[t], 0.0, grad_input=into[i])
            if self._normalize:
                parts = torch.mul(G, a_[t], out=long) if y else torch.mul(P[t], e[t], out=self._short)
                G.addcmul_(a_[t], torch.sum(parts, -1, True, out=mean).mul_(factor[t]))
            G_before = torch.mul(G_after, self._s, out=self._G_h[t])
            if self._ended is not None and kept is not None:
                torch.where(self._ended[t], kept, G_before, out=G_before)
            G_before.addcmul_(self._with_W_h(None, G, self._state), self._r[t])


class _Sums:
    """The gradients of weights and biases, summed over time and batch, spans of so many steps at a time."""

    def __init__(self, a: _Arguments, made: _Made, P: Tensor, r: Tensor, steps: int) -> None:
        (B, g), (n, m), new = made.a.shape[1:], (a.h0.shape[1], a.x.shape[2]), a.x.new_zeros
        self._a, self._made, self._P, self._r = a, made, P, r
        self._into_middle, self._out_of_middle = new(n + m, g), new(g, P.shape[2])
        self._W_k, self._b_k = [torch.zeros_like(W) for W in a.W_k], [torch.zeros_like(b) for b in a.b_k]
        self._b_j, self._b_co, self._s = new(g), new(P.shape[2]), new(n)
        self._ones = a.x.new_ones(steps, B, 1)
        self._left, self._j, self._right = (fresh(a.x, steps, B, width) for width in (n + m, g, P.shape[2]))

    def add(self, span: slice, G_a: Tensor, G_k: Sequence[Tensor]) -> None:
        a, made, h, r, P = self._a, self._made, self._made.h[span], self._r[span], self._P[span]
        left, j, right, ones = (part[: len(h)] for part in (self._left, self._j, self._right, self._ones))
        torch.cat((h, a.x[span]), -1, out=left).mul_(r)
        add_batched(self._into_middle, left, G_a, a.reduced)
        _add_rows(self._b_j, G_a, r)
        _add_rows(self._b_co, P, ones)
        if a.S is not None:
            _add_rows(self._s, torch.mul(P[..., : h.shape[2]], h, out=right[..., : h.shape[2]]), ones)
        torch.clamp_min(made.a[span], 0.0, out=j)
        if G_k:
            j.mul_(r)
        else:
            P = torch.mul(P, r, out=right)
        for k, G in enumerate(G_k):
            add_batched(self._W_k[k], j, G, a.reduced)
            _add_rows(self._b_k[k], G, ones)
            j = made.y[k][span]
        if a.noise is not None:
            j = torch.mul(j, a.noise if len(a.noise) == 1 else a.noise[span], out=self._j[: len(h)])
        add_batched(self._out_of_middle, j, P, a.reduced)

    def gradients(self) -> list[Tensor]:
        a, s, n = self._a, _kept_share(self._a), self._a.h0.shape[1]
        G_b_c, G_b_o = self._b_co[:n], self._b_co[n:]
        M, G_W_o = self._out_of_middle[:, :n], self._out_of_middle[:, n:]
        return [
            self._into_middle[n:].clone(),
            self._b_j,
            self._into_middle[:n].clone(),
            *self._W_k,
            *self._b_k,
            M * a.Z,
            G_b_c * a.Z,
            *([] if a.S is None else [self._s * (S_SCALE * s * (1.0 - s))]),
            ((a.W_c * M).sum(0) + a.b_c * G_b_c).sum_to_size(a.Z.shape),
            G_W_o.clone(memory_format=torch.contiguous_format),
            G_b_o.clone(),
        ]


def _add_rows(total: Tensor, rows: Tensor, weights: Tensor) -> None:
    """Add the sum over time and batch of weights (T, B, 1) times rows (T, B, k)."""
    total.addmv_(rows.flatten(0, 1).t(), weights.flatten())


def _itself(gradient: Tensor) -> Tensor:
    return gradient


def _reference(a: _Arguments) -> tuple[Tensor, ...]:
    cell: Any = SimpleNamespace(**a._asdict(), output_relu=False)  # what its stages read of a cell
    cell.step = partial(RRUCell.step, cell)
    with autocast_to(a.reduced, a.x.device.type):
        d, h = reference_scan(cell, RRUCell.project(cell, a.x), a.h0, a.noise, a.lengths)
        return RRUCell.readout(cell, d), h  # type: ignore[return-value]


def _masks(a: _Arguments) -> Sequence[Tensor] | None:
    """For each step, (B, g)."""
    return None if a.noise is None else a.noise.expand(*a.x.shape[:2], a.W_h.shape[1]).unbind(0)


def _out_of_middle(a: _Arguments) -> Tensor:
    """[W_c Z, W_o]: Z goes into the weights, since only sums stand between it and them."""
    return torch.cat((a.W_c * a.Z, a.W_o), -1)


def _kept_share(a: _Arguments) -> Tensor:
    return a.Z.new_ones(()) if a.S is None else torch.sigmoid(S_SCALE * a.S)


_op = scan_op(
    "rru_layer",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
    selective=True,
)

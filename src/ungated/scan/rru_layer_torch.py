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
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.rru import EPSILON, S_SCALE, RRUCell
from ungated.pages import fresh
from ungated.scan.places import state_places
from ungated.scan.products import add_batched, product, put
from ungated.scan.ragged import ended_rows
from ungated.scan.reference import autocast_to, reference_scan
from ungated.scan.rru_torch import kept_share, rru_scan
from ungated.scan.scan_op import Gradient, scan_op

# A span of steps: what is made of it should stay in the cache, and its products be large, the more so backwards, where
# each adds to all weights' gradients (measured, not sharp).
_SPAN_ENTRIES, _FEWEST_ROWS, _FEWEST_ROWS_BACK = 1 << 19, 512, 2048

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


def _span(a: _Arguments, fewest_rows: int) -> int:
    """How many time steps one has."""
    (T, B), g = a.x.shape[:2], a.W_h.shape[1]
    return min(T, max(1, max(fewest_rows, _SPAN_ENTRIES // g) // B))


def _forward(made: _Made, a: _Arguments) -> None:
    (T, B), n, steps = a.x.shape[:2], a.h0.shape[1], _span(a, _FEWEST_ROWS)
    with_W_x, h = product(a.W_x, steps * B, 1, a.reduced), state_places(a.h0, made.h, made.last, T)
    kept, run = made if a.save else _scratch(a, steps), _loop(a, h)
    for start in range(0, T, steps):
        span = slice(start, min(start + steps, T))
        place = span if a.save else slice(span.stop - start)
        part = kept._replace(a=kept.a[place], q=kept.q[place], e=kept.e[place], y=kept.y[:, place])
        drive = part.a.flatten(0, 1)
        put(with_W_x(a.b_j, a.x[span].reshape(len(drive), -1), drive), drive)
        run(start, part)
        if a.W_k:
            torch.add(a.b_o, part.e[..., n:], out=made.output[span])
        else:
            torch.addcdiv(a.b_o, part.e[..., n:], part.q, value=math.sqrt(a.W_h.shape[1]), out=made.output[span])


def _scratch(a: _Arguments, steps: int) -> _Made:
    """What a span leaves, if no backward pass follows."""
    kept = _allocate(a._replace(x=a.x[:steps], save=True))
    return kept._replace(y=a.x.new_empty(len(a.W_k), 1, *kept.a.shape[1:]).expand(-1, *kept.a.shape))


def _loop(a: _Arguments, h: list[Tensor]) -> Callable[[int, _Made], None]:
    """loop(start, made): the steps from `start` on of a span, of which `made` holds the drive in `a`, and its own.

    h: T + 1 states, of which the first is given.
    """
    (T, B), (n, g), new = a.x.shape[:2], a.W_h.shape, a.x.new_empty
    layers, root, noise = len(a.W_k), math.sqrt(g), _masks(a)
    with_W_h, with_W_k = product(a.W_h, B, T, a.reduced), [product(W, B, T, a.reduced) for W in a.W_k]
    with_W_co, b_c, s = product(_out_of_middle(a), B, T, a.reduced), a.b_c * a.Z, kept_share(a.S, a.Z)
    first_end, ended = ended_rows(a.lengths, T)
    rectified, masked, least = new(B, g), new(B, g), a.x.new_full((), math.sqrt(g * EPSILON))

    def run(start: int, made: _Made) -> None:
        a_, q, e, c = made.a.unbind(0), made.q.unbind(0), made.e.unbind(0), made.e[..., :n].unbind(0)
        y = [y_k.unbind(0) for y_k in made.y]
        if not a.normalize:
            made.q.fill_(root)
        for i in range(len(a_)):
            before, after = h[start + i], h[start + i + 1]
            a_t = put(with_W_h(a_[i], before, a_[i]), a_[i])
            if a.normalize:
                torch.linalg.vector_norm(a_t, 2, -1, True, out=q[i])
                torch.hypot(q[i], least, out=q[i])
            j = torch.clamp_min(a_t, 0.0, out=rectified)
            for k in range(layers):
                if k == 0:
                    torch.addcdiv(a.b_k[k], with_W_k[k](None, j, masked), q[i], value=root, out=y[k][i])
                else:
                    put(with_W_k[k](a.b_k[k], j, y[k][i]), y[k][i])
                j = y[k][i].clamp_min_(0.0)
            if noise is not None:
                j = torch.mul(j, noise[start + i], out=masked)
            put(with_W_co(None, j, e[i]), e[i])
            torch.addcmul(b_c, s, before, out=after)
            if layers:
                after.add_(c[i])
            else:
                after.addcdiv_(c[i], q[i], value=root)
            if ended is not None and start + i >= first_end:
                torch.where(ended[start + i], before, after, out=after)

    return run


def _backward(
    gradients: Sequence[Tensor | None], made: _Made, a: _Arguments, wanted: Sequence[bool]
) -> list[Gradient | None]:
    (T, B), (n, g), steps = a.x.shape[:2], a.W_h.shape, _span(a, _FEWEST_ROWS_BACK)
    G_h = a.h0.new_zeros(B, n) if gradients[1] is None else gradients[1].clone(memory_format=torch.contiguous_format)
    r = math.sqrt(g) / made.q
    back, sums = _Back(a, made, r, G_h), _Sums(a, made, r, steps) if any(wanted[2:]) else None
    G_x = fresh(a.x, *a.x.shape) if wanted[0] else None
    with_W_x = product(a.W_x.t(), steps * B, 1, a.reduced)
    P, G_a, *G_k = (fresh(a.x, steps, B, width) for width in (made.e.shape[2], *[g] * (1 + len(a.W_k))))
    for end in range(T, 0, -steps):
        span = slice(max(end - steps, 0), end)
        P, G_a, *G_k = (part[: end - span.start] for part in (P, G_a, *G_k))
        if gradients[0] is None:
            P[..., n:].zero_()
        else:
            P[..., n:].copy_(gradients[0][span])
        back.run(span, P, G_a, G_k)
        if sums is not None:
            sums.add(span, P, G_a, G_k)
        if G_x is not None:
            place = G_x[span].view(-1, a.x.shape[2])
            put(with_W_x(None, G_a.flatten(0, 1), place), place)
    if G_x is not None:
        G_x.mul_(r)
    no_gradient = [None for mask in (a.noise, a.lengths) if mask is not None]
    found = [G_x, G_h, *no_gradient, *([None] * (len(wanted) - 2) if sums is None else sums.gradients())]
    return [None if gradient is None else partial(_itself, gradient) for gradient in found]


class _Back:
    """The loop backwards. G_h: the gradient that reaches the state, which is changed on the way."""

    def __init__(self, a: _Arguments, made: _Made, r: Tensor, G_h: Tensor) -> None:
        (T, B, g), new = made.a.shape, r.new_empty
        self._normalize, self._s, self._G_h = a.normalize, kept_share(a.S, a.Z), G_h
        self._e, self._a_ = made.e.unbind(0), made.a.unbind(0)
        self._y, self._noise = [y_k.unbind(0) for y_k in made.y], _masks(a)
        self._r, self._factor = r.unbind(0), made.q.square().reciprocal_().neg_().unbind(0)
        self._first_end, self._ended = ended_rows(a.lengths, T)
        self._with_W_h = product(a.W_h.t(), B, T, a.reduced)
        self._with_W_k = [product(W.t(), B, T, a.reduced) for W in a.W_k]
        self._with_W_co = product(_out_of_middle(a).t(), B, T, a.reduced)
        self._short, self._state, self._long = new(made.e.shape[1:]), new(G_h.shape), new(B, g)
        self._mean = new(B, 1)

    def run(self, span: slice, P: Tensor, G_a: Tensor, G_k: Sequence[Tensor]) -> None:
        """Fill in P, G_t and the gradients by what the other ReLUs take, all of these steps; G(o_t) is in P."""
        e, a_, y, factor, mean = self._e, self._a_, self._y, self._factor, self._mean
        into, others, noise, long = G_a.unbind(0), [G.unbind(0) for G in G_k], self._noise, self._long
        G_h, rows = [self._G_h, *P[..., : self._G_h.shape[1]].unbind(0)], P.unbind(0)
        G_h[-1].copy_(self._G_h)
        for i, t in reversed(list(enumerate(range(span.start, span.stop)))):
            G_after, kept = G_h[i + 1], None
            if self._ended is not None and t >= self._first_end:
                kept = G_after.clone()
                G_after.masked_fill_(self._ended[t], 0.0)
            G = self._with_W_co(None, rows[i], long)
            if noise is not None:
                G = torch.mul(G, noise[t], out=long)
            for k in range(len(y) - 1, -1, -1):
                G = _relu_backward(G, y[k][t], 0.0, grad_input=others[k][i])
                G = self._with_W_k[k](None, G, long)
            G = _relu_backward(G, a_[t], 0.0, grad_input=into[i])
            if self._normalize:
                parts = torch.mul(G, a_[t], out=long) if y else torch.mul(rows[i], e[t], out=self._short)
                G.addcmul_(a_[t], torch.sum(parts, -1, True, out=mean).mul_(factor[t]))
            G_before = torch.mul(G_after, self._s, out=G_h[i])
            if self._ended is not None and kept is not None:
                torch.where(self._ended[t], kept, G_before, out=G_before)
            G_before.addcmul_(self._with_W_h(None, G, self._state), self._r[t])


class _Sums:
    """The gradients of weights and biases, summed over time and batch, spans of so many steps at a time."""

    def __init__(self, a: _Arguments, made: _Made, r: Tensor, steps: int) -> None:
        (B, g), (n, m), new = made.a.shape[1:], (a.h0.shape[1], a.x.shape[2]), a.x.new_zeros
        self._a, self._made, self._r, width = a, made, r, made.e.shape[2]
        self._into_middle, self._out_of_middle = new(n + m + 1, g), new(g, width)
        self._W_k, self._b_k = [torch.zeros_like(W) for W in a.W_k], [torch.zeros_like(b) for b in a.b_k]
        self._b_co, self._s = new(width), new(n)
        self._ones = a.x.new_ones(steps, B, 1)
        self._left, self._j, self._right = (fresh(a.x, steps, B, width) for width in (n + m + 1, g, width))

    def add(self, span: slice, P: Tensor, G_a: Tensor, G_k: Sequence[Tensor]) -> None:
        a, made, h, r = self._a, self._made, self._made.h[span], self._r[span]
        left, j, right, ones = (part[: len(h)] for part in (self._left, self._j, self._right, self._ones))
        n = h.shape[2]
        torch.mul(h, r, out=left[..., :n])
        torch.mul(a.x[span], r, out=left[..., n:-1])
        left[..., -1:].copy_(r)
        add_batched(self._into_middle, left, G_a, a.reduced)
        _add_rows(self._b_co, P, ones)
        if a.S is not None:
            _add_rows(self._s, torch.mul(P[..., :n], h, out=right[..., :n]), ones)
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
        a, s, n = self._a, kept_share(self._a.S, self._a.Z), self._a.h0.shape[1]
        G_b_c, G_b_o = self._b_co[:n], self._b_co[n:]
        M, G_W_o = self._out_of_middle[:, :n], self._out_of_middle[:, n:]
        return [
            self._into_middle[n:-1].clone(),
            self._into_middle[-1].clone(),
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

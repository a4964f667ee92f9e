"""The LSTM along time with a hand-derived backward pass, in plain torch.

Notation as in cells/lstm.py, the gates after their sigmoid or tanh; G(x) is the gradient of the loss by x, and i_ those
before them. The loop backwards carries G(h) and G(c),

    G(c'): G(c') + G(h') K_c        K_c = o (1 - tanh(c')^2)
    G(i_)  G(c') K_i                K_i = j mask i (1 - i)
    G(j_)  G(c') K_j                K_j = i mask (1 - j^2)
    G(f_)  G(c') K_f                K_f = c f (1 - f)
    G(o_)  G(h') K_o                K_o = tanh(c') o (1 - o)
    G(c)   G(c') f
    G(h)   [G(i_), G(j_), G(f_), G(o_)] W_h'

where the K do not depend on it and are computed for many steps at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.lstm import LSTMCell
from ungated.pages import fresh
from ungated.scan.places import places, received, spans_backwards, state_places, total
from ungated.scan.products import batched, product
from ungated.scan.ragged import ended_rows
from ungated.scan.reference import reference_in
from ungated.scan.scan_op import Gradient, scan_op

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class _Arguments(NamedTuple):
    drive: Tensor
    h0: Tensor
    c0: Tensor
    noise: Tensor | None
    lengths: Tensor | None
    W_h: Tensor
    forget_bias: float
    reduced: torch.dtype | None = None
    save: bool = False


class _Made(NamedTuple):
    features: Tensor  # h'
    last_h: Tensor
    last_c: Tensor
    gates: Tensor  # (T, B, 4n): i, j, f, o
    c: Tensor  # (T, B, n): before each step
    h: Tensor  # (T, B, n): before each step, where rows end early: else it is h0 and then the features


def lstm_scan(
    cell: LSTMCell, drive: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As `reference_scan`."""
    features, h, c = _op(arguments_of(cell, drive, state, noise, lengths))
    return features, (h, c)


def arguments_of(
    cell: LSTMCell, drive: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> _Arguments:
    return _Arguments(drive, *state, noise, lengths, cell.W_h, float(cell.forget_bias))


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, new = a.drive.shape[:2], a.h0.shape[1], a.drive.new_empty
    kept = T if a.save else 0
    return _Made(
        new(T, B, n),
        new(B, n),
        new(B, n),
        gates=new(kept, B, 4 * n),
        c=new(kept, B, n),
        h=new(0 if a.lengths is None else kept, B, n),
    )


def _forward(made: _Made, a: _Arguments) -> None:
    T, B, n = made.features.shape
    drive, features = a.drive.unbind(0), made.features.unbind(0)
    noise = None if a.noise is None else a.noise.expand(T, B, n).unbind(0)
    gates = places(made.gates, T, B, 4 * n)
    i, j, f, o = zip(*(step.chunk(4, -1) for step in gates), strict=True)
    first_end, ended = ended_rows(a.lengths, T)
    c = state_places(a.c0, made.c, made.last_c, T)
    h = [a.h0, *features] if ended is None else state_places(a.h0, made.h, made.last_h, T)
    with_W_h = product(a.W_h, B, T, a.reduced)
    scratch, new_c = a.drive.new_empty(B, 4 * n), a.drive.new_empty(B, n)
    for t in range(T):
        z = with_W_h(drive[t], h[t], scratch)
        z_j, z_f = z[:, n : 2 * n], z[:, 2 * n : 3 * n]
        z_f.add_(a.forget_bias)
        torch.sigmoid(z, out=gates[t])  # all four: one call costs less than the columns of j
        torch.tanh(z_j, out=j[t])
        candidate = j[t] if noise is None else j[t] * noise[t]
        torch.mul(c[t], f[t], out=c[t + 1]).addcmul_(i[t], candidate)
        torch.mul(torch.tanh(c[t + 1], out=new_c), o[t], out=features[t])
        if ended is not None:
            if t >= first_end:
                torch.where(ended[t], c[t], c[t + 1], out=c[t + 1])
                torch.where(ended[t], h[t], features[t], out=h[t + 1])
            else:
                h[t + 1].copy_(features[t])
    if ended is None:
        made.last_h.copy_(h[T])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    T, B, n = made.features.shape
    from_features = received(gradients[0], T)
    noise = None if a.noise is None else a.noise.expand(T, B, n)
    _, ended = ended_rows(a.lengths, T)
    with_W_h = product(a.W_h.t(), B, T, a.reduced)
    G_z, G_h_next, G_c_next = (fresh(a.drive, *shape) for shape in ((T, B, 4, n), (B, n), (B, n)))
    G_z_t, G_ijf, G_o = G_z.flatten(2).unbind(0), G_z[:, :, :3].unbind(0), G_z[:, :, 3].unbind(0)
    forget = made.gates[:, :, 2 * n : 3 * n].unbind(0)
    # The gradients that reach the state after a step, from later steps and (h) from the features.
    G_h = total(gradients[1], None if ended is not None else from_features[T - 1], like=G_h_next)
    G_c = total(gradients[2], like=G_c_next)
    for start, end in spans_backwards(T, B * n):
        K, K_c = _factors(made, noise, slice(start, end))
        K_ijf, K_o = K[:, :, :3].unbind(0), K[:, :, 3].unbind(0)
        for t in range(end - 1, start - 1, -1):
            carried_h, carried_c = from_features[t - 1] if t > 0 else None, None
            if ended is not None:
                over = ended[t]
                carried_h, carried_c = (G.masked_fill(~over, 0.0) for G in (G_h, G_c))
                G_h, G_c = total(G_h.masked_fill(over, 0.0), from_features[t], like=G_h), G_c.masked_fill(over, 0.0)
            G_c = torch.addcmul(G_c, G_h, K_c[t - start], out=G_c_next)
            torch.mul(G_c.unsqueeze(1), K_ijf[t - start], out=G_ijf[t])
            torch.mul(G_h, K_o[t - start], out=G_o[t])
            G_h = with_W_h(carried_h, G_z_t[t], G_h_next)
            G_c.mul_(forget[t])
            if carried_c is not None:
                G_c.add_(carried_c)

    G_z = G_z.flatten(2)

    def G_W_h() -> Tensor:
        if a.lengths is not None:
            return batched(made.h, G_z, a.reduced)
        return batched(made.features[:-1], G_z[1:], a.reduced) + batched(a.h0, G_z[0], a.reduced)

    no_gradient = [None for mask in (a.noise, a.lengths) if mask is not None]
    return [lambda: G_z, lambda: G_h, lambda: G_c, *no_gradient, G_W_h]


def _factors(made: _Made, noise: Tensor | None, span: slice) -> tuple[Tensor, Tensor]:
    """K_i, K_j, K_f, K_o (., B, 4, n) and K_c (., B, n) of some steps."""
    c = made.c[span]
    i, j, f, o = made.gates[span].chunk(4, -1)
    mask = noise if noise is None else noise[span]
    candidate, through = (j, i) if mask is None else (j * mask, i * mask)
    new_c = torch.tanh(torch.addcmul(c * f, i, candidate))
    K = c.new_empty(*c.shape[:2], 4, c.shape[2])
    K_i, K_j, K_f, K_o = K.unbind(2)
    _sigmoid_backward(candidate, i, grad_input=K_i)
    _tanh_backward(through, j, grad_input=K_j)
    _sigmoid_backward(c, f, grad_input=K_f)
    _sigmoid_backward(new_c, o, grad_input=K_o)
    return K, torch.ops.aten.tanh_backward(o, new_c)


def _reference(a: _Arguments) -> tuple[Tensor, ...]:
    cell: Any = SimpleNamespace(**a._asdict())  # what `step` reads of a cell
    cell.step = partial(LSTMCell.step, cell)
    return reference_in(a.reduced, cell, a.drive, (a.h0, a.c0), a.noise, a.lengths)


_op = scan_op(
    "lstm",
    _Arguments,
    _Made,
    results=3,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

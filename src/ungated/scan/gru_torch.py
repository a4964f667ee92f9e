"""The GRU along time with a hand-derived backward pass, in plain torch; both of its reset forms.

Notation as in cells/gru.py, r, u and c after their sigmoid or tanh and c before its mask; G(x) is the gradient of the
loss by x, and x_ is x before its sigmoid or tanh. The loop backwards carries G(h),

    G(u_) = G(h') K_u                   K_u = (h - c mask) u (1 - u)
    G(c_) = G(h') K_c                   K_c = (1 - u) mask (1 - c^2)

    reset="before"                      reset="after", with q = h W_hc + b_hc
    G(r h) = G(c_) W_hc'                G(q)  = G(c_) r
    G(r_)  = G(r h) K_r                 G(r_) = G(c_) K_r
    K_r    = h r (1 - r)                K_r   = q r (1 - r)
    G(h) = u G(h') + r G(r h)           G(h) = u G(h') + [G(r_), G(u_), G(q)] [W_hg, W_hc]'
           + [G(r_), G(u_)] W_hg'

where the K do not depend on it and are computed for many steps at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.gru import GRUCell
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
    noise: Tensor | None
    lengths: Tensor | None
    W_hg: Tensor
    W_hc: Tensor
    b_hc: Tensor | None  # where reset="after"
    reduced: torch.dtype | None = None
    save: bool = False


class _Made(NamedTuple):
    features: Tensor  # h'
    last: Tensor  # h
    gates: Tensor  # (T, B, 3n): r, u, c
    q: Tensor  # (T, B, n): where reset="after"
    h: Tensor  # (T, B, n): before each step, where rows end early: else it is h0 and then the features


def gru_scan(
    cell: GRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`."""
    features, h = _op(arguments_of(cell, drive, h0, noise, lengths))
    return features, h


def arguments_of(cell: GRUCell, drive: Tensor, h0: Tensor, noise: Tensor | None, lengths: Tensor | None) -> _Arguments:
    b_hc = cell.b_hc if cell.reset == "after" else None
    return _Arguments(drive, h0, noise, lengths, cell.W_hg, cell.W_hc, b_hc)


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, new = a.drive.shape[:2], a.h0.shape[1], a.drive.new_empty
    kept = T if a.save else 0
    return _Made(
        new(T, B, n),
        new(B, n),
        gates=new(kept, B, 3 * n),
        q=new(0 if a.b_hc is None else kept, B, n),
        h=new(0 if a.lengths is None else kept, B, n),
    )


def _forward(made: _Made, a: _Arguments) -> None:
    T, B, n = made.features.shape
    features, scratch = made.features.unbind(0), a.drive.new_empty(B, 3 * n)
    from_x, from_x_c = a.drive[:, :, : 2 * n].unbind(0), a.drive[:, :, 2 * n :].unbind(0)
    noise = None if a.noise is None else a.noise.expand(T, B, n).unbind(0)
    gates = places(made.gates, T, B, 3 * n)
    ru, c = zip(*(torch.split(step, [2 * n, n], -1) for step in gates), strict=True)
    first_end, ended = ended_rows(a.lengths, T)
    h = [a.h0, *features] if ended is None else state_places(a.h0, made.h, made.last, T)
    if a.b_hc is None:
        with_W_hg, with_W_hc = (product(W, B, T, a.reduced) for W in (a.W_hg, a.W_hc))
        wide, r_h = scratch[:, : 2 * n], a.drive.new_empty(B, n)
    else:
        with_both = product(torch.cat([a.W_hg, a.W_hc], -1), B, T, a.reduced)
        b = torch.cat([a.b_hc.new_zeros(2 * n), a.b_hc]).expand(B, 3 * n)
        q = places(made.q, T, B, n)
    for t in range(T):
        if a.b_hc is None:
            torch.sigmoid(with_W_hg(from_x[t], h[t], wide), out=ru[t])
            torch.mul(ru[t][:, :n], h[t], out=r_h)
            torch.tanh(with_W_hc(from_x_c[t], r_h, c[t]), out=c[t])
        else:
            all_three = with_both(b, h[t], scratch)
            torch.add(all_three[:, : 2 * n], from_x[t], out=ru[t]).sigmoid_()
            q[t].copy_(all_three[:, 2 * n :])
            torch.addcmul(from_x_c[t], ru[t][:, :n], q[t], out=c[t]).tanh_()
        candidate = c[t] if noise is None else c[t] * noise[t]
        torch.lerp(candidate, h[t], ru[t][:, n:], out=features[t])
        if ended is not None:
            if t >= first_end:
                torch.where(ended[t], h[t], features[t], out=h[t + 1])
            else:
                h[t + 1].copy_(features[t])
    if ended is None:
        made.last.copy_(h[T])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    T, B, n = made.features.shape
    new, after = a.drive.new_empty, a.b_hc is not None
    from_features = received(gradients[0], T)
    noise = None if a.noise is None else a.noise.expand(T, B, n)
    _, ended = ended_rows(a.lengths, T)
    h = made.h if ended is not None else torch.cat([a.h0.unsqueeze(0), made.features[:-1]])
    r, u = made.gates[:, :, :n].unbind(0), made.gates[:, :, n : 2 * n].unbind(0)
    if after:
        with_both = product(torch.cat([a.W_hg, a.W_hc], -1).t(), B, T, a.reduced)
    else:
        with_W_hg, with_W_hc = (product(W.t(), B, T, a.reduced) for W in (a.W_hg, a.W_hc))
    # By r_, u_ and c_, or q for c_ where the reset gate comes after the product.
    G_z, G_c = fresh(a.drive, T, B, 3, n), new(T if after else 0, B, n)
    G_r, G_uc, G_third = G_z[:, :, 0].unbind(0), G_z[:, :, 1:].unbind(0), G_z[:, :, 2].unbind(0)
    G_ru, G_z_t = G_z[:, :, :2].flatten(2).unbind(0), G_z.flatten(2).unbind(0)
    carried, G_h_next, G_r_h = new(B, n), new(B, n), new(B, n)
    # The gradient that reaches the state after a step, from later steps and from the features.
    G_h = total(gradients[1], None if ended is not None else from_features[T - 1], like=carried)
    for start, end in spans_backwards(T, B * n):
        K = _factors(made, h, noise, slice(start, end))
        K_r, K_uc = K[:, :, 0].unbind(0), K[:, :, 1:].unbind(0)
        for t in range(end - 1, start - 1, -1):
            past = from_features[t - 1] if t > 0 else None
            if ended is not None:
                past = G_h.masked_fill(~ended[t], 0.0)
                G_h = total(G_h.masked_fill(ended[t], 0.0), from_features[t], like=G_h)
            torch.mul(G_h.unsqueeze(1), K_uc[t - start], out=G_uc[t])
            if past is None:
                torch.mul(G_h, u[t], out=carried)
            else:
                torch.addcmul(past, G_h, u[t], out=carried)
            if after:
                G_c[t].copy_(G_third[t])
                torch.mul(G_third[t], K_r[t - start], out=G_r[t])
                G_third[t].mul_(r[t])
                G_h = with_both(carried, G_z_t[t], G_h_next)
            else:
                G_rh = with_W_hc(None, G_third[t], G_r_h)
                torch.mul(G_rh, K_r[t - start], out=G_r[t])
                G_h = with_W_hg(carried.addcmul_(G_rh, r[t]), G_ru[t], G_h_next)

    G_z = G_z.flatten(2)

    def G_W_hc() -> Tensor:
        return batched(h if after else made.gates[:, :, :n] * h, G_z[:, :, 2 * n :], a.reduced)

    return [
        lambda: torch.cat([G_z[:, :, : 2 * n], G_c], -1) if after else G_z,
        lambda: G_h,
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        lambda: batched(h, G_z[:, :, : 2 * n], a.reduced),
        G_W_hc,
        *([lambda: G_z[:, :, 2 * n :].sum((0, 1))] if after else []),
    ]


def _factors(made: _Made, h: Tensor, noise: Tensor | None, span: slice) -> Tensor:
    """K_r, K_u, K_c (., B, 3, n) of some steps."""
    h, (r, u, c) = h[span], made.gates[span].chunk(3, -1)
    candidate, through = c, 1.0 - u
    if noise is not None:
        candidate, through = c * noise[span], through * noise[span]
    K = h.new_empty(*h.shape[:2], 3, h.shape[2])
    K_r, K_u, K_c = K.unbind(2)
    _sigmoid_backward(made.q[span] if len(made.q) else h, r, grad_input=K_r)
    _sigmoid_backward(h - candidate, u, grad_input=K_u)
    _tanh_backward(through, c, grad_input=K_c)
    return K


def _reference(a: _Arguments) -> tuple[Tensor, ...]:
    reset, hidden_size = "before" if a.b_hc is None else "after", a.h0.shape[1]
    cell: Any = SimpleNamespace(**a._asdict(), reset=reset, hidden_size=hidden_size)  # what `step` reads of a cell
    cell.step = partial(GRUCell.step, cell)
    return reference_in(a.reduced, cell, a.drive, a.h0, a.noise, a.lengths)


_op = scan_op(
    "gru",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

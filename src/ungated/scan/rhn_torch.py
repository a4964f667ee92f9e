"""The RHN along time with a hand-derived backward pass, in plain torch.

Notation as in cells/rhn.py, h and t after their tanh and sigmoid; G(x) is the gradient of the loss by x, and h_, t_
those before them. The loop backwards carries G(s) through every micro-step,

    G(h_) = G(s_l) K_H          K_H = t (1 - h^2)
    G(t_) = G(s_l) K_T          K_T = (h - s_{l-1}) t (1 - t)
    G(s_{l-1}) = G(s_l) (1 - t) + z_h (G(h_) R_H' + G(t_) R_T')

where the K do not depend on it and are computed for many steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.rhn import RHNCell
from ungated.pages import fresh
from ungated.scan.places import places, received, spans_backwards, state_places, total
from ungated.scan.products import batched, product, put
from ungated.scan.ragged import ended_rows
from ungated.scan.reference import reference_in
from ungated.scan.scan_op import Gradient, scan_op

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class _Arguments(NamedTuple):
    drive: Tensor
    s0: Tensor
    z_h: Tensor | None  # (1 or T, 1 or 2, B, n)
    lengths: Tensor | None
    R_H: list[Tensor]
    R_T: list[Tensor]
    b_H: list[Tensor]
    b_T: list[Tensor]
    reduced: torch.dtype | None = None
    save: bool = False


class _Made(NamedTuple):
    features: Tensor  # s_depth
    last: Tensor  # s
    gates: Tensor  # (depth, T, B, 2n): h, t of each micro-step
    inner: Tensor  # (depth - 1, T, B, n): s before each micro-step but the first
    s: Tensor  # (T, B, n): before each step, where rows end early: else it is s0 and then the features


def rhn_scan(
    cell: RHNCell, drive: Tensor, s0: Tensor, noise: tuple[Tensor, Tensor] | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`."""
    features, s = _op(arguments_of(cell, drive, s0, noise, lengths))
    return features, s


def arguments_of(
    cell: RHNCell, drive: Tensor, s0: Tensor, noise: tuple[Tensor, Tensor] | None, lengths: Tensor | None
) -> _Arguments:
    weights = (list(cell.R_H), list(cell.R_T), list(cell.b_H), list(cell.b_T))
    return _Arguments(drive, s0, None if noise is None else noise[1], lengths, *weights)


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, depth, new = a.drive.shape[:2], a.s0.shape[1], len(a.R_H), a.drive.new_empty
    kept = T if a.save else 0
    return _Made(
        new(T, B, n),
        new(B, n),
        gates=new(depth, kept, B, 2 * n),
        inner=new(depth - 1, kept, B, n),
        s=new(0 if a.lengths is None else kept, B, n),
    )


def _forward(made: _Made, a: _Arguments) -> None:
    (T, B, n), new = made.features.shape, a.drive.new_empty
    drive, features = a.drive.unbind(0), made.features.unbind(0)
    first_end, ended = ended_rows(a.lengths, T)
    outer = [a.s0, *features] if ended is None else state_places(a.s0, made.s, made.last, T)
    s = [outer, *(places(kept, T, B, n) for kept in made.inner), features]  # before each micro-step, and after the last
    h, t_gate = ([places(kept, T, B, n) for kept in made.gates.chunk(2, -1)[k]] for k in (0, 1))
    masks = _masks(a, T)
    products = [_forwards(R_H, R_T, a) for R_H, R_T in zip(a.R_H, a.R_T, strict=True)]
    b = [torch.cat(pair).expand(B, 2 * n) for pair in zip(a.b_H, a.b_T, strict=True)]
    from_x, scratch = new(B, 2 * n), new(B, 2 * n)
    for t in range(T):
        torch.add(drive[t], b[0], out=from_x)
        for l, with_R in enumerate(products):
            z = with_R(b[l] if l > 0 else from_x, s[l][t], masks[t], scratch)
            torch.tanh(z[:, :n], out=h[l][t])
            torch.sigmoid(z[:, n:], out=t_gate[l][t])
            torch.lerp(s[l][t], h[l][t], t_gate[l][t], out=s[l + 1][t])
        if ended is not None:
            if t >= first_end:
                torch.where(ended[t], outer[t], features[t], out=outer[t + 1])
            else:
                outer[t + 1].copy_(features[t])
    if ended is None:
        made.last.copy_(outer[T])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    (T, B, n), depth, new = made.features.shape, len(a.R_H), a.drive.new_empty
    from_features = received(gradients[0], T)
    _, ended = ended_rows(a.lengths, T)
    outer = made.s if ended is not None else torch.cat([a.s0.unsqueeze(0), made.features[:-1]])
    s = [outer, *made.inner]  # before each micro-step
    masks = _masks(a, T)
    products = [_backwards(R_H, R_T, a) for R_H, R_T in zip(a.R_H, a.R_T, strict=True)]
    G_z = fresh(a.drive, depth, T, B, 2, n)
    G_z_of = [G.unbind(0) for G in G_z]
    carried, G_s_next = new(B, n), new(B, n)
    # The gradient that reaches the state after a step, from later steps and from the features.
    G_s = total(gradients[1], None if ended is not None else from_features[T - 1], like=carried)
    for start, end in spans_backwards(T, depth * B * n):
        factors = [_factors(gates[start:end], s_l[start:end]) for gates, s_l in zip(made.gates, s, strict=True)]
        for t in range(end - 1, start - 1, -1):
            past = from_features[t - 1] if t > 0 else None
            if ended is not None:
                past = G_s.masked_fill(~ended[t], 0.0)
                G_s = total(G_s.masked_fill(ended[t], 0.0), from_features[t], like=G_s)
            for l in range(depth - 1, -1, -1):
                K, keep = (factor[t - start] for factor in factors[l])
                torch.mul(G_s.unsqueeze(1), K, out=G_z_of[l][t])
                if l == 0 and past is not None:
                    torch.addcmul(past, G_s, keep, out=carried)
                else:
                    torch.mul(G_s, keep, out=carried)
                G_s = products[l](carried, G_z_of[l][t].flatten(1), masks[t], G_s_next)

    return gradients_of(made, a, G_z.flatten(3), G_s)


def gradients_of(made: _Made, a: _Arguments, G_z: Tensor, G_s: Tensor) -> list[Gradient | None]:
    """All gradients, from what the loop backwards found: by the gates before their tanh or sigmoid, and by s0."""
    depth, outer = len(a.R_H), made.s if a.lengths is not None else torch.cat([a.s0.unsqueeze(0), made.features[:-1]])
    s = [outer, *made.inner]  # before each micro-step

    def G_R(l: int, half: int) -> Tensor:
        x = s[l] if a.z_h is None else s[l] * a.z_h[:, -half]
        return batched(x, G_z[l].chunk(2, -1)[half], a.reduced)

    def G_b(l: int, half: int) -> Tensor:
        return G_z[l].chunk(2, -1)[half].sum((0, 1))

    return [
        lambda: G_z[0],
        lambda: G_s,
        *(None for mask in (a.z_h, a.lengths) if mask is not None),
        *(partial(G_R, l, half) for half in (0, 1) for l in range(depth)),
        *(partial(G_b, l, half) for half in (0, 1) for l in range(depth)),
    ]


def _factors(gates: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """K_H and K_T (., B, 2, n), and 1 - t (., B, n), of a micro-step in some steps."""
    h, t = gates.chunk(2, -1)
    K = s.new_empty(*s.shape[:2], 2, s.shape[2])
    _tanh_backward(t, h, grad_input=K[:, :, 0])
    _sigmoid_backward(h - s, t, grad_input=K[:, :, 1])
    return K, 1.0 - t


def _masks(a: _Arguments, T: int) -> Sequence[Sequence[Tensor]]:
    """Of each step: none, one for both matrices, or one for each."""
    return [()] * T if a.z_h is None else [step.unbind(0) for step in a.z_h.expand(T, *a.z_h.shape[1:]).unbind(0)]


def _forwards(R_H: Tensor, R_T: Tensor, a: _Arguments) -> Callable[[Tensor, Tensor, Sequence[Tensor], Tensor], Tensor]:
    """(base (B, 2n), s, masks, out) -> base + [(s * z_h) R_H, (s * z_h) R_T]."""
    T, B = a.drive.shape[:2]
    if a.z_h is None or a.z_h.shape[1] == 1:
        with_both = product(torch.cat([R_H, R_T], 1), B, T, a.reduced)
        return lambda base, s, masks, out: with_both(base, s * masks[0] if masks else s, out)
    with_each = [product(R, B, T, a.reduced) for R in (R_H, R_T)]

    def separately(base: Tensor, s: Tensor, masks: Sequence[Tensor], out: Tensor) -> Tensor:
        for with_R, from_x, mask, half in zip(with_each, base.chunk(2, 1), masks, out.chunk(2, 1), strict=True):
            put(with_R(from_x, s * mask, half), half)
        return out

    return separately


def _backwards(R_H: Tensor, R_T: Tensor, a: _Arguments) -> Callable[[Tensor, Tensor, Sequence[Tensor], Tensor], Tensor]:
    """(base (B, n), G (B, 2n), masks, out) -> base + z_h * (G_H R_H') + z_h * (G_T R_T')."""
    T, B, n = a.drive.shape[0], *a.s0.shape
    if a.z_h is None or a.z_h.shape[1] == 1:
        with_each = [product(torch.cat([R_H, R_T], 1).t(), B, T, a.reduced)]
    else:
        with_each = [product(R.t(), B, T, a.reduced) for R in (R_H, R_T)]
    scratch = a.drive.new_empty(B, n)

    def apply(base: Tensor, G: Tensor, masks: Sequence[Tensor], out: Tensor) -> Tensor:
        if not masks:
            return with_each[0](base, G, out)
        for with_R, part, mask in zip(with_each, G.chunk(len(with_each), 1), masks, strict=True):
            base = torch.addcmul(base, with_R(None, part, scratch), mask, out=out)
        return out

    return apply


def _reference(a: _Arguments) -> tuple[Tensor, ...]:
    cell: Any = SimpleNamespace(**a._asdict())  # what `step` reads of a cell
    cell.step = partial(RHNCell.step, cell)
    noise = None if a.z_h is None else (a.z_h, a.z_h)
    return reference_in(a.reduced, cell, a.drive, a.s0, noise, a.lengths)


_op = scan_op(
    "rhn",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

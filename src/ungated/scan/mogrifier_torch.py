"""The Mogrifier LSTM along time with a hand-derived backward pass, in plain torch.

Notation as in cells/mogrifier.py, the gates j, o, f, i after their tanh or sigmoid, e_k the factor 2 sigmoid(.) of
round k; G(x) is the gradient of the loss by x, and x_ is x before its sigmoid or tanh. The loop backwards carries G(h)
and G(c); after that of an LSTM,

    G(c'): G(c') + G(h') K_c        K_c = o (1 - tanh(c')^2)
    G(j_)  G(c') K_j                K_j = min(1 - f, i) mask (1 - j^2)
    G(o_)  G(h') K_o                K_o = tanh(c') o (1 - o)
    G(f_)  G(c') K_f                K_f = (c - j mask [1 - f < i]) f (1 - f)
    G(i_)  G(c') K_i                K_i = j mask [i < 1 - f] i (1 - i)
    [G(x), G(h)] = [G(j_), G(o_), G(f_), G(i_)] [W_x, W_h]',

come the rounds, last first, with v the one of x and h that round k scales and w the other:

    G(e_k_) = G(v) K_k              K_k = v after the round * (1 - e_k / 2)
    G(w)    = G(w) + (G(e_k_) B[k]') A[k]'
    G(v)    = G(v) e_k

where the K do not depend on it and are computed for many steps at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.mogrifier import MogrifierLSTMCell
from ungated.pages import fresh
from ungated.scan.places import places, received, spans_backwards, state_places, total
from ungated.scan.products import Product, batched, product, put
from ungated.scan.ragged import ended_rows
from ungated.scan.reference import reference_in
from ungated.scan.scan_op import Gradient, scan_op

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class _Arguments(NamedTuple):
    x: Tensor
    h0: Tensor
    c0: Tensor
    noise: Tensor | None
    lengths: Tensor | None
    W_x: Tensor
    W_h: Tensor
    b_j: Tensor
    b_o: Tensor
    b_f: Tensor
    b_i: Tensor
    A: list[Tensor]
    B: list[Tensor]
    beta: list[Tensor]
    reduced: torch.dtype | None = None
    save: bool = False


class _Made(NamedTuple):
    features: Tensor  # h'
    last_h: Tensor
    last_c: Tensor
    e_x: Tensor  # (rounds // 2 rounded up, T, B, m): factors of x
    e_h: Tensor  # (rounds // 2, T, B, n): factors of h
    x_h: Tensor  # (T, B, m + n): x and h after the last round
    gates: Tensor  # (T, B, 4n): j, o, f, i
    c: Tensor  # (T, B, n): before each step
    h: Tensor  # (T, B, n): before each step, where rows end early: else it is h0 and then the features


def mogrifier_scan(
    cell: MogrifierLSTMCell, x: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As `reference_scan`."""
    features, h, c = _op(arguments_of(cell, x, state, noise, lengths))
    return features, (h, c)


def arguments_of(
    cell: MogrifierLSTMCell, x: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> _Arguments:
    weights = (cell.W_x, cell.W_h, cell.b_j, cell.b_o, cell.b_f, cell.b_i)
    return _Arguments(x, *state, noise, lengths, *weights, list(cell.A), list(cell.B), list(cell.beta))


def _allocate(a: _Arguments) -> _Made:
    (T, B, m), n, rounds, new = a.x.shape, a.h0.shape[1], len(a.A), a.x.new_empty
    kept = T if a.save else 0
    return _Made(
        new(T, B, n),
        new(B, n),
        new(B, n),
        e_x=new((rounds + 1) // 2, kept, B, m),
        e_h=new(rounds // 2, kept, B, n),
        x_h=new(kept, B, m + n),
        gates=new(kept, B, 4 * n),
        c=new(kept, B, n),
        h=new(0 if a.lengths is None else kept, B, n),
    )


def _forward(made: _Made, a: _Arguments) -> None:
    (T, B, m), n, rounds, new = a.x.shape, a.h0.shape[1], len(a.A), a.x.new_empty
    inputs, features = a.x.unbind(0), made.features.unbind(0)
    noise = None if a.noise is None else a.noise.expand(T, B, n).unbind(0)
    first_end, ended = ended_rows(a.lengths, T)
    c = state_places(a.c0, made.c, made.last_c, T)
    h = [a.h0, *features] if ended is None else state_places(a.h0, made.h, made.last_h, T)
    half_e = [places(_of_round(k, made.e_x, made.e_h), T, B, (m, n)[k % 2]) for k in range(rounds)]
    scalings = [_scaling(A, B, beta, a) for A, B, beta in zip(a.A, a.B, a.beta, strict=True)]
    x_h, gates = places(made.x_h, T, B, m + n), places(made.gates, T, B, 4 * n)
    j, o, f, i = zip(*(step.chunk(4, -1) for step in gates), strict=True)
    with_W = product(torch.cat([a.W_x, a.W_h]), B, T, a.reduced)
    b = torch.cat([a.b_j, a.b_o, a.b_f, a.b_i]).expand(B, 4 * n)
    scratch, zero, z_place, share = (new(B, m), new(B, n)), new(1).zero_(), new(B, 4 * n), new(B, n)
    for t in range(T):
        pair, gated = [inputs[t], h[t]], torch.split(x_h[t], [m, n], 1)
        for k, scaling in enumerate(scalings):
            scaled, by = k % 2, 1 - k % 2
            torch.sigmoid(scaling(pair[by]), out=half_e[k][t])
            place = gated[scaled] if k >= rounds - 2 else scratch[scaled]
            pair[scaled] = torch.addcmul(zero, pair[scaled], half_e[k][t], value=2.0, out=place)
        for k in range(rounds, 2):
            gated[k].copy_(pair[k])
        z = with_W(b, x_h[t], z_place)
        torch.sigmoid(z, out=gates[t])  # all four: one call costs less than the columns of j
        torch.tanh(z[:, :n], out=j[t])
        candidate = j[t] if noise is None else j[t] * noise[t]
        torch.minimum(torch.sub(1.0, f[t], out=share), i[t], out=share)
        torch.mul(c[t], f[t], out=c[t + 1]).addcmul_(share, candidate)
        torch.mul(torch.tanh(c[t + 1], out=share), o[t], out=features[t])
        if ended is not None:
            if t >= first_end:
                torch.where(ended[t], c[t], c[t + 1], out=c[t + 1])
                torch.where(ended[t], h[t], features[t], out=h[t + 1])
            else:
                h[t + 1].copy_(features[t])
    if ended is None:
        made.last_h.copy_(h[T])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    (T, B, m), n, rounds, new = a.x.shape, a.h0.shape[1], len(a.A), a.x.new_empty
    from_features = received(gradients[0], T)
    noise = None if a.noise is None else a.noise.expand(T, B, n)
    _, ended = ended_rows(a.lengths, T)
    h = made.h if ended is not None else torch.cat([a.h0.unsqueeze(0), made.features[:-1]])
    pairs = _rounds(a.x, h, made)
    forget = made.gates[:, :, 2 * n : 3 * n].unbind(0)
    with_W = product(torch.cat([a.W_x, a.W_h]).t(), B, T, a.reduced)
    through = [_through(A, B_k, a) for A, B_k in zip(a.A, a.B, strict=True)]
    G_z, G_x = fresh(a.x, T, B, 4, n), new(T, B, m)
    G_z_t, G_jofi, G_o = G_z.flatten(2).unbind(0), G_z.unbind(0), G_z[:, :, 1].unbind(0)
    G_e = [new(T, B, m if k % 2 == 0 else n) for k in range(rounds)]
    G_x_h, G_h_next, G_c_next = new(B, m + n), new(B, n), new(B, n)
    # The gradients that reach the state after a step, from later steps and (h) from the features.
    G_h = total(gradients[1], None if ended is not None else from_features[T - 1], like=G_h_next)
    G_c = total(gradients[2], like=G_c_next)
    for start, end in spans_backwards(T, B * n):
        span = slice(start, end)
        K, K_c = _factors(made, noise, span)
        K_o = K[:, :, 1].unbind(0)
        rounds_K = [_round_factors(pairs[k + 1][k % 2], _of_round(k, made.e_x, made.e_h), span) for k in range(rounds)]
        for t in range(end - 1, start - 1, -1):
            past_h, past_c = from_features[t - 1] if t > 0 else None, None
            if ended is not None:
                past_h, past_c = (G.masked_fill(~ended[t], 0.0) for G in (G_h, G_c))
                G_h = total(G_h.masked_fill(ended[t], 0.0), from_features[t], like=G_h)
                G_c = G_c.masked_fill(ended[t], 0.0)
            G_c = torch.addcmul(G_c, G_h, K_c[t - start], out=G_c_next)
            torch.mul(G_c.unsqueeze(1), K[t - start], out=G_jofi[t])
            torch.mul(G_h, K_o[t - start], out=G_o[t])
            G_pair = torch.split(with_W(None, G_z_t[t], G_x_h), [m, n], 1)
            for k in range(rounds - 1, -1, -1):
                K_k, e_k = (factor[t - start] for factor in rounds_K[k])
                G_scaled, G_by = G_pair[k % 2], G_pair[1 - k % 2]
                torch.mul(G_scaled, K_k, out=G_e[k][t])
                G_scaled.mul_(e_k)
                put(through[k](G_by, G_e[k][t], G_by), G_by)
            G_x[t].copy_(G_pair[0])
            G_h = torch.add(G_pair[1], past_h, out=G_h_next) if past_h is not None else G_h_next.copy_(G_pair[1])
            G_c.mul_(forget[t])
            if past_c is not None:
                G_c.add_(past_c)

    G_z = G_z.flatten(2)

    @cache
    def G_b() -> Sequence[Tensor]:
        return [G.clone() for G in G_z.sum((0, 1)).chunk(4)]

    @cache
    def G_AB(k: int) -> Tensor:
        return batched(pairs[k][1 - k % 2], G_e[k], a.reduced)

    return [
        lambda: G_x,
        lambda: G_h,
        lambda: G_c,
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        lambda: batched(pairs[rounds][0], G_z, a.reduced),
        lambda: batched(pairs[rounds][1], G_z, a.reduced),
        *(partial(lambda part: G_b()[part], part) for part in range(4)),
        *(partial(lambda k: G_AB(k) @ a.B[k].t(), k) for k in range(rounds)),
        *(partial(lambda k: a.A[k].t() @ G_AB(k), k) for k in range(rounds)),
        *(partial(G.sum, (0, 1)) for G in G_e),
    ]


def _of_round(k: int, of_x: Tensor, of_h: Tensor) -> Tensor:
    """Round k's part of what is kept for the rounds that scale x and for those that scale h."""
    return of_x[k // 2] if k % 2 == 0 else of_h[k // 2]


def _rounds(x: Tensor, h: Tensor, made: _Made) -> list[tuple[Tensor, Tensor]]:
    """x and h before every round and after the last one, of all steps."""
    pairs = [(x, h)]
    for k in range(len(made.e_x) + len(made.e_h)):
        scaled = 2.0 * _of_round(k, made.e_x, made.e_h) * pairs[k][k % 2]
        pairs.append((scaled, pairs[k][1]) if k % 2 == 0 else (pairs[k][0], scaled))
    return pairs


def _factors(made: _Made, noise: Tensor | None, span: slice) -> tuple[Tensor, Tensor]:
    """K_j, K_o, K_f, K_i (., B, 4, n) and K_c (., B, n) of some steps."""
    c = made.c[span]
    j, o, f, i = made.gates[span].chunk(4, -1)
    rest = 1.0 - f
    share = torch.minimum(rest, i)
    candidate, through = (j, share) if noise is None else (j * noise[span], share * noise[span])
    new_c = torch.tanh(torch.addcmul(c * f, share, candidate))
    # Which of the two the minimum took; a tie is shared, as torch.minimum does.
    took_i = ((i < rest).to(c.dtype) + (i <= rest).to(c.dtype)) * 0.5
    K = c.new_empty(*c.shape[:2], 4, c.shape[2])
    K_j, K_o, K_f, K_i = K.unbind(2)
    _tanh_backward(through, j, grad_input=K_j)
    _sigmoid_backward(new_c, o, grad_input=K_o)
    _sigmoid_backward(c - candidate * (1.0 - took_i), f, grad_input=K_f)
    _sigmoid_backward(candidate * took_i, i, grad_input=K_i)
    return K, torch.ops.aten.tanh_backward(o, new_c)


def _round_factors(after: Tensor, half_e: Tensor, span: slice) -> tuple[Tensor, Tensor]:
    """K_k and e_k of a round in some steps; after: what the round made of what it scales."""
    return after[span] * (1.0 - half_e[span]), 2.0 * half_e[span]


def _is_small(A: Tensor, B: Tensor) -> bool:
    """Whether one product with A B costs less than two: they are small, and calls are not free."""
    return A.shape[0] * B.shape[1] <= 2 * A.shape[1] * (A.shape[0] + B.shape[1])


def _scaling(A: Tensor, B: Tensor, beta: Tensor, a: _Arguments) -> Callable[[Tensor], Tensor]:
    """w -> (w A) B + beta."""
    T, rows = a.x.shape[:2]
    beta, place = beta.expand(rows, -1), a.x.new_empty(rows, len(beta))
    if _is_small(A, B):
        with_AB = product(A @ B, rows, T, a.reduced)
        return lambda w: with_AB(beta, w, place)
    with_A, with_B, middle = (
        product(A, rows, T, a.reduced),
        product(B, rows, T, a.reduced),
        place.new_empty(rows, len(B)),
    )
    return lambda w: with_B(beta, with_A(None, w, middle), place)


def _through(A: Tensor, B: Tensor, a: _Arguments) -> Product:
    """(base, G, out) -> base + (G B') A'."""
    T, rows = a.x.shape[:2]
    if _is_small(A, B):
        return product((A @ B).t(), rows, T, a.reduced)
    with_A, with_B, middle = (
        product(A.t(), rows, T, a.reduced),
        product(B.t(), rows, T, a.reduced),
        a.x.new_empty(rows, len(B)),
    )
    return lambda base, G, out: with_A(base, with_B(None, G, middle), out)


def _reference(a: _Arguments) -> tuple[Tensor, ...]:
    cell: Any = SimpleNamespace(**a._asdict())  # what `step` reads of a cell
    cell.step = partial(MogrifierLSTMCell.step, cell)
    return reference_in(a.reduced, cell, a.x, (a.h0, a.c0), a.noise, a.lengths)


_op = scan_op(
    "mogrifier",
    _Arguments,
    _Made,
    results=3,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

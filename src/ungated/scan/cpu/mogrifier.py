"""The Mogrifier LSTM along time by the compiled engine: notation and gradients as in scan/mogrifier_torch.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ungated.cells.mogrifier import MogrifierLSTMCell
from ungated.pages import fresh
from ungated.scan.cpu.batched import Sums, batched
from ungated.scan.cpu.library import Prepared, Scan, engine, mask_step
from ungated.scan.mogrifier_torch import _Arguments, _reference, arguments_of
from ungated.scan.scan_op import Gradient, scan_op


class _Made(NamedTuple):
    features: Tensor  # h'
    last_h: Tensor
    last_c: Tensor
    gates: Tensor  # (T, B, 4n): j, o, f, i
    e_x: Tensor  # (rounds // 2 rounded up, T, B, m): half the factors of x
    e_h: Tensor  # (rounds // 2, T, B, n): half the factors of h
    h: Tensor  # (T + 1, B, n): before each step, and the last
    c: Tensor


def mogrifier_scan(
    cell: MogrifierLSTMCell, x: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As `reference_scan`; float32."""
    features, h, c = _op(arguments_of(cell, x, state, noise, lengths))
    return features, (h, c)


def mogrifier_prepared(
    cell: MogrifierLSTMCell, x: Tensor, state: tuple[Tensor, Tensor], packed: Tensor | None
) -> Prepared:
    """From the layer's input."""
    a = arguments_of(cell, x, state, None, None)
    made = _allocate(a)
    return Prepared(made.features, (made.last_h, made.last_c), _scan(made, a)(backward=False, packed=packed))


def _allocate(a: _Arguments) -> _Made:
    (T, B, m), n, rounds, new = a.x.shape, a.h0.shape[1], len(a.A), a.x.new_empty
    results = (new(T, B, n), new(B, n), new(B, n))
    if not a.save:
        return _Made(*results, *(new(0) for _ in _Made._fields[3:]))
    e_x, e_h = new((rounds + 1) // 2, T, B, m), new(rounds // 2, T, B, n)
    return _Made(*results, gates=new(T, B, 4 * n), e_x=e_x, e_h=e_h, h=new(T + 1, B, n), c=new(T + 1, B, n))


def _scan(made: _Made, a: _Arguments) -> Callable[..., Scan]:
    """The engine's scan, told what both directions need."""
    (T, B, m), n, rounds = a.x.shape, a.h0.shape[1], len(a.A)
    told = partial(engine("mogrifier").scan, T=T, B=B, m=m, n=n, rounds=rounds, rank=a.A[0].shape[1] if rounds else 1)
    told = partial(told, x=a.x, h0=a.h0, c0=a.c0, mask=a.noise, mask_step=mask_step(a.noise), lengths=a.lengths)
    told = partial(told, W_x=a.W_x, W_h=a.W_h, bias=torch.cat([a.b_j, a.b_o, a.b_f, a.b_i]))
    told = partial(told, lists={"A": a.A, "Bs": a.B, "beta": a.beta}, features=made.features)
    if not a.save:
        return partial(told, h=made.last_h, c=made.last_c)
    return partial(told, kept=1, h=made.h, c=made.c, gates=made.gates, e_x=made.e_x, e_h=made.e_h)


def _forward(made: _Made, a: _Arguments) -> None:
    _scan(made, a)(backward=False).run()
    if a.save:
        made.last_h.copy_(made.h[-1])
        made.last_c.copy_(made.c[-1])


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    rounds, likes = len(a.A), (made.gates, made.e_x, made.e_h, a.x, a.h0, a.c0)
    G_z, G_e_x, G_e_h, G_x, G_h, G_c = (fresh(a.x, *like.shape) for like in likes)
    given = dict(zip(("grad_features", "grad_h", "grad_c"), gradients, strict=True))
    made_here = {"grad_z": G_z, "grad_e_x": G_e_x, "grad_e_h": G_e_h, "grad_x": G_x, "grad_h0": G_h, "grad_c0": G_c}
    _scan(made, a)(backward=True, **given, **made_here).run()
    G_e = [(G_e_x, G_e_h)[k % 2][k // 2] for k in range(rounds)]
    pairs = [(a.x, made.h[:-1])]  # x and h before every round, and after the last
    for k in range(rounds):
        scaled = 2.0 * (made.e_x, made.e_h)[k % 2][k // 2] * pairs[k][k % 2]
        pairs.append((scaled, pairs[k][1]) if k % 2 == 0 else (pairs[k][0], scaled))

    @cache
    def of_gates() -> Sums:
        found = Sums()
        found.add(pairs[rounds], [G_z])
        return found

    # A and B by way of what lies between them: their product has far more entries.
    def G_A(k: int) -> Tensor:
        return batched(pairs[k][1 - k % 2], G_e[k] @ a.B[k].t())

    @cache
    def of_factors(k: int) -> Sums:
        found = Sums()
        found.add([pairs[k][1 - k % 2] @ a.A[k]], [G_e[k]])
        return found

    return [
        lambda: G_x,
        lambda: G_h,
        lambda: G_c,
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        *(partial(lambda part: of_gates().products[part][0], part) for part in range(2)),
        *(partial(lambda part: of_gates().totals[0].chunk(4)[part].clone(), part) for part in range(4)),
        *(partial(G_A, k) for k in range(rounds)),
        *(partial(lambda k: of_factors(k).products[0][0], k) for k in range(rounds)),
        *(partial(lambda k: of_factors(k).totals[0], k) for k in range(rounds)),
    ]


_op = scan_op(
    "mogrifier_cpu",
    _Arguments,
    _Made,
    results=3,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

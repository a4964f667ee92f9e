"""The Mogrifier LSTM along time by one GPU kernel: notation and gradients as in scan/mogrifier_torch.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ungated.cells.mogrifier import MogrifierLSTMCell
from ungated.scan.cuda.kernel import Arguments, run, stacked, taken
from ungated.scan.cuda.plan import Product, Work
from ungated.scan.mogrifier_torch import _Arguments, _reference, arguments_of
from ungated.scan.products import batched
from ungated.scan.scan_op import Gradient, scan_op

# Terms of x in the exchange are filled up to whole blocks of any type, and those of h follow.
_BLOCK = 32


class _Made(NamedTuple):
    features: Tensor  # h'
    last_h: Tensor
    last_c: Tensor
    gates: Tensor  # (T, B, 4n): j, o, f, i
    c: Tensor  # (T, B, n): after each step
    e_x: Tensor  # (rounds // 2 rounded up, T, B, m): half the factors of x
    e_h: Tensor  # (rounds // 2, T, B, n): half the factors of h
    h: Tensor  # (T, B, n): before each step, where rows end early: else it is h0 and then the features


def mogrifier_scan(
    cell: MogrifierLSTMCell, x: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As `reference_scan`."""
    features, h, c = _op(arguments_of(cell, x, state, noise, lengths))
    return features, (h, c)


def works(cell: MogrifierLSTMCell, masked: bool, ragged: bool) -> tuple[Work, Work]:
    """What its kernels do, forward and backward."""
    given = (cell.input_size, cell.hidden_size, cell.rounds, cell.rank, masked, ragged)
    return _work(*given), _work(*given, backward=True)


def _work(m: int, n: int, rounds: int, rank: int, masked: bool, ragged: bool, *, backward: bool = False) -> Work:
    """Two products a round, or one with A B: more work, but half the meetings."""
    whole = _way(m, n, rounds, None, masked, ragged, backward) if rounds else None
    return _way(m, n, rounds, rank, masked, ragged, backward, whole)


def _way(
    m: int, n: int, rounds: int, rank: int | None, masked: bool, ragged: bool, backward: bool, other: Work | None = None
) -> Work:
    of_x, of_h, side = (rounds + 1) // 2, rounds // 2, -(-m // _BLOCK) * _BLOCK
    # Forward those of x go from h to x, backward from x to h.
    to_x, to_h = (of_h, of_x) if backward else (of_x, of_h)
    middle = rank or 1
    products = [
        Product("FromH", n, middle, "EH" if backward else "XH", count=to_x if rank else 0),
        Product(
            "ToX", rank or n, m, "U" if rank else "EH" if backward else "XH", count=to_x, held=0 if backward else 3
        ),
        Product("FromX", m, middle, "EX" if backward else "XH", count=to_h if rank else 0),
        Product("ToH", rank or m, n, "U" if rank else "EX" if backward else "XH", count=to_h),
    ]
    exchanges = [("U", rank or 0)]
    if backward:
        products += [Product("StepX", 4 * n, m, "Z", held=6), Product("StepH", 4 * n, n, "Z", held=24)]
        exchanges += [("Z", 4 * n), ("EX", m), ("EH", n)]
    else:
        products += [Product("Step", side + n, n, "XH", gates=4, held=13)]
        exchanges += [("XH", side + n)]
    constants = (("ROUNDS", rounds), ("SIDE", side), ("MASKED", int(masked)), ("RAGGED", int(ragged)))
    kernel = f"mogrifier_{'backward' if backward else 'forward'}"
    return Work(kernel, tuple(products), tuple(exchanges), constants=constants, other=other)


def _of(a: _Arguments, *, backward: bool = False) -> Work:
    """The way that the plan takes."""
    rounds, rank = len(a.A), a.A[0].shape[1] if a.A else 1
    sizes = (a.x.shape[2], a.h0.shape[1], rounds, rank)
    return taken(_work(*sizes, a.noise is not None, a.lengths is not None, backward=backward), a.x, a.reduced)


def _allocate(a: _Arguments) -> _Made:
    (T, B, m), n, rounds, new = a.x.shape, a.h0.shape[1], len(a.A), a.x.new_empty
    kept = T if a.save else 0
    return _Made(
        new(T, B, n),
        new(B, n),
        new(B, n),
        gates=new(kept, B, 4 * n),
        c=new(kept, B, n),
        e_x=new((rounds + 1) // 2, kept, B, m),
        e_h=new(rounds // 2, kept, B, n),
        h=new(0 if a.lengths is None else kept, B, n),
    )


def _weights(a: _Arguments, work: Work, *, backward: bool = False) -> Arguments:
    """Of the rounds, those that scale x and those that scale h: A and B; or A B, in the place of the one used last."""
    found: Arguments = {"c0": a.c0, "W_x": a.W_x, "W_h": a.W_h}
    for name, first in (("x", 0), ("h", 1)):
        A, B = stacked(a.A[first::2]), stacked(a.B[first::2])
        if work.other is None and A is not None and B is not None:
            A, B = (A @ B, None) if backward else (None, A @ B)
        found |= {f"A_{name}": A, f"B_{name}": B}
    return found


def _forward(made: _Made, a: _Arguments) -> None:
    work = _of(a)
    given = _weights(a, work) | {"save": int(a.save), "h0": a.h0, "b": torch.cat([a.b_j, a.b_o, a.b_f, a.b_i])}
    given |= {"beta_x": stacked(a.beta[0::2]), "beta_h": stacked(a.beta[1::2])}
    run(work, a.x, a.noise, a.lengths, a.reduced, made[:3], **given | made._asdict())


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    rounds, work = len(a.A), _of(a, backward=True)
    h = made.h if a.lengths is not None else torch.cat([a.h0.unsqueeze(0), made.features[:-1]])
    after_x, after_h = _after(a.x, made.e_x), _after(h, made.e_h)
    # Few pieces of memory, since all of it is spoiled should a block never come; G(x) has its own, which may live on.
    likes = (made.gates, made.e_x, made.e_h)
    sizes = [like.numel() for like in likes]
    steps, G_x, starts = a.x.new_empty(sum(sizes)), a.x.new_empty(a.x.shape), a.h0.new_empty(2, *a.h0.shape)
    G_z, G_e_x, G_e_h = (part.view_as(like) for part, like in zip(torch.split(steps, sizes), likes, strict=True))
    given = _weights(a, work, backward=True) | {"gates": made.gates, "c": made.c, "e_x": made.e_x, "e_h": made.e_h}
    given |= {"after_x": after_x, "after_h": after_h}
    given |= {"grad_features": gradients[0], "grad_h": gradients[1], "grad_c": gradients[2]}
    given |= {"G_z": G_z, "G_e_x": G_e_x, "G_e_h": G_e_h, "G_x": G_x, "G_h0": starts[0], "G_c0": starts[1]}
    run(work, a.x, a.noise, a.lengths, a.reduced, (steps, G_x, starts), **given)
    of_x, of_h = [a.x, *after_x], [h, *after_h]  # before each round that scales them, and after the last
    by = [(of_h[k // 2], of_x[k // 2 + 1])[k % 2] for k in range(rounds)]
    G_e = [(G_e_x, G_e_h)[k % 2][k // 2] for k in range(rounds)]

    @cache
    def G_b() -> Sequence[Tensor]:
        return [G.clone() for G in G_z.sum((0, 1)).chunk(4)]

    @cache
    def G_AB(k: int) -> Tensor:
        return batched(by[k], G_e[k], a.reduced)

    return [
        lambda: G_x,
        lambda: starts[0].clone(),
        lambda: starts[1].clone(),
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        lambda: batched(of_x[-1], G_z, a.reduced),
        lambda: batched(of_h[-1], G_z, a.reduced),
        *(partial(lambda part: G_b()[part], part) for part in range(4)),
        *(partial(lambda k: G_AB(k) @ a.B[k].t(), k) for k in range(rounds)),
        *(partial(lambda k: a.A[k].t() @ G_AB(k), k) for k in range(rounds)),
        *(partial(G.sum, (0, 1)) for G in G_e),
    ]


def _after(start: Tensor, half_e: Tensor) -> Tensor:
    """What the rounds that scale `start` make of it."""
    made = torch.empty_like(half_e)
    for half, place in zip(half_e, made, strict=True):
        start = torch.mul(start, half, out=place).mul_(2.0)
    return made


_op = scan_op(
    "mogrifier_cuda",
    _Arguments,
    _Made,
    results=3,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

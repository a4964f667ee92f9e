"""The GRU along time by one GPU kernel: notation and gradients as in scan/gru_torch.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ungated.cells.gru import GRUCell
from ungated.scan.cuda.kernel import Arguments, run
from ungated.scan.cuda.plan import Product, Work
from ungated.scan.gru_torch import _Arguments, _reference, arguments_of
from ungated.scan.products import batched
from ungated.scan.scan_op import Gradient, scan_op


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


def works(cell: GRUCell, masked: bool, ragged: bool) -> tuple[Work, Work]:
    """What its kernels do, forward and backward."""
    n, after = cell.hidden_size, cell.reset == "after"
    return _work(n, after, masked, ragged), _work(n, after, masked, ragged, backward=True)


def _work(n: int, after: bool, masked: bool, ragged: bool, *, backward: bool = False) -> Work:
    products: tuple[Product, ...]
    exchanges: tuple[tuple[str, int], ...]
    if after:
        products = (
            Product("Step", 3 * n, n, "Z", held=11) if backward else Product("Step", n, n, "H", gates=3, held=10),
        )
        exchanges = (("Z", 3 * n),) if backward else (("H", n),)
    else:
        gates = Product("Gates", 2 * n, n, "Z", held=9) if backward else Product("Gates", n, n, "H", gates=2, held=8)
        products = (gates, Product("Candidate", n, n, "C" if backward else "R"))
        exchanges = (("C", n), ("Z", 2 * n)) if backward else (("H", n), ("R", n))
    kernel = f"gru_{'after' if after else 'before'}_{'backward' if backward else 'forward'}"
    return Work(kernel, products, exchanges, constants=(("MASKED", int(masked)), ("RAGGED", int(ragged))))


def _of(a: _Arguments, *, backward: bool = False) -> Work:
    return _work(a.h0.shape[1], a.b_hc is not None, a.noise is not None, a.lengths is not None, backward=backward)


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, new = a.drive.shape[:2], a.h0.shape[1], a.drive.new_empty
    kept = T if a.save else 0
    q, h = (new(0 if given is None else kept, B, n) for given in (a.b_hc, a.lengths))
    return _Made(new(T, B, n), new(B, n), gates=new(kept, B, 3 * n), q=q, h=h)


def _forward(made: _Made, a: _Arguments) -> None:
    given: Arguments = {"save": int(a.save), "h0": a.h0, "W_hg": a.W_hg, "W_hc": a.W_hc, **made._asdict()}
    if a.b_hc is None:
        del given["q"]
    else:
        given["b_hc"] = a.b_hc
    run(_of(a), a.drive, a.noise, a.lengths, a.reduced, made[:2], **given)


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    n, after = a.h0.shape[1], a.b_hc is not None
    G_z, G_h0, G_c = (a.drive.new_empty(like.shape) for like in (a.drive, a.h0, made.q))
    given: Arguments = {
        "h0": a.h0,
        "W_hg": a.W_hg,
        "W_hc": a.W_hc,
        "features": made.features,
        "gates": made.gates,
        "h": made.h,
    }
    given |= {"grad_features": gradients[0], "grad_h": gradients[1], "G_z": G_z, "G_h0": G_h0}
    given |= {"q": made.q, "G_c": G_c} if after else {}
    run(_of(a, backward=True), a.drive, a.noise, a.lengths, a.reduced, (G_z, G_h0, G_c), **given)
    h = made.h if a.lengths is not None else torch.cat([a.h0.unsqueeze(0), made.features[:-1]])

    def G_W_hc() -> Tensor:
        return batched(h if after else made.gates[:, :, :n] * h, G_z[:, :, 2 * n :], a.reduced)

    return [
        lambda: torch.cat([G_z[:, :, : 2 * n], G_c], -1) if after else G_z,
        lambda: G_h0,
        *(None for mask in (a.noise, a.lengths) if mask is not None),
        lambda: batched(h, G_z[:, :, : 2 * n], a.reduced),
        G_W_hc,
        *([lambda: G_z[:, :, 2 * n :].sum((0, 1))] if after else []),
    ]


_op = scan_op(
    "gru_cuda",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

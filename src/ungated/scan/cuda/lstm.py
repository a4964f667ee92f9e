"""The LSTM along time by one GPU kernel: notation and gradients as in scan/lstm_torch.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ungated.cells.lstm import LSTMCell
from ungated.scan.cuda.kernel import Arguments, run
from ungated.scan.cuda.plan import Product, Work
from ungated.scan.lstm_torch import _Arguments, _reference, arguments_of
from ungated.scan.products import batched
from ungated.scan.scan_op import Gradient, scan_op


class _Made(NamedTuple):
    features: Tensor  # h'
    last_h: Tensor
    last_c: Tensor
    gates: Tensor  # (T, B, 4n): i, j, f, o
    c: Tensor  # (T, B, n): after each step
    h: Tensor  # (T, B, n): before each step, where rows end early: else it is h0 and then the features


def lstm_scan(
    cell: LSTMCell, drive: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As `reference_scan`."""
    features, h, c = _op(arguments_of(cell, drive, state, noise, lengths))
    return features, (h, c)


def works(cell: LSTMCell, masked: bool, ragged: bool) -> tuple[Work, Work]:
    """What its kernels do, forward and backward."""
    return _work(cell.hidden_size, masked, ragged), _work(cell.hidden_size, masked, ragged, backward=True)


def _work(n: int, masked: bool, ragged: bool, *, backward: bool = False) -> Work:
    constants = (("MASKED", int(masked)), ("RAGGED", int(ragged)))
    if backward:
        return Work("lstm_backward", (Product("Step", 4 * n, n, "Z", held=11),), (("Z", 4 * n),), constants=constants)
    return Work("lstm_forward", (Product("Step", n, n, "H", gates=4, held=10),), (("H", n),), constants=constants)


def _of(a: _Arguments, *, backward: bool = False) -> Work:
    return _work(a.h0.shape[1], a.noise is not None, a.lengths is not None, backward=backward)


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, new = a.drive.shape[:2], a.h0.shape[1], a.drive.new_empty
    kept = T if a.save else 0
    gates, c, h = new(kept, B, 4 * n), new(kept, B, n), new(0 if a.lengths is None else kept, B, n)
    return _Made(new(T, B, n), new(B, n), new(B, n), gates, c, h)


def _forward(made: _Made, a: _Arguments) -> None:
    given: Arguments = {"save": int(a.save), "forget_bias": a.forget_bias, "h0": a.h0, "c0": a.c0, "W_h": a.W_h}
    run(_of(a), a.drive, a.noise, a.lengths, a.reduced, made[:3], **given | made._asdict())


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    G_z, G_h, G_c = (a.drive.new_empty(like.shape) for like in (a.drive, a.h0, a.c0))
    given: Arguments = {
        "c0": a.c0,
        "W_h": a.W_h,
        "gates": made.gates,
        "c": made.c,
        "G_z": G_z,
        "G_h0": G_h,
        "G_c0": G_c,
    }
    given |= {"grad_features": gradients[0], "grad_h": gradients[1], "grad_c": gradients[2]}
    run(_of(a, backward=True), a.drive, a.noise, a.lengths, a.reduced, (G_z, G_h, G_c), **given)

    def G_W_h() -> Tensor:
        if a.lengths is not None:
            return batched(made.h, G_z, a.reduced)
        return batched(made.features[:-1], G_z[1:], a.reduced) + batched(a.h0, G_z[0], a.reduced)

    no_gradient = [None for mask in (a.noise, a.lengths) if mask is not None]
    return [lambda: G_z, lambda: G_h, lambda: G_c, *no_gradient, G_W_h]


_op = scan_op(
    "lstm_cuda",
    _Arguments,
    _Made,
    results=3,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

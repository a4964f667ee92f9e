"""The LSTM along time by one GPU kernel: notation and gradients as in scan/lstm_torch.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ungated.cells.lstm import LSTMCell
from ungated.scan.cpu.library import mask_step
from ungated.scan.cuda.kernel import run
from ungated.scan.cuda.plan import Product, Work
from ungated.scan.lstm_torch import _Arguments, _reference
from ungated.scan.products import batched
from ungated.scan.scan_op import Gradient, scan_op


class _Made(NamedTuple):
    features: Tensor  # h'
    last_h: Tensor
    last_c: Tensor
    gates: Tensor  # (T, B, 4n): i, j, f, o
    c: Tensor  # (T, B, n): after each step


def lstm_scan(
    cell: LSTMCell, drive: Tensor, state: tuple[Tensor, Tensor], noise: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As `reference_scan`; without lengths."""
    features, h, c = _op(_Arguments(drive, *state, noise, lengths, cell.W_h, float(cell.forget_bias)))
    return features, (h, c)


def works(cell: LSTMCell, masked: bool) -> tuple[Work, Work]:
    """What its kernels do, forward and backward."""
    return _work(cell.hidden_size, masked), _work(cell.hidden_size, masked, backward=True)


def _work(n: int, masked: bool, *, backward: bool = False) -> Work:
    constants = (("MASKED", int(masked)),)
    if backward:
        return Work("lstm_backward", (Product("Step", 4 * n, n, "Z"),), (("Z", 4 * n),), constants=constants)
    return Work("lstm_forward", (Product("Step", n, n, "H", gates=4),), (("H", n),), constants=constants)


def _allocate(a: _Arguments) -> _Made:
    (T, B), n, new = a.drive.shape[:2], a.h0.shape[1], a.drive.new_empty
    kept = T if a.save else 0
    return _Made(new(T, B, n), new(B, n), new(B, n), gates=new(kept, B, 4 * n), c=new(kept, B, n))


def _forward(made: _Made, a: _Arguments) -> None:
    T, B, n = made.features.shape
    run(
        *(_work(n, a.noise is not None), a.reduced, made[:3]),
        T=T,
        B=B,
        mask_step=mask_step(a.noise),
        save=int(a.save),
        forget_bias=a.forget_bias,
        drive=a.drive,
        h0=a.h0,
        c0=a.c0,
        mask=a.noise,
        W_h=a.W_h,
        **made._asdict(),
    )


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    T, B, n = made.features.shape
    G_z, G_h, G_c = (a.drive.new_empty(like.shape) for like in (a.drive, a.h0, a.c0))
    run(
        *(_work(n, a.noise is not None, backward=True), a.reduced, (G_z, G_h, G_c)),
        T=T,
        B=B,
        mask_step=mask_step(a.noise),
        c0=a.c0,
        mask=a.noise,
        W_h=a.W_h,
        gates=made.gates,
        c=made.c,
        G_z=G_z,
        G_h0=G_h,
        G_c0=G_c,
        **dict(zip(("grad_features", "grad_h", "grad_c"), gradients, strict=True)),
    )

    def G_W_h() -> Tensor:
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

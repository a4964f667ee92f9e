"""The RHN along time by one GPU kernel: notation and gradients as in scan/rhn_torch.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ungated.cells.rhn import RHNCell
from ungated.scan.cuda.kernel import Arguments, run
from ungated.scan.cuda.plan import Product, Work
from ungated.scan.rhn_torch import _allocate, _Arguments, _Made, _reference, arguments_of, gradients_of
from ungated.scan.scan_op import Gradient, scan_op


def rhn_scan(
    cell: RHNCell, drive: Tensor, s0: Tensor, noise: tuple[Tensor, Tensor] | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference_scan`; with one mask for H and T."""
    features, s = _op(arguments_of(cell, drive, s0, noise, lengths))
    return features, s


def works(cell: RHNCell, masked: bool, ragged: bool) -> tuple[Work, Work]:
    """What its kernels do, forward and backward."""
    given = (cell.hidden_size, len(cell.R_H), masked, ragged)
    return _work(*given), _work(*given, backward=True)


def _work(n: int, depth: int, masked: bool, ragged: bool, *, backward: bool = False) -> Work:
    constants = (("DEPTH", depth), ("MASKED", int(masked)), ("RAGGED", int(ragged)))
    if backward:
        return Work(
            "rhn_backward", (Product("Micro", 2 * n, n, "Z", count=depth, held=9),), (("Z", 2 * n),), "", constants
        )
    return Work("rhn_forward", (Product("Micro", n, n, "S", gates=2, count=depth, held=8),), (("S", n),), "", constants)


def _of(a: _Arguments, *, backward: bool = False) -> Work:
    return _work(a.s0.shape[1], len(a.R_H), a.z_h is not None, a.lengths is not None, backward=backward)


def _weights(a: _Arguments) -> Arguments:
    return {"s0": a.s0, "R_H": torch.stack(a.R_H), "R_T": torch.stack(a.R_T)}


def _forward(made: _Made, a: _Arguments) -> None:
    given = _weights(a) | {"save": int(a.save), "b_H": torch.stack(a.b_H), "b_T": torch.stack(a.b_T)}
    run(_of(a), a.drive, a.z_h, a.lengths, a.reduced, made[:2], **given | made._asdict())


def _backward(gradients: Sequence[Tensor | None], made: _Made, a: _Arguments) -> list[Gradient | None]:
    G_z, G_s = a.drive.new_empty(made.gates.shape), a.s0.new_empty(a.s0.shape)
    given = _weights(a) | {"features": made.features, "gates": made.gates, "inner": made.inner, "s": made.s}
    given |= {"grad_features": gradients[0], "grad_s": gradients[1], "G_z": G_z, "G_s0": G_s}
    run(_of(a, backward=True), a.drive, a.z_h, a.lengths, a.reduced, (G_z, G_s), **given)
    return gradients_of(made, a, G_z, G_s)


_op = scan_op(
    "rhn_cuda",
    _Arguments,
    _Made,
    results=2,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    reference=_reference,
)

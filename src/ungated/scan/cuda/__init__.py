"""Cells along time by one GPU kernel over all steps, compiled at run time: float32 and half precision on NVIDIA GPUs.

kernels/ holds the source, one file a cell and direction beside what they share: device.h what they take from the GPU,
factors.h the order of factors, team.h blocks that wait for each other, product.h a phase. plan.py lays a scan out on a
GPU, kernel.py puts source and arguments together; nvrtc.py compiles, cubins.py keeps, driver.py launches; and each
cell's file stands between its kernels and torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ungated.cells import GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
from ungated.cells.cell import Cell, Noise
from ungated.scan.conditions import HALF, autocast_dtype
from ungated.scan.cuda import gru, kernel, lstm, mogrifier, rhn, rru
from ungated.scan.cuda.plan import Work

SCANS: dict[type[Cell], Callable[..., tuple[Tensor, Any]]] = {
    RRUCell: rru.rru_scan,
    RHNCell: rhn.rhn_scan,
    GRUCell: gru.gru_scan,
    LSTMCell: lstm.lstm_scan,
    MogrifierLSTMCell: mogrifier.mogrifier_scan,
}

_WORKS: dict[type[Cell], Callable[..., tuple[Work, Work]]] = {
    RRUCell: rru.works,
    RHNCell: rhn.works,
    GRUCell: gru.works,
    LSTMCell: lstm.works,
    MogrifierLSTMCell: mogrifier.works,
}

_logger = logging.getLogger("ungated")
_said: set[str] = set()


def why_not_cuda(cell: Cell, known: type[Cell], drive: Tensor, noise: Noise) -> str:
    """Why the kernels cannot run what the torch operators can; empty if they can."""
    if drive.device.type != "cuda" or torch.version.hip is not None:
        return "it runs on NVIDIA GPUs only"
    if cell.weight().dtype == torch.float64:
        return "it does not compute in torch.float64"
    if getattr(cell, "output_relu", False):
        return "it has no ReLU over c"
    if isinstance(cell, RHNCell) and noise is not None and noise[1].shape[1] > 1:
        return "it has one mask for H and T"
    return ""


def unavailable(cell: Cell, drive: Tensor, noise: Noise, lengths: Tensor | None) -> str:
    """Why there are no kernels for a call on this GPU, empty if there are; compiles them, if need be."""
    known = next(known for known in SCANS if known.step is type(cell).step)
    works = _WORKS[known](cell, noise is not None, lengths is not None)
    dtype = cell.weight().dtype
    reduced = dtype if dtype in HALF else autocast_dtype("cuda")
    return _unavailable(works, reduced, drive.shape[1], drive.device.index or 0)


def _unavailable(works: tuple[Work, Work], reduced: torch.dtype | None, batch: int, index: int) -> str:
    reason = next((reason for work in works if (reason := kernel.unavailable(work, reduced, batch, index))), "")
    if reason and reason not in _said:
        _said.add(reason)
        _logger.warning("the GPU kernels are not available, a slower path runs instead: %s", reason)
    return reason


# What torch.compiler.assume_constant_result sets; that decorator would import the compiler, which takes seconds.
_unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]

"""Cells along time by a small C++ library, compiled at first use: float32 on the CPU.

engine/ holds the source, one file a cell beside what they share: vec.h one register, product.h packed products,
team.h threads, batched.cpp the gradients of weights. compiler.py makes a library of each, library.py and batched.py
call them, and each cell's file here stands between its library and torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ungated.cells import CELLS, GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
from ungated.cells.cell import Cell, Noise
from ungated.scan.cpu.batched import product_library
from ungated.scan.cpu.compiler import Unavailable
from ungated.scan.cpu.gru import gru_prepared, gru_scan
from ungated.scan.cpu.library import Prepared, engine
from ungated.scan.cpu.lstm import lstm_layer, lstm_prepared, lstm_scan
from ungated.scan.cpu.mogrifier import mogrifier_prepared, mogrifier_scan
from ungated.scan.cpu.rhn import rhn_prepared, rhn_scan
from ungated.scan.cpu.rru import rru_layer, rru_prepared, rru_scan

SCANS: dict[type[Cell], Callable[..., tuple[Tensor, Any]]] = {
    RRUCell: rru_scan,
    RHNCell: rhn_scan,
    GRUCell: gru_scan,
    LSTMCell: lstm_scan,
    MogrifierLSTMCell: mogrifier_scan,
}

#: As SCANS, from a layer's input to its output.
LAYERS: dict[type[Cell], Callable[..., tuple[Tensor, Any]]] = {RRUCell: rru_layer, LSTMCell: lstm_layer}

#: As `reference_scan` with `project` and `readout`, prepared for many runs: (cell, x, state, packed weights or None).
PREPARED: dict[type[Cell], Callable[..., Prepared]] = {
    RRUCell: rru_prepared,
    RHNCell: rhn_prepared,
    GRUCell: gru_prepared,
    LSTMCell: lstm_prepared,
    MogrifierLSTMCell: mogrifier_prepared,
}

_logger = logging.getLogger("ungated")
_said: set[str] = set()


def why_not_cpu(cell: Cell, known: type[Cell], drive: Tensor, noise: Noise) -> str:
    """Why the engine cannot run what the torch operators can; empty if it can. Compiles it, if it has not been yet.

    known: the cell of SCANS whose step `cell` has.
    """
    if drive.device.type != "cpu" or drive.dtype != torch.float32:
        return "it runs float32 on the CPU only"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if getattr(cell, "output_relu", False):
        return "it has no ReLU over c"
    if isinstance(cell, RHNCell) and noise is not None and noise[1].shape[1] > 1:
        return "it has one mask for H and T"
    return str(unavailable(known))


def unavailable(known: type[Cell]) -> str:
    """Why there is no library of this cell in this process, empty if there is: found out once, said once."""
    return _tried(next(name for name, cell in CELLS.items() if cell is known))


# What torch.compiler.assume_constant_result sets; that decorator would import the compiler, which takes seconds.
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _tried(name: str) -> str:
    try:
        with ThreadPoolExecutor(1) as beside:  # two compilers at once
            products = beside.submit(product_library)  # the way back needs it too, and may not fail then
            engine(name)
            products.result()
    except Unavailable as error:
        reason = str(error)
        if reason not in _said:
            _said.add(reason)
            _logger.warning("the CPU engine is not available, a slower path runs instead: %s", reason)
        return reason
    return ""

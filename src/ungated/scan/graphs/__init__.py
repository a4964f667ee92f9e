"""The loops of the paths in torch as CUDA graphs: one call for some dozens of time steps, not ten for each of them.

recorder.py records and replays; loops.py cuts a cell's loops along time; buffers.py is what its graphs work on;
graphed.py runs a call. Any loops with the arguments of those in torch can run so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ungated.cells import GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
from ungated.cells.cell import Cell, Noise
from ungated.scan import gru_torch, lstm_torch, mogrifier_torch, rhn_torch, rru_torch
from ungated.scan.graphs.graphed import graphed_op
from ungated.scan.graphs.loops import Loops


def graphed_scan(name: str, results: int, torch_path: ModuleType, **others: Any) -> Callable[..., tuple[Tensor, Any]]:
    """A scan as `reference_scan`, by the graphs of a path in torch, or of others of its loops, as operator `name`."""
    parts = {part: getattr(torch_path, f"_{part}") for part in ("allocate", "forward", "backward")}
    in_torch = Loops(name, results, torch_path._Made, **parts)
    op = graphed_op(replace(in_torch, **others), in_torch, torch_path._Arguments, torch_path._reference)

    def run(cell: Cell, drive: Tensor, state: Any, noise: Any, lengths: Tensor | None) -> tuple[Tensor, Any]:
        features, *last = op(torch_path.arguments_of(cell, drive, state, noise, lengths))
        return features, last[0] if isinstance(state, Tensor) else tuple(last)

    return run


SCANS: dict[type[Cell], Callable[..., tuple[Tensor, Any]]] = {
    RRUCell: graphed_scan("rru_graph", 2, rru_torch),
    RHNCell: graphed_scan("rhn_graph", 2, rhn_torch),
    GRUCell: graphed_scan("gru_graph", 2, gru_torch),
    LSTMCell: graphed_scan("lstm_graph", 3, lstm_torch),
    MogrifierLSTMCell: graphed_scan("mogrifier_graph", 3, mogrifier_torch),
}


def why_not_graph(cell: Cell, known: type[Cell], drive: Tensor, noise: Noise) -> str:
    """Why graphs cannot run what the torch operators can; empty if they can."""
    if drive.device.type != "cuda":
        return "it runs on CUDA devices only"
    if torch.compiler.is_compiling():
        return "a compiled program may be recorded itself, and with it the loop in torch"
    return ""

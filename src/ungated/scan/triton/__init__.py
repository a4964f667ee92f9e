"""Cells along time by Triton: a kernel for each product of a time step, in CUDA graphs of chunks of steps.

kernels.py is the source, rru.py calls it. Triton is torch's own, never a dependency: torch for CUDA on Linux brings it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ungated.cells import RRUCell
from ungated.cells.cell import Cell, Noise
from ungated.scan import rru_torch
from ungated.scan.graphs import graphed_scan, why_not_graph
from ungated.scan.triton import rru

_logger = logging.getLogger("ungated")
_failed: list[str] = []


def or_in_torch(ours: Callable[..., Any], in_torch: Callable[..., Any]) -> Callable[..., Any]:
    """`ours`; from its first failure on, which is said once, the loop in torch, which takes and makes the same."""

    def run(*args: Any) -> Any:
        if not _failed:
            try:
                return ours(*args)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of Triton, of the C compiler that it calls, or of what that lacks
                _failed.append(str(error).strip().partition("\n")[0] or type(error).__name__)
                _logger.warning("Triton's kernels failed, a slower loop runs instead: %s", _failed[0])
        return in_torch(*args)

    return run


SCANS: dict[type[Cell], Callable[..., tuple[Tensor, Any]]] = {
    RRUCell: graphed_scan(
        "rru_triton",
        2,
        rru_torch,
        forward=or_in_torch(rru.forward, rru_torch._forward),
        backward=or_in_torch(rru.backward, rru_torch._backward),
    )
}


def why_not_triton(cell: Cell, known: type[Cell], drive: Tensor, noise: Noise) -> str:
    """Why the kernels cannot run what the torch operators can; empty if they can."""
    if known not in SCANS:
        return f"it has no kernels for {known.__name__}"
    if reason := why_not_graph(cell, known, drive, noise):
        return reason
    if cell.weight().dtype == torch.float64:
        return "it does not compute in torch.float64"
    if getattr(cell, "output_relu", False):
        return "it has no ReLU over c"
    return ""


def unavailable(cell: Cell, drive: Tensor, noise: Noise, lengths: Tensor | None) -> str:
    """Why the kernels run no call at all in this process, empty if they do; imports Triton."""
    return _failed[0] if _failed else _not_imported()


@cache
def _not_imported() -> str:
    try:
        rru.kernels()
    except ImportError as error:
        return f"Triton cannot be imported, which torch for CUDA on Linux brings: {error}"
    return ""

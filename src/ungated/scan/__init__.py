"""A cell along time. This is the only place where a path is chosen."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ungated.cells import GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
from ungated.cells.cell import Cell, Noise, State
from ungated.scan.conditions import why_not
from ungated.scan.cpu import LAYERS as CPU_LAYERS
from ungated.scan.cpu import SCANS as CPU_SCANS
from ungated.scan.cpu import why_not_cpu
from ungated.scan.cuda import SCANS as CUDA_SCANS
from ungated.scan.cuda import unavailable as cuda_unavailable
from ungated.scan.cuda import why_not_cuda
from ungated.scan.graphs import SCANS as GRAPH_SCANS
from ungated.scan.graphs import why_not_graph
from ungated.scan.gru_torch import gru_scan
from ungated.scan.lstm_torch import lstm_scan
from ungated.scan.mogrifier_torch import mogrifier_scan
from ungated.scan.reference import reference_scan
from ungated.scan.rhn_torch import rhn_scan
from ungated.scan.rru_layer_torch import rru_layer
from ungated.scan.rru_torch import rru_scan
from ungated.scan.triton import SCANS as TRITON_SCANS
from ungated.scan.triton import unavailable as triton_unavailable
from ungated.scan.triton import why_not_triton

#: The paths that are written for some cells, fastest first; the reference runs them all.
PATHS: dict[str, dict[type[Cell], Callable[..., tuple[Tensor, Any]]]] = {
    "cuda": CUDA_SCANS,
    "triton": TRITON_SCANS,
    "graph": GRAPH_SCANS,
    "cpu": CPU_SCANS,
    "torch": {
        RRUCell: rru_scan,
        RHNCell: rhn_scan,
        GRUCell: gru_scan,
        LSTMCell: lstm_scan,
        MogrifierLSTMCell: mogrifier_scan,
    },
}

#: As PATHS, from a layer's input to its output.
LAYERS: dict[str, dict[type[Cell], Callable[..., tuple[Tensor, Any]]]] = {
    "cpu": CPU_LAYERS,
    "torch": {RRUCell: rru_layer},
}
BACKENDS = ("auto", "reference", *PATHS)

#: Why "auto" does not take a path yet, though it may run: `backend` with its name does.
UNPROVEN = dict.fromkeys(("cuda", "triton", "graph"), "its results have not been compared on a GPU yet")

# What a path asks for beyond what all of them do.
_CONDITIONS: dict[str, Callable[[Cell, type[Cell], Tensor, Noise], str]] = {
    "cuda": why_not_cuda,
    "triton": why_not_triton,
    "graph": why_not_graph,
    "cpu": why_not_cpu,
}

# What a path must compile or import to know, and so is asked last.
_AVAILABILITY: dict[str, Callable[[Cell, Tensor, Noise, Tensor | None], str]] = {
    "cuda": cuda_unavailable,
    "triton": triton_unavailable,
}

# With fewer time steps, setting an operator up costs more than its loop gains.
_FEWEST_STEPS = 4


@dataclass(frozen=True)
class Choice:
    """The path that runs a call, and for each faster one the reason why it does not."""

    path: str
    passed_over: dict[str, str]
    run: Callable[..., tuple[Tensor, State]] = field(repr=False)


def scan(
    cell: Cell,
    drive: Tensor,
    state: State,
    noise: Noise = None,
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Run a cell over time: drive (T, B, ...) = `cell.project(x)`, state -> features (T, B, ...), last state.

    noise: masks from `cell.noise(T, B)`, or None. lengths: (B,) integers in 1..T; a row's state stays as it is after
    its last step. backend: "auto" takes the fastest path that can run this call; the name of a path forces it.
    Raises ValueError for an unknown backend, RuntimeError if the path that is forced cannot run this call.
    """
    return choose(cell, drive, state, noise, lengths, backend).run(cell, drive, state, noise, lengths)


def scan_layer(
    cell: Cell, x: Tensor, state: State, noise: Noise = None, lengths: Tensor | None = None
) -> tuple[Tensor, State]:
    """`cell.readout` of `scan` of `cell.project(x, noise)`, all in one where a path has that: x (T, B, m) -> output."""
    whole = {path: run for path, runs in LAYERS.items() for known, run in runs.items() if has_stages_of(known, cell)}
    if whole:
        path = choose(cell, x, state, noise, lengths).path
        if path in whole:
            return whole[path](cell, x, state, noise, lengths)
    features, last = scan(cell, cell.project(x, noise), state, noise, lengths)
    return cell.readout(features), last


def _like(cell: Cell, written: Iterable[type[Cell]]) -> type[Cell] | None:
    """The one of these cells whose step this cell's is."""
    for known in written:  # next() of a generator stops older compilers
        if type(cell).step is known.step:
            return known
    return None


def has_stages_of(known: type[Cell], cell: Cell) -> bool:
    """Whether all that a cell does from its input to its output is what this one does."""
    return all(
        getattr(type(cell), stage) is getattr(known, stage) and stage not in cell.__dict__
        for stage in ("project", "step", "readout")
    )


def choose(
    cell: Cell,
    drive: Tensor,
    state: State,
    noise: Noise = None,
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> Choice:
    """The path that `scan` takes for these arguments, and why not a faster one. Raises as `scan` does."""
    name = chosen_backend(backend)
    passed_over: dict[str, str] = {}
    of_all: str | None = None  # why none of the paths can: found out once
    for path, written in PATHS.items():
        if name not in ("auto", path):
            continue
        known = _like(cell, written)
        if name == "auto" and drive.shape[0] < _FEWEST_STEPS:
            reason = "it gains nothing in so few time steps"
        elif "step" in cell.__dict__ or all(type(cell).step is not other.step for other in PATHS["torch"]):
            reason = f"{type(cell).__name__} has a step of its own"
        elif known is None:
            reason = f"it is not written for {type(cell).__name__}"
        else:
            if of_all is None:
                of_all = why_not(drive, state, noise, lengths, cell.parameters())
            reason = of_all
            if path in _CONDITIONS:
                reason = reason or _CONDITIONS[path](cell, known, drive, noise)
            if name == "auto":
                reason = reason or UNPROVEN.get(path, "")
            if path in _AVAILABILITY:
                reason = reason or _AVAILABILITY[path](cell, drive, noise, lengths)
        if known is not None and not reason:
            return Choice(path, passed_over, written[known])
        passed_over[path] = reason
    if name not in ("auto", "reference"):
        raise RuntimeError(f"backend {name!r} cannot run this call: {passed_over[name]}")
    return Choice("reference", passed_over, reference_scan)


def chosen_backend(argument: str = "auto") -> str:
    """The backend in force: the argument, else `with backend(...)`, else the environment's UNGATED_BACKEND."""
    if argument == "auto":
        argument = _forced.name or os.environ.get("UNGATED_BACKEND") or "auto"
    return _check(argument)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force a path inside a `with` block, in this thread: `with ungated.backend("reference"): ...`.

    Raises ValueError for an unknown name.
    """
    before, _forced.name = _forced.name, _check(name)
    try:
        yield
    finally:
        _forced.name = before


class _Forced(threading.local):
    # Not a ContextVar, which the compiler cannot read.
    name: str | None = None


_forced = _Forced()


def _check(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    return name

"""A cell along time. This is the only place where a path is chosen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from ungated.cells.cell import Cell, Noise, State
from ungated.scan.reference import reference_scan

BACKENDS = ("auto", "reference")

_forced: ContextVar[str | None] = ContextVar("ungated_backend", default=None)


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
    Raises ValueError for an unknown backend.
    """
    chosen_backend(backend)
    return reference_scan(cell, drive, state, noise, lengths)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def chosen_backend(argument: str = "auto") -> str:
    """The backend in force: the argument, else `with backend(...)`, else the environment's UNGATED_BACKEND.

    torch.compile asks once, when it traces: compiled code keeps the path it was traced with.
    """
    if argument == "auto":
        argument = _forced.get() or os.environ.get("UNGATED_BACKEND") or "auto"
    return _check(argument)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force a path inside a `with` block, in this thread: `with ungated.backend("reference"): ...`.

    Raises ValueError for an unknown name.
    """
    token = _forced.set(_check(name))
    try:
        yield
    finally:
        _forced.reset(token)


def _check(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    return name

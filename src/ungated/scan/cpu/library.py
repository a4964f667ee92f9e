"""The compiled engine as Python calls it: plain pointers through ctypes, on torch's own threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ungated.cells.cell import State
from ungated.pages import fresh
from ungated.scan.cpu.compiler import Unavailable, library_file

#: The members of each structure of arguments, in the order of engine/*.cpp; *name is a double.
_FIELDS = {
    "rru": "T B n g m p inner normalize *epsilon in h0 mask mask_step lengths W_h W_c W_x b_j W_o b_o W_k b_k s Z Zb "
    "weights out h h_step a ld r y grad_out grad_h grad_a grad_a_ld grad_z grad_c grad_h0 grad_s",
    "lstm": "T B n *forget_bias drive h0 c0 mask mask_step lengths W_h weights features h c kept gates "
    "grad_features grad_h grad_c grad_drive grad_h0 grad_c0",
    "gru": "T B n drive h0 mask mask_step lengths W_hg W_hc b_hc weights features h kept gates q grad_features grad_h "
    "grad_drive grad_q grad_h0",
    "rhn": "T B n depth drive s0 mask mask_step lengths R b weights features s kept gates inner grad_features grad_s "
    "grad_z grad_s0",
    "mogrifier": "T B m n rounds rank x h0 c0 mask mask_step lengths W_x W_h bias A Bs beta weights features h c kept "
    "gates e_x e_h grad_features grad_h grad_c grad_z grad_e_x grad_e_h grad_x grad_h0 grad_c0",
    "batched": "rows add left_0 left_0_n left_0_ld left_1 left_1_n left_1_ld right_0 right_0_n right_0_ld right_1 "
    "right_1_n right_1_ld rectify sparse mask mask_rows scale out_00 out_01 out_10 out_11 sums_0 sums_1",
}

Argument = Tensor | float | None

_FLOATS = torch.empty(0)


@cache
def engine(cell: str) -> Engine:
    """The library of a cell, loaded once. Raises Unavailable."""
    return Engine(cell)


def thread_count() -> int:
    return torch.get_num_threads()


class _OpenMP(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("parallel", "thread", "threads")]


class Library:
    """One file of the engine, compiled and loaded, and the structure of its arguments."""

    def __init__(self, name: str) -> None:
        """Raises Unavailable."""
        self.name = name
        try:
            self._library = ctypes.CDLL(str(library_file(name)))
        except OSError as error:
            raise Unavailable(f"the library could not be loaded: {error}") from error
        types = {True: ctypes.c_double, False: ctypes.c_int64}
        members = [(field.lstrip("*"), types[field.startswith("*")]) for field in _FIELDS[name].split()]
        self._Arguments = type("Arguments", (ctypes.Structure,), {"_fields_": members})
        if self.function("size")() != ctypes.sizeof(self._Arguments):
            raise Unavailable("the library is of another version")

    def function(self, name: str) -> Any:
        try:
            found = self._library[f"{self.name}_{name}"]
        except AttributeError as error:
            raise Unavailable(f"the library could not be loaded: {error}") from error
        found.restype = ctypes.c_int64
        return found

    def arguments(self, given: dict[str, Argument]) -> ctypes.Structure:
        """Tensors as their addresses, None as a null pointer."""
        plain = {name: v.data_ptr() if isinstance(v, Tensor) else v or 0 for name, v in given.items()}
        return self._Arguments(**plain)  # type: ignore[no-any-return]


class Scan:
    """A cell's scan over memory of its own, to be run as often as is wanted. weights: packed, once it has run."""

    def __init__(self, run: Callable[..., int], x: ctypes.Structure, backward: bool, packed: bool, held: Any) -> None:
        self._run, self._x, self._backward, self._packed, self._held = run, x, backward, packed, held
        self.weights: Tensor = held[0]

    def run(self) -> Scan:
        """Raises MemoryError."""
        if self._run(ctypes.byref(self._x), self._backward, thread_count(), self._packed, openmp()):
            raise MemoryError("no memory or no thread for a scan")
        self._packed = True
        return self


class Prepared(NamedTuple):
    """A layer forwards, without masks, on memory that stays: x and state before it, output and state after it."""

    output: Tensor  # (T, B, p)
    state: State
    scan: Scan
    project: Callable[[], object] = lambda: None  # to be called before it

    def run(self) -> None:
        """Raises MemoryError."""
        self.project()
        self.scan.run()


class Engine(Library):
    """One cell's library: `scan` is it along time."""

    def __init__(self, cell: str) -> None:
        super().__init__(cell)
        self._weights, self._scan = self.function("weights"), self.function("scan")

    def scan(
        self,
        *,
        backward: bool,
        lists: dict[str, list[Tensor]] | None = None,
        packed: Tensor | None = None,
        **arguments: Argument,
    ) -> Scan:
        """A scan to be run. Tensors are float32 or integers, those for results contiguous; None is a null pointer.

        lists: what the engine takes as pointers to pointers. packed: `weights` of another scan with the same ones, and
        in the same direction; they are not packed again.
        """
        dense = {name: _dense(value) for name, value in arguments.items() if value is not None}
        x = self.arguments(dense)
        held = {name: [tensor.contiguous() for tensor in tensors] for name, tensors in (lists or {}).items() if tensors}
        pointers = {name: _pointers(tensors) for name, tensors in held.items()}
        for name, pointer in pointers.items():
            setattr(x, name, ctypes.addressof(pointer))
        weights = fresh(_FLOATS, self._weights(ctypes.byref(x))) if packed is None else packed
        x.weights = weights.data_ptr()
        return Scan(self._scan, x, backward, packed is not None, (weights, dense, held, pointers))


def mask_step(noise: Tensor | None) -> int:
    """How far apart the masks of two time steps lie in memory; 0: one mask for all."""
    return 0 if noise is None or len(noise) == 1 else noise[0].numel()


def _dense(value: Argument) -> Argument:
    if not isinstance(value, Tensor):
        return value
    return value.contiguous() if value.is_floating_point() else value.long().contiguous()


def _pointers(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


@cache
def openmp() -> Any:
    """To OpenMP of this process, torch's; to null pointers where there is none: then the engine starts threads."""
    process = ctypes.CDLL(None)
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    try:
        found = _OpenMP(*(ctypes.cast(process[name], ctypes.c_void_p) for name in names))
    except AttributeError:
        found = _OpenMP()
    return ctypes.byref(found)

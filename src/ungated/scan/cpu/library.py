"""The compiled engine as Python calls it: plain pointers through ctypes, on torch's own threads."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from ungated.scan.cpu.compiler import Unavailable, library_file
from ungated.scan.pages import on_huge_pages

#: The members of each cell's structure of arguments, in the order of engine/*.cpp; *name is a double.
_FIELDS = {
    "rru": "T B n g inner normalize *epsilon drive h0 mask mask_step lengths W_h W_c W_k b_k s Z Zb weights d h h_step "
    "a r y grad_d grad_h grad_a grad_z grad_c grad_h0",
    "lstm": "T B n *forget_bias drive h0 c0 mask mask_step lengths W_h weights features h c kept gates "
    "grad_features grad_h grad_c grad_drive grad_h0 grad_c0",
    "gru": "T B n drive h0 mask mask_step lengths W_hg W_hc b_hc weights features h kept gates q grad_features grad_h "
    "grad_drive grad_q grad_h0",
    "rhn": "T B n depth drive s0 mask mask_step lengths R b weights features s kept gates inner grad_features grad_s "
    "grad_z grad_s0",
    "mogrifier": "T B m n rounds rank x h0 c0 mask mask_step lengths W_x W_h bias A Bs beta weights features h c kept "
    "gates e_x e_h grad_features grad_h grad_c grad_z grad_e_x grad_e_h grad_x grad_h0 grad_c0",
}


Argument = Tensor | float | None


@cache
def engine(cell: str) -> Engine:
    """The library of a cell, loaded once. Raises Unavailable."""
    return Engine(cell)


def thread_count() -> int:
    return torch.get_num_threads()


class _OpenMP(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("parallel", "thread", "threads")]


class Engine:
    """One cell's library: `scan` runs it along time."""

    def __init__(self, cell: str) -> None:
        try:
            library = ctypes.CDLL(str(library_file(cell)))
            self._size, self._weights, self._scan = (library[f"{cell}_{name}"] for name in ("size", "weights", "scan"))
        except (OSError, AttributeError) as error:
            raise Unavailable(f"the library could not be loaded: {error}") from error
        for function in (self._size, self._weights):
            function.restype = ctypes.c_int64
        types = {True: ctypes.c_double, False: ctypes.c_int64}
        members = [(name.lstrip("*"), types[name.startswith("*")]) for name in _FIELDS[cell].split()]
        self._Arguments = type("Arguments", (ctypes.Structure,), {"_fields_": members})
        if self._size() != ctypes.sizeof(self._Arguments):
            raise Unavailable("the library is of another version")
        self._omp = _openmp()

    def scan(self, *, backward: bool, lists: dict[str, list[Tensor]] | None = None, **arguments: Argument) -> None:
        """Run the scan. Tensors are float32 or integers, those for results contiguous; None is a null pointer.

        lists: what the engine takes as pointers to pointers. Raises MemoryError.
        """
        dense = {name: _dense(value) for name, value in arguments.items()}
        held = {name: [tensor.contiguous() for tensor in tensors] for name, tensors in (lists or {}).items()}
        for name, tensors in held.items():
            dense[name] = torch.tensor([tensor.data_ptr() for tensor in tensors])
        x = self._Arguments(**{name: v.data_ptr() if isinstance(v, Tensor) else v or 0 for name, v in dense.items()})
        weights = torch.empty(self._weights(ctypes.byref(x)))
        on_huge_pages(weights)
        x.weights = weights.data_ptr()
        if self._scan(ctypes.byref(x), backward, thread_count(), 0, ctypes.byref(self._omp)):
            raise MemoryError("no memory or no thread for a scan")


def mask_step(noise: Tensor | None) -> int:
    """How far apart the masks of two time steps lie in memory; 0: one mask for all."""
    return 0 if noise is None or len(noise) == 1 else noise[0].numel()


def _dense(value: Argument) -> Argument:
    if not isinstance(value, Tensor):
        return value
    return value.contiguous() if value.is_floating_point() else value.long().contiguous()


@cache
def _openmp() -> _OpenMP:
    """OpenMP of this process, torch's; with null pointers, where there is none, the engine starts threads."""
    process = ctypes.CDLL(None)
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    try:
        return _OpenMP(*(ctypes.cast(process[name], ctypes.c_void_p) for name in names))
    except AttributeError:
        return _OpenMP()

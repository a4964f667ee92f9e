"""The engine compiled for aarch64, NEON, and run by QEMU in place of this machine's own library."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ungated.scan.cpu.compiler import SOURCE
from ungated.scan.cpu.library import Argument, Engine

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
MISSING = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
FLAGS = ("-std=c++17", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror", f"-I{SOURCE}")

_BASE = 1 << 38  # where the emulated process sees the tensors: far from all it has itself
_ALIGNED = 64


def compile_runner(cell: str, program: Path) -> None:
    """The runner with one cell's engine in it."""
    named = ["-static", f'-DSOURCE="{cell}.cpp"', f"-DCELL_NAME={cell}"]
    runner = Path(__file__).parent / "runner.cpp"
    subprocess.run([COMPILER, *FLAGS, *named, str(runner), "-o", str(program)], check=True)


def scan_of(program: Path, image: Path, threads: int) -> Any:
    """What stands in for `Engine.scan`: the same call, in an emulated process."""

    def scan(
        self: Engine,
        *,
        backward: bool,
        lists: dict[str, list[Tensor]] | None = None,
        packed: Tensor | None = None,
        **arguments: Argument,
    ) -> Emulated:
        memory = _Memory()
        plain: dict[str, Any] = {
            name: memory.place(value) if isinstance(value, Tensor) else value or 0 for name, value in arguments.items()
        }
        for name, tensors in (lists or {}).items():
            plain[name] = memory.place(torch.tensor([memory.place(tensor) for tensor in tensors], dtype=torch.int64))
        structure = self._Arguments(**plain)
        at = memory.append(bytes(structure))
        image.write_bytes(memory.content)
        weights = self._Arguments.weights.offset  # type: ignore[attr-defined]
        numbers = (_BASE, len(memory.content), at, weights, int(backward), threads)
        subprocess.run([EMULATOR, str(program), str(image), *map(str, numbers)], check=True, timeout=120)
        memory.copy_back(image.read_bytes())
        return Emulated()

    return scan


class Emulated:
    """What stands in for a `Scan` that has run."""

    weights = torch.empty(0)

    def run(self) -> Emulated:
        """It has."""
        return self


class _Memory:
    """Tensors one after the other, as the emulated process will see them."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._placed: list[tuple[Tensor, int]] = []

    def append(self, content: bytes) -> int:
        at = len(self.content)
        self.content += content + bytes(-len(content) % _ALIGNED + _ALIGNED)
        return at

    def place(self, tensor: Tensor) -> int:
        """The tensor's address there, null of an empty one; a tensor that is passed twice lies there twice."""
        if tensor.numel() == 0:
            return 0
        dense = tensor if tensor.is_floating_point() else tensor.long()
        at = self.append(_bytes(dense.contiguous()))
        if dense.is_contiguous():  # results are
            self._placed.append((dense, at))
        return _BASE + at

    def copy_back(self, content: bytes) -> None:
        for tensor, at in self._placed:
            nbytes = tensor.numel() * tensor.element_size()
            if content[at : at + nbytes] != self.content[at : at + nbytes]:
                ctypes.memmove(tensor.data_ptr(), content[at : at + nbytes], nbytes)


def _bytes(tensor: Tensor) -> bytes:
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())

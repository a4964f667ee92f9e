"""NVIDIA's run-time compiler, the one that torch's CUDA wheels install: CUDA C++ to machine code, through ctypes."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import site
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ungated.scan.cpu.compiler import Unavailable

#: -default-device: functions need no __device__. The last one has the assembler report registers and spills.
OPTIONS = ("--std=c++17", "-default-device", "--ptxas-options=-v")

_MAJORS = (13, 12)


@dataclass(frozen=True)
class Usage:
    """What the assembler reports of a kernel."""

    registers: int
    stack_bytes: int
    spilled_bytes: int


class NVRTC:
    """The compiler's library. Its version is (major, minor); `compile` may be called from any thread."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def knows(self, arch: str) -> bool:
        """Whether it compiles for an architecture such as "sm_90"."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", found)
        return any(arch.rstrip("af") == f"sm_{number}" for number in found)

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        """The machine code of a source, and the compiler's report. Raises Unavailable with the first error."""
        if not self.knows(arch):
            raise Unavailable(
                f"NVRTC {self.version[0]}.{self.version[1]} does not compile for {arch}: a newer torch may"
            )
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"ungated.cu", 0, None, None)
        try:
            options = [option.encode() for option in (f"--gpu-architecture={arch}", *OPTIONS)]
            array = (ctypes.c_char_p * len(options))(*options)
            status = self._library.nvrtcCompileProgram(program, len(options), array)
            log = self._read(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").decode(errors="replace")
            if status:
                raise Unavailable(f"NVRTC failed: {_first_error(log) or self._error(status)}")
            return self._read(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN"), log.rstrip("\0")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, size: str, content: str) -> bytes:
        length = ctypes.c_size_t()
        self._call(size, program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(max(length.value, 1))
        self._call(content, program, buffer)
        return buffer.raw[: length.value]

    def _call(self, name: str, *arguments: object) -> None:
        try:
            status = self._library[name](*arguments)
        except AttributeError as error:
            raise Unavailable(f"the NVRTC library has no {name}") from error
        if status:
            raise Unavailable(f"NVRTC failed: {name}: {self._error(status)}")

    def _error(self, status: int) -> str:
        describe = self._library.nvrtcGetErrorString
        describe.restype = ctypes.c_char_p
        return str((describe(status) or b"unknown error").decode())


def usage(report: str) -> Usage:
    """What the assembler's part of the compiler's report says of its one kernel."""

    def number(pattern: str) -> int:
        found = re.search(pattern, report)
        return int(found[1]) if found else 0

    spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return Usage(number(r"Used (\d+) registers"), number(r"(\d+) bytes stack frame"), spilled)


@cache
def nvrtc() -> NVRTC:
    """The compiler, found once. Raises Unavailable."""
    problems = []
    for path in _candidates():
        try:
            for builtins in sorted(path.parent.glob("*nvrtc-builtins*")) if path.is_absolute() else ():
                ctypes.CDLL(str(builtins))  # it looks for these by name only
            return NVRTC(ctypes.CDLL(str(path)))
        except (OSError, Unavailable) as error:
            problems.append(str(error))
    raise Unavailable(f"no NVRTC library could be loaded{f': {problems[0]}' if problems else ''}")


def _candidates() -> Iterator[Path]:
    """Where the library may be: the wheels that torch depends on, torch's own, then the system's."""
    pattern = "nvrtc64_*.dll" if sys.platform == "win32" else "libnvrtc*.so*"
    torch_at = Path(torch.__file__).parent
    for root in dict.fromkeys([torch_at.parent, *map(Path, [*site.getsitepackages(), site.getusersitepackages()])]):
        for folder in ("nvidia/*/lib", "nvidia/*/bin", "torch/lib"):
            found = (file for file in root.glob(f"{folder}/{pattern}") if not re.search(r"builtins|\.alt\.", file.name))
            yield from sorted(found, reverse=True)
    names = [f"libnvrtc.so.{major}" for major in _MAJORS] + [ctypes.util.find_library("nvrtc")]
    yield from (Path(name) for name in names if name)


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.rstrip("\0").splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "")

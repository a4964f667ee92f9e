"""Which path runs for which cell on this machine, why not a faster one, and what could be done about it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ungated.cells import CELLS
from ungated.cells.cell import Cell
from ungated.lab.training.environment import describe_environment
from ungated.scan import PATHS, choose, cpu
from ungated.scan.cpu.compiler import cache_directory, found_compiler

_T, _B, _INPUT, _HIDDEN = 32, 4, 16, 32


@dataclass(frozen=True)
class Situation:
    """A kind of call. masks: dropout inside the cell. ragged: rows that end at different times."""

    name: str
    steps: int = _T
    gradients: bool = True
    autocast: bool = False
    masks: bool = False
    ragged: bool = False


SITUATIONS = (
    Situation("training, float32"),
    Situation("training, bf16 autocast", autocast=True),
    Situation("inference", gradients=False),
    Situation("dropout masks", masks=True),
    Situation("ragged rows", ragged=True),
    Situation("one step", steps=1),
)


def examine() -> dict[str, Any]:
    """Everything `ungated doctor` says; libraries that are not compiled yet are compiled."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    paths = [_path_of(cell, situation, device) for device in devices for cell in CELLS for situation in SITUATIONS]
    found = {"machine": _machine(), "engine": _engine(), "gpu": _gpu(), "paths": paths}
    return {**found, "advice": list(_advice(found))}


def _path_of(name: str, situation: Situation, device: str) -> dict[str, Any]:
    """{"device", "cell", "situation", "path", "passed_over": {faster path: why not}}."""
    cell = CELLS[name](_INPUT, _HIDDEN).to(device)
    if situation.masks:
        for rate in [rate for rate in vars(cell) if rate.endswith("dropout")]:
            setattr(cell, rate, 0.5)
    noise = cell.noise(situation.steps, _B) if situation.masks else None
    lengths = torch.arange(1, _B + 1, device=device) if situation.ragged else None
    x = torch.zeros(situation.steps, _B, _INPUT, device=device)
    with _as(situation, device):
        choice = choose(cell, _drive(cell, x, noise), cell.initial_state(_B), noise, lengths)
    entry = {"device": device, "cell": name, "situation": situation.name, "path": choice.path}
    return {**entry, "passed_over": choice.passed_over}


def _drive(cell: Cell, x: Tensor, noise: Any) -> Tensor:
    return cell.project(x, noise)


@contextmanager
def _as(situation: Situation, device: str) -> Iterator[None]:
    with (
        torch.set_grad_enabled(situation.gradients),
        torch.autocast(device, dtype=torch.bfloat16, enabled=situation.autocast),
    ):
        yield


def _machine() -> dict[str, Any]:
    found = describe_environment(torch.device("cpu"))
    del found["command"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {**found, "cores": cores}


def _engine() -> dict[str, Any]:
    """The C++ engine: instruction set, compiler, cache, and for each cell why there is no library ("" if there is)."""
    compiler, directory = found_compiler(), cache_directory()
    libraries = list(directory.glob("*.so"))
    return {
        "isa": torch.backends.cpu.get_cpu_capability(),
        "compiler": compiler,
        "compiler_version": None if compiler is None else _first_line([compiler, "--version"]),
        "unavailable": {name: cpu.unavailable(cell) for name, cell in CELLS.items()},
        "cache": str(directory),
        "cache_writable": _writable(directory),
        "cache_files": len(libraries),
        "cache_bytes": sum(file.stat().st_size for file in libraries),
    }


def _writable(directory: Path) -> bool:
    existing = next((place for place in (directory, *directory.parents) if place.exists()), directory)
    return existing.is_dir() and os.access(existing, os.W_OK)


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def _gpu() -> dict[str, Any]:
    """Versions, None where there is no such thing here."""
    return {
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "nvrtc": _version_of(_nvrtc),
        "triton": _version_of(lambda: version("triton")),
    }


def _driver() -> str | None:
    """As the kernel's module says it: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15 ..."."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    return next((word for word in text.split() if word[0].isdigit() and "." in word), None)


def _nvrtc() -> str:
    from ungated.scan.cuda.nvrtc import nvrtc

    return ".".join(map(str, nvrtc().version))


def _version_of(ask: Callable[[], str]) -> str | None:
    from ungated.scan.cpu.compiler import Unavailable

    try:
        return ask()
    except (PackageNotFoundError, ImportError, Unavailable):
        return None


def _advice(found: dict[str, Any]) -> Iterator[str]:
    """A sentence for each faster path that could be had."""
    machine, engine, gpu = found["machine"], found["engine"], found["gpu"]
    if forced := os.environ.get("UNGATED_BACKEND"):
        yield f"UNGATED_BACKEND={forced} forces one path: unset it to let the fastest one run."
    reasons = sorted({reason for reason in engine["unavailable"].values() if reason})
    if reasons and engine["compiler"] is None and platform.system() != "Windows":
        yield (
            "There is no C++ compiler: with one (as g++ or clang++ on the PATH, or named by CXX) the cpu path runs,"
            " which is faster than torch."
        )
    elif reasons and not engine["cache_writable"]:
        yield (
            f"The cache directory {engine['cache']} cannot be written, so the cpu path is not built: name another with"
            " UNGATED_CACHE."
        )
    elif reasons and platform.system() != "Windows":
        yield f"The cpu path does not run: {'; '.join(reasons)}."
    if machine["threads"] < machine["cores"]:
        yield (
            f"torch uses {machine['threads']} of {machine['cores']} cores: large networks gain from"
            f" torch.set_num_threads({machine['cores']}), or OMP_NUM_THREADS={machine['cores']}."
        )
    if gpu["driver"] and not gpu["devices"]:
        yield (
            f"There is an NVIDIA driver ({gpu['driver']}), but this torch {torch.__version__} finds no GPU: a torch"
            " built for CUDA would."
        )


def passed_over(entries: list[dict[str, Any]]) -> list[tuple[list[str], str, list[tuple[str, str]]]]:
    """(paths, reason, [(cell, situation), ...]) for the faster paths that were passed over, on one device.

    A path that runs nothing there is named once, with its commonest reason and an empty list.
    """
    reasons: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for entry in entries:
        for path, reason in entry["passed_over"].items():
            reasons.setdefault(path, {}).setdefault(reason, []).append((entry["cell"], entry["situation"]))
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    used = {entry["path"] for entry in entries}
    for path, by_reason in reasons.items():
        if path not in used:
            by_reason = {max(by_reason, key=lambda reason: len(by_reason[reason])): []}
        for reason, where in by_reason.items():
            found.setdefault((reason, tuple(where)), []).append(path)
    return [(paths, reason, list(where)) for (reason, where), paths in found.items()]


def order() -> list[str]:
    """All paths, fastest first."""
    return [*PATHS, "reference"]

"""Where a run was computed: what has to be the same for the same numbers, bit for bit."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ungated.scan import chosen_backend

#: What the numbers depend on, besides recipe, seed and data.
DECISIVE = ("ungated", "torch", "device", "device_name", "threads", "processes", "deterministic", "backend")


def describe_environment(device: torch.device, *, processes: int = 1) -> dict[str, Any]:
    """Versions, device, threads, determinism, git revision and the command of this process."""
    return {
        "ungated": _version("ungated"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "backend": chosen_backend(),
        "git_revision": _git_revision(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each decisive entry that is not what it was, in words; empty where the numbers will be the same."""
    return [f"{key} {before.get(key)} is now {now.get(key)}" for key in DECISIVE if before.get(key) != now.get(key)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    """The revision of the source tree this package runs from, "-dirty" if edited; None when installed without one."""
    source = Path(__file__).parent
    try:
        command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12", "--match="]
        tracked = ["git", "-C", str(source), "ls-files", "--error-unmatch", Path(__file__).name]
        # A package installed below someone else's repository must not report that repository's revision.
        if subprocess.run(tracked, capture_output=True, timeout=10, check=False).returncode != 0:
            return None
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None

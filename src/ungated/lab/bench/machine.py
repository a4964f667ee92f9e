"""What a time depends on besides the code: the machine, its versions, and what else it was doing."""

from __future__ import annotations

import os
from typing import Any

import torch

from ungated.lab.training.environment import describe_environment


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor or GPU, cores, threads, instruction set, versions, git revision; nothing that names a place on disk."""
    found = describe_environment(device)
    del found["command"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found |= {"cores": cores, "isa": torch.backends.cpu.get_cpu_capability()}
    if device.type == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
        found["compute_capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return found


def load() -> list[float]:
    """Processes that ran or waited to, on average over 1, 5 and 15 minutes; empty where the system does not tell."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return []

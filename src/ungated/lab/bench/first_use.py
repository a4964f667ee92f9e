"""What the first use of a compiled path costs: in a fresh process, from an empty cache and from a full one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from ungated.cells import CELLS
from ungated.lab.bench.cases import FIRST_USE_GOALS

_SECONDS = 300

# What the choice adds, not what the run takes: the second call is subtracted.
_PROBE = """
import json, sys, time
import torch, ungated
cell_name, path, device = sys.argv[1:]
layer = ungated.RNN(ungated.CELLS[cell_name], 16, 32, device=device)
x = torch.zeros(16, 4, 16, device=device)
if device != "cpu":
    torch.zeros(1, device=device) @ torch.zeros(1, device=device)
    torch.cuda.synchronize()
def call():
    start = time.perf_counter()
    with ungated.backend(path):
        layer(x)[0].sum().backward()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start
with ungated.backend("torch"):  # what torch itself does at a first call
    layer(x)[0].sum().backward()
first = call()
print(json.dumps(first - call()))
"""


def first_use(path: str, device: str, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Seconds that the first call of a path adds, for each cell: {"cell", "empty_cache", "cached", "goals"}.

    A cell that the path cannot run has "failed" instead of seconds.
    """
    found = []
    for cell in CELLS:
        tell(f"first use of {path}, {cell}")
        with tempfile.TemporaryDirectory() as cache:
            entry: dict[str, Any] = {"path": path, "cell": cell}
            for key in FIRST_USE_GOALS:
                outcome = _probe(cell, path, device, cache)
                if isinstance(outcome, str):
                    entry["failed"] = outcome
                    break
                entry[key] = round(max(outcome, 0.0), 4)  # what a run takes varies by more than nothing
        if "failed" not in entry:
            entry["met"] = all(entry[key] <= limit for key, limit in FIRST_USE_GOALS.items())
        found.append(entry)
    return found


def _probe(cell: str, path: str, device: str, cache: str) -> float | str:
    environment = {**os.environ, "UNGATED_CACHE": cache}
    command = [sys.executable, "-c", _PROBE, cell, path, device]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"not done within {_SECONDS} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    return float(json.loads(done.stdout))

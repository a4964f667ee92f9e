"""A study's command as a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .conftest import TINY

WAIT = 120.0


def begin(place: Path, *words: str, log: str = "log") -> subprocess.Popen[bytes]:
    """Start `ungated WORDS` in `place`, with a recipe tiny.toml there; its output goes to a file."""
    (place / "tiny.toml").write_text(TINY, encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (place / log).open("ab") as output:
        command = [sys.executable, "-m", "ungated", *words]
        return subprocess.Popen(command, cwd=place, stdout=output, stderr=output, env=environment)


def wait_for(what: Callable[[], object], why: str) -> None:
    """Until it is true."""
    deadline = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def results(study: Path) -> list[int]:
    """The runs that are finished."""
    return sorted(int(path.parent.name) for path in study.glob("runs/*/result.json"))


def at_work(study: Path) -> dict[int, int]:
    """The process of each run under way that has begun to train, by its lease."""
    found = {}
    for path in study.glob("leases/*.json"):
        try:
            owner = json.loads(path.read_text())["owner"]
        except (OSError, ValueError):
            continue
        if (study / "runs" / path.stem / "recipe.toml").exists():
            found[int(path.stem)] = int(owner.split(":")[-2])
    return found


def alive(pid: int) -> bool:
    """Whether a process still runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"

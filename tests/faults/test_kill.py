"""Killed at any moment, out of disk at any, a run goes on to the end of an undisturbed one, bit for bit.

UNGATED_FAULTS=full tries every durable operation instead of a spread of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FULL = os.environ.get("UNGATED_FAULTS") == "full"


def faults(recipe: str, mode: str, folder: Path, first: int, step: int) -> dict[str, Any]:
    """What forked_runs.py found; see there."""
    script = Path(__file__).with_name("forked_runs.py")
    command = [sys.executable, str(script), recipe, mode, str(folder), str(first), str(step)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("recipe", ["music", "text"])
def test_killed_at_any_durable_operation(tmp_path: Path, recipe: str) -> None:
    found = faults(recipe, "kill", tmp_path, 1 if recipe == "music" else 6, 1 if FULL else 11)
    assert found["wrong"] == []
    assert found["points"] >= (100 if FULL else 10)


@pytest.mark.timeout(3600 if FULL else 300)
def test_killed_while_resuming(tmp_path: Path) -> None:
    found = faults("music", "nested", tmp_path, 13, 7 if FULL else 61)
    assert found["wrong"] == []
    assert found["points"] >= 2 and found["faults"] >= 2 * found["points"]


@pytest.mark.timeout(3600 if FULL else 300)
def test_power_lost_with_all_that_was_not_synced(tmp_path: Path) -> None:
    found = faults("music", "power", tmp_path, 4, 1 if FULL else 15)
    assert found["wrong"] == []
    assert found["points"] >= 10


@pytest.mark.timeout(3600 if FULL else 300)
def test_no_room_on_the_disk(tmp_path: Path) -> None:
    found = faults("music", "full", tmp_path, 2, 1 if FULL else 15)
    assert found["wrong"] == []
    assert found["points"] >= 8


@pytest.mark.timeout(3600 if FULL else 300)
def test_asked_to_stop_at_any_time(tmp_path: Path) -> None:
    found = faults("music", "signal", tmp_path, 50 if FULL else 8, 0)
    assert found["wrong"] == []
    assert found["interrupted"] >= found["points"] // 4

"""Many tiny training runs that are killed and resumed, each in a forked child of this process.

Importing torch costs more than such a run, so it is done once; children are forked before any work of torch, which a
forked child could not go on with.

    python forked_runs.py RECIPE MODE FOLDER FIRST STEP

RECIPE: a name in tiny.RECIPES. MODE: "kill", "power" (unsynced data are lost too), "nested" (the resume is killed as
well), "full" (the disk has no room from there on): at operations FIRST, FIRST + STEP, ... until a run ends without
one; or "signal": FIRST times SIGTERM.
Prints a JSON object: how many points, and what was wrong at which.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import durable
import tiny

from ungated.lab.errors import Interrupted, LabError
from ungated.lab.training.recipe import Recipe
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.train import resume, train

SEED = 7
REFUSED = 9  # exit status where the run ended with an error of ours, in one line


def go(recipe: str, folder: Path) -> None:
    """Begin the run, or go on with it, saving a state after every update."""
    run = RunDirectory(folder)
    if run.exists:
        resume(run, save_every=0)
    else:
        train(run, Recipe.from_toml(tiny.RECIPES[recipe]), seed=SEED, save_every=0)


def forked(work: Callable[[], object]) -> int:
    """Do the work in a child; its wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except Interrupted as error:
            status = error.exit_status
        except LabError as error:
            status = REFUSED if str(error).count("\n") == 0 else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def whole_run(recipe: str, folder: Path) -> dict[str, str]:
    """The outcome of a run without a fault. Modules that it imports on the way are imported here, for all to come."""
    modules = folder / "modules"

    def work() -> None:
        before = set(sys.modules)
        go(recipe, folder / "whole")
        modules.write_text("\n".join(name for name in sys.modules if name not in before))

    if forked(work) != 0:
        raise RuntimeError("a run without a fault failed")
    for name in modules.read_text().split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return outcome(folder / "whole")


def outcome(folder: Path) -> dict[str, str]:
    """What has to be the same, bit for bit: hashes of the result and the weights, the losses, the names left."""
    found = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("result.json", "best.safetensors")
    }
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = str([{k: v for k, v in entry.items() if k != "seconds"} for entry in entries])
    found["left"] = str(sorted(path.name for path in folder.iterdir()))
    return found


def faulty(recipe: str, folder: Path, at: int, act: Callable[[durable.Operations], None]) -> int:
    """Go, with a fault at operation `at`; the wait status."""

    def work() -> None:
        operations = durable.Operations(folder, at, act)
        go(recipe, folder)
        operations.stop()

    return forked(work)


def main(recipe: str, mode: str, folder: Path, first: int, step: int) -> dict[str, object]:
    wrong: list[str] = []
    expected = whole_run(recipe, folder)
    act = {"power": durable.cut_power, "full": durable.fill_disk}.get(mode, durable.kill)
    at, points, faults = first, 0, 0
    while True:
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        status = faulty(recipe, run, at, act)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            break
        points += 1
        if mode == "full" and os.waitstatus_to_exitcode(status) != REFUSED:
            wrong.append(f"{at}: not refused in one line")
        if mode == "full" and list(run.rglob(".*")):
            wrong.append(f"{at}: temporary files are left")
        inner = first if mode == "nested" else 0
        while mode == "nested":
            faults += 1
            status = faulty(recipe, run, inner, act)
            if os.WIFEXITED(status):
                break
            inner += step
        if forked(lambda run=run: go(recipe, run)) != 0:  # type: ignore[misc]
            wrong.append(f"{at}: resume failed")
        elif (found := outcome(run)) != expected:
            wrong.append(f"{at}: {[key for key in found if found[key] != expected[key]]} differ: {found}")
        at += step
    return {"points": points, "faults": points + faults, "wrong": wrong}


def timed(recipe: str, run: Path) -> float:
    """Seconds of a whole run."""
    began = time.monotonic()
    assert forked(lambda: go(recipe, run)) == 0
    return time.monotonic() - began


def signals(recipe: str, folder: Path, count: int) -> dict[str, object]:
    """SIGTERM at `count` times spread over a run: it leaves with 75, and the resumed run ends the same."""
    wrong: list[str] = []
    expected = whole_run(recipe, folder)
    took = min(timed(recipe, folder / f"again-{i}") for i in range(3))  # one alone may have been held up
    interrupted = 0
    for i in range(count):
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                go(recipe, run)
                status = 0
            except Interrupted as error:
                status = error.exit_status
            finally:
                os._exit(status)
        time.sleep(took * (i + 0.5) / count)
        os.kill(child, signal.SIGTERM)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 75:
            interrupted += 1
        elif os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            wrong.append(f"{i}: exit status {os.WEXITSTATUS(status)}")
        # Killed by the signal: it came before training began or after it ended, where it acts as ever.
        if forked(lambda run=run: go(recipe, run)) != 0:  # type: ignore[misc]
            wrong.append(f"{i}: resume failed")
        elif (found := outcome(run)) != expected:
            wrong.append(f"{i}: {[key for key in found if found[key] != expected[key]]} differ")
    return {"points": count, "interrupted": interrupted, "wrong": wrong}


if __name__ == "__main__":
    torch.set_num_threads(1)
    tiny.register()
    name, mode, folder, first, step = sys.argv[1:]
    if mode == "signal":
        print(json.dumps(signals(name, Path(folder), int(first))))
    else:
        print(json.dumps(main(name, mode, Path(folder), int(first), int(step))))

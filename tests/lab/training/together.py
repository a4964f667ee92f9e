"""Trains the tiny recipes in the processes that torchrun started: together.py FOLDER. No dropout, so that one process
draws what several do.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "faults"))

import tiny

from ungated.lab.errors import Interrupted
from ungated.lab.training.progress import Progress
from ungated.lab.training.recipe import Recipe
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.train import resume, train

SETTINGS: dict[str, Any] = {
    "cell.recurrent_dropout": 0.0,
    "model.dropout": 0.0,
    "training.batch_size": 4,
    "training.max_epochs": 3,
    # Adaptive optimisers blow up rounding where a gradient is nearly zero.
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
}


def recipe(name: str, **settings: Any) -> Recipe:
    """The tiny recipe `name`, without dropout."""
    return Recipe.from_toml(tiny.RECIPES[name]).override(SETTINGS | settings)


class StopAt(Progress):
    """Asks this process to stop after a number of updates."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def batch(self, done: int, total: int, loss: float) -> None:
        self.updates -= 1
        if self.updates == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def note_threads(place: Path) -> None:
    """Write the names of this process's threads, on Linux."""
    if sys.platform == "linux":
        place.write_text("".join(task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()))


if __name__ == "__main__":
    tiny.register()
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    # What is registered first is called last: after the group of processes has come to its end.
    atexit.register(note_threads, folder / f"threads-{os.environ['RANK']}")
    train(RunDirectory(folder / "music"), recipe("music"), progress=Progress())
    train(RunDirectory(folder / "text"), recipe("text"), progress=Progress())
    train(RunDirectory(folder / "accumulated"), recipe("text", accumulate=2), progress=Progress())
    for name in ("here", "elsewhere"):
        run = RunDirectory(folder / name)
        try:
            train(run, recipe("text"), progress=StopAt(3))
        except Interrupted:
            if name == "here":
                resume(run)
        else:
            raise RuntimeError("the request to stop was not heard")
    try:
        train(RunDirectory(folder / "text"), recipe("text"))
    except Exception as error:
        # One write, newline and all: the processes share this pipe.
        os.write(1, f"{os.environ['RANK']}: {error}\n".encode())

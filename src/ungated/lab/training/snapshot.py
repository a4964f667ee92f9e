"""Everything a run needs to go on as if it had never stopped: taken from a training loop, and put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ungated.cells.cell import State, map_state
from ungated.lab.errors import CheckpointError
from ungated.lab.training.checkpoint import differing
from ungated.lab.training.randomness import random_state, restore_random_state

if TYPE_CHECKING:
    from ungated.lab.training.loop import Loop

#: Generators of which each process has its own; Python's and NumPy's are the same in all.
OWN_GENERATORS = ("torch", "cuda")


@dataclass
class Position:
    """Where a run is, and what it has found so far. Every field is part of the saved state."""

    epoch: int = 1  # the one under way
    updates: int = 0  # of that epoch; all done: validation is next
    data_pass: int = 1  # the one under way through the training data; the epoch's number unless epochs are shortened
    batch: int = 0  # the next one of that pass
    step: int = 0  # updates made
    loss_sum: float = 0.0  # of the epoch so far
    weight_sum: float = 0.0
    norm_sum: float = 0.0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0  # epochs since the best one
    stopped: str = ""  # why training is over: "patience", "max_epochs", "diverged"
    message: str = ""  # what happened, where that needs a sentence


def capture(loop: Loop) -> dict[str, Any]:
    """The state of `loop`, as `save_state` can keep it. Every process has to take part; the first one's is whole."""
    random = random_state(loop.device)
    return {
        "seed": loop.seed,
        "recipe": loop.recipe.values(),
        "data": loop.task.signature(),
        "position": asdict(loop.position),
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "best_weights": loop.best_weights,
        "carried": loop.processes.whole_state(_joined(loop.carried), loop.rows),
        "rows": loop.rows,
        "random": random | {name: loop.processes.each(random[name]) for name in OWN_GENERATORS if name in random},
    }


def restore(loop: Loop, state: dict[str, Any]) -> None:
    """Bring `loop` to where `state` was taken. Raises CheckpointError where it does not fit settings, data or model."""
    now = {"seed": loop.seed, "recipe": loop.recipe.values(), "data": loop.task.signature()}
    if different := differing({key: state[key] for key in now}, now):
        raise CheckpointError(f"{loop.run} cannot go on with other settings or data: {different}")
    try:
        loop.model.load_state_dict(state["model"])
        loop.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the state of {loop.run} does not fit its recipe's model: {error}") from error
    loop.position = Position(**state["position"])
    loop.best_weights = {name: tensor.to(loop.device) for name, tensor in state["best_weights"].items()}
    loop.rows = state["rows"]
    if state["carried"] is not None:
        own, parts = len(loop.carried), loop.processes.count * len(loop.carried)
        for i in range(own):
            take = _rows(loop.processes.rank * own + i, parts, loop.rows, loop.device)
            loop.carried[i] = map_state(take, state["carried"])
    # Last of all: whatever above draws random numbers must not move the generators.
    random = dict(state["random"])
    for name in OWN_GENERATORS:
        each = random.pop(name, [])
        if loop.processes.rank < len(each):
            random[name] = each[loop.processes.rank]
    restore_random_state(random, loop.device)


def _joined(parts: list[State | None]) -> State | None:
    """The carried state of all rows of this process, from those of its accumulation parts."""
    states = [part for part in parts if part is not None]
    if not states:
        return None
    return map_state(lambda *tensors: torch.cat(tensors, dim=1), states[0], *states[1:])


def _rows(index: int, parts: int, rows: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """From the carried state of all rows, (layers, B, n), those of part `index`: the rule of `Batch.part`."""
    own = slice(rows * index // parts, rows * (index + 1) // parts)
    return lambda tensor: tensor[:, own].contiguous().to(device)

"""One run from beginning to end, and on from where it stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ungated.cells.cell import Cell
from ungated.lab.errors import CheckpointError, RunError
from ungated.lab.files import sha256_of
from ungated.lab.tasks.task import PROTOCOLS
from ungated.lab.training.build import Built, build, choose_device
from ungated.lab.training.checkpoint import differing, remove_states
from ungated.lab.training.environment import describe_environment, differences
from ungated.lab.training.loop import Loop
from ungated.lab.training.processes import Processes, join
from ungated.lab.training.progress import Progress
from ungated.lab.training.randomness import repeatable_kernels
from ungated.lab.training.recipe import Recipe
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.signals import stop_request

#: Seconds between training states.
SAVE_EVERY = 30.0


def train(
    run: RunDirectory,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    save_every: float = SAVE_EVERY,
) -> dict[str, Any]:
    """Train `recipe` in the new or empty directory of `run`, and return what result.json says.

    The numbers depend on recipe, seed, data, versions, device and thread count alone. A run whose loss or gradient
    stops being finite is a result too: `stopped` is "diverged" and `message` says where. save_every: seconds between
    training states; 0 saves after every update.

    Raises Interrupted when SIGINT or SIGTERM asked it to stop (everything is saved, `resume` goes on), RunBusyError,
    RunError (directory), RecipeError, UsageError, DataError, CheckpointError (disk).
    """
    chosen = choose_device(device)
    processes = join(chosen)
    progress = progress if progress is not None and processes.first else Progress()
    with repeatable_kernels(chosen), contextlib.ExitStack() as held:
        processes.together(run.check_free)
        built = build(recipe, seed=seed, device=chosen, data_dir=data_dir)
        processes.together(lambda: held.enter_context(run.locked()))
        environment = {"seed": seed, "cell_sha256": _cell_hash(recipe)}
        environment |= describe_environment(chosen, processes=processes.count)
        processes.together(lambda: run.create(recipe.to_toml(), environment))
        return _go(built, run, seed, progress, processes, save_every, resumed=False)


def resume(
    run: RunDirectory,
    recipe: Recipe | None = None,
    *,
    cell: str | type[Cell] | None = None,
    device: str | torch.device | None = None,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    save_every: float = SAVE_EVERY,
) -> dict[str, Any]:
    """Go on with the run from its newest state that is whole, and return what result.json says.

    On the same machine, device, thread count and versions the result is that of a run that never stopped, bit for bit;
    where one of them is another, a notice says so. recipe: refused unless its settings are the run's own. cell: the
    user's own cell (FILE.py:Class or the class) where the run was trained with one. device: the run's own if None.

    Raises what `train` raises, and CheckpointError where no state is whole, or data or cell are not the run's.
    """
    run.check_run()
    environment = run.read_environment()
    kept = Recipe.from_toml(run.read_recipe(), cell=cell, where=str(run.path / "recipe.toml"))
    if recipe is not None and (different := differing(kept.values(), recipe.values())):
        raise RunError(f"{run} was begun with another recipe: {different}; train in another directory")
    if environment.get("cell_sha256") != _cell_hash(kept):
        raise CheckpointError(f"the file of the cell {kept.cell} has changed since {run} was begun: train anew")
    chosen = choose_device(device or environment["device"])
    processes = join(chosen)
    progress = progress if progress is not None and processes.first else Progress()
    with repeatable_kernels(chosen), contextlib.ExitStack() as held:
        processes.together(lambda: held.enter_context(run.locked()))
        if (result := run.read_result()) is not None:
            progress.notice(f"{run} is finished: nothing to resume")
            if processes.first:
                _tidy(run, result)  # it may have been killed just before this
            return result
        now = describe_environment(chosen, processes=processes.count)
        if changed := differences(environment, now):
            progress.notice(f"not bit-identical to an uninterrupted run: {', '.join(changed)}")
        built = build(kept, seed=environment["seed"], device=chosen, data_dir=data_dir)
        return _go(built, run, environment["seed"], progress, processes, save_every, resumed=True)


def _go(
    built: Built,
    run: RunDirectory,
    seed: int,
    progress: Progress,
    processes: Processes,
    save_every: float,
    *,
    resumed: bool,
) -> dict[str, Any]:
    if processes.rank > 0:
        torch.manual_seed(seed + 1_000_003 * processes.rank)  # other dropout masks for other rows
    try:
        with stop_request() as stop:
            loop = Loop(built, run, seed=seed, progress=progress, stop=stop, processes=processes, save_every=save_every)
            if resumed:
                loop.resume()
            loop.train()
            result = _result(loop)
    finally:
        progress.stop()
    if processes.first:
        run.write_result(result)
        _tidy(run, result)
    return result


def _tidy(run: RunDirectory, result: Mapping[str, Any]) -> None:
    """A finished run needs no training states; one that diverged keeps its last good ones, to be looked into."""
    if result["stopped"] != "diverged":
        remove_states(run.path)


def _result(loop: Loop) -> dict[str, Any]:
    """Evaluate the best weights under both protocols; the outcome as result.json has it, without times."""
    at, recipe, built = loop.position, loop.recipe, loop.built
    metrics: dict[str, Any] | None = None
    if loop.best_weights:
        if loop.processes.first:
            loop.write_best()
        built.model.load_state_dict(loop.best_weights)
        metrics = {
            protocol: {split: loop.evaluate(split, protocol) for split in ("valid", "test")} for protocol in PROTOCOLS
        }
    return {
        "dataset": recipe.dataset,
        "cell": recipe.cell,
        "recipe": recipe.name,
        "seed": loop.seed,
        "trained_under": recipe.protocol,
        "hidden_size": built.hidden_size,
        "parameters": built.parameters,
        "epochs": at.epoch - 1,
        "best_epoch": at.best_epoch,
        "steps": at.step,
        "stopped": at.stopped,
        "message": at.message,
        "metric": loop.task.metric,
        "metrics": metrics,
        "published": None if recipe.published is None else asdict(recipe.published),
        "settings": recipe.values(),
    }


def _cell_hash(recipe: Recipe) -> str | None:
    """Of the file of the user's own cell, if the recipe's is one."""
    return None if recipe.own_cell is None else sha256_of(Path(recipe.own_cell.rpartition(":")[0]))

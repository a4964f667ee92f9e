"""The best weights of a run: loaded, and measured."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ungated.cells.cell import Cell
from ungated.lab.errors import CheckpointError
from ungated.lab.tasks.task import PROTOCOLS, Task, device_of
from ungated.lab.tasks.task import Progress as Done
from ungated.lab.training.build import build_model, build_task, choose_device
from ungated.lab.training.checkpoint import differing
from ungated.lab.training.progress import Progress
from ungated.lab.training.randomness import repeatable_kernels
from ungated.lab.training.recipe import Recipe
from ungated.lab.training.run import RunDirectory


def load_model(
    run: RunDirectory,
    *,
    cell: str | type[Cell] | None = None,
    device: str | torch.device = "cpu",
    data_dir: str | Path | None = None,
) -> tuple[nn.Module, Task, Recipe]:
    """The run's model with its best weights, in evaluation mode, its task on the data, and its recipe.

    cell: the user's own cell (FILE.py:Class or the class) where the run was trained with one.
    Raises RunError, RecipeError, DataError, UsageError, and CheckpointError where the weights are damaged, are not
    there yet, or do not fit the data (another vocabulary).
    """
    chosen = choose_device(device)
    recipe = Recipe.from_toml(run.read_recipe(), cell=cell, where=str(run.path / "recipe.toml"))
    weights, description = run.read_best()
    task = build_task(recipe, data_dir)
    if different := differing(description["data"], task.signature()):
        raise CheckpointError(f"the weights of {run} were trained on other data: {different}")
    with torch.random.fork_rng(devices=[]):  # the initial weights are not used, so nothing drawn for them counts
        model = build_model(recipe, task, description["hidden_size"])
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights of {run} do not fit its recipe's model: {error}") from error
    return model.to(chosen).eval(), task, recipe


def evaluate_run(
    run: RunDirectory,
    *,
    cell: str | type[Cell] | None = None,
    device: str | torch.device = "cpu",
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Metrics of the run's best weights as {protocol: {"valid": {...}, "test": {...}}}, None for what is not finite.

    On the machine that trained it these are result.json's own. Raises as `load_model`.
    """
    progress = progress or Progress()
    chosen = choose_device(device)
    with repeatable_kernels(chosen):
        model, task, recipe = load_model(run, cell=cell, device=chosen, data_dir=data_dir)
        metrics: dict[str, Any] = {}
        for protocol in PROTOCOLS:
            metrics[protocol] = {}
            for split in ("valid", "test"):
                shown = partial(progress.evaluating, split)
                metrics[protocol][split] = measure(model, task, recipe, split, protocol, shown)
    progress.stop()
    return metrics


def measure(
    model: nn.Module, task: Task, recipe: Recipe, split: str, protocol: str, shown: Done | None = None
) -> dict[str, float | None]:
    """The task's metrics on one split, in the recipe's precision; None for what is not finite."""
    with autocast(recipe, device_of(model)):
        metrics = task.evaluate(model, split, protocol, shown)
    return {name: finite(value) for name, value in metrics.items()}


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The precision in which the recipe runs its model."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.training.autocast == "bfloat16")


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity; None stands for them."""
    return value if math.isfinite(value) else None

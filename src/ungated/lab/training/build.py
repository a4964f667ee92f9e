"""From a recipe to data, task and model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ungated.lab.errors import LabError, RecipeError, UsageError
from ungated.lab.tasks import TASKS
from ungated.lab.tasks.task import Task
from ungated.lab.training.randomness import seed_everything
from ungated.lab.training.recipe import Recipe
from ungated.rnn import RNN
from ungated.sizing import count_parameters, size_for


@dataclass(frozen=True)
class Built:
    """What a recipe describes, ready to train."""

    recipe: Recipe
    task: Task
    model: nn.Module
    hidden_size: int
    parameters: int
    device: torch.device


def build(
    recipe: Recipe,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    data_dir: str | Path | None = None,
    data: Any = None,
) -> Built:
    """Load the data (or take `data`, a family object of them), make task and model; seeds every random generator.

    The weights depend on the recipe's model and the seed alone, not on the device or on how the size was found.
    Raises RecipeError, UsageError (device), DataError.
    """
    chosen = choose_device(device)
    task = build_task(recipe, data_dir, data=data)
    hidden_size, parameters = model_size(recipe, task)
    seed_everything(seed)
    model = build_model(recipe, task, hidden_size).to(chosen)
    return Built(recipe, task, model, hidden_size, parameters, chosen)


def build_task(recipe: Recipe, data_dir: str | Path | None = None, *, data: Any = None) -> Task:
    """The recipe's task on its data, loaded unless given. Raises RecipeError, UsageError, DataError."""
    if data is None:
        data = recipe.data_set.load(data_dir, recipe.data)
    kind = TASKS[recipe.kind]
    return kind(data, recipe.task, batch_size=recipe.training.batch_size, protocol=recipe.protocol)


def model_size(recipe: Recipe, task: Task) -> tuple[int, int]:
    """Hidden size and number of parameters of the whole model; nothing is allocated and no random number drawn.

    The recipe's hidden_size, where it has one, goes before its budget. Raises RecipeError for a budget that is too
    small.
    """
    size = recipe.model.hidden_size
    if size is None:
        assert recipe.model.parameters is not None
        try:
            size = size_for(lambda hidden_size: build_model(recipe, task, hidden_size), recipe.model.parameters)
        except ValueError as error:
            raise RecipeError(f"model.parameters: {error}") from error
    with torch.device("meta"):
        return size, count_parameters(build_model(recipe, task, size))


def build_model(recipe: Recipe, task: Task, hidden_size: int) -> nn.Module:
    """The recipe's model with this hidden size, freshly initialised. Raises RecipeError."""

    def make_rnn(input_size: int) -> RNN:
        return RNN(
            recipe.cell_class,
            input_size,
            hidden_size,
            recipe.model.num_layers,
            dropout=recipe.model.dropout,
            bidirectional=recipe.model.bidirectional,
            **recipe.cell_options,
        )

    try:
        return task.model(make_rnn, recipe.head)
    except LabError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(f"a model of {recipe.name} with hidden size {hidden_size} cannot be made: {error}") from error


def choose_device(device: str | torch.device) -> torch.device:
    """The device of that name; "cuda" is this process's own under torchrun. Raises UsageError if there is none such."""
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f'there is no device "{device}": use cpu or cuda') from error
    # Others have random generators of their own, which a training state would have to keep.
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f'runs on a device "{device}" are not supported: use cpu or cuda')
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f'the device "{device}" cannot be used: torch finds no GPU here; use --device cpu')
        index = chosen.index if chosen.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise UsageError(f'the device "cuda:{index}" cannot be used: there are {torch.cuda.device_count()} GPUs')
        return torch.device("cuda", index)
    return torch.device("cpu")

"""The recipes of the package: complete, sourced, and of the published sizes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ungated.cells import CELLS
from ungated.lab.data import DATASETS
from ungated.lab.data.families import (
    ClassificationData,
    CopyData,
    Examples,
    Family,
    LanguageData,
    MusicData,
    RegressionData,
)
from ungated.lab.tasks import TASKS
from ungated.lab.training.build import build_model, build_task, model_size
from ungated.lab.training.recipe import Recipe, cells_of, load_recipe, recipe_names
from ungated.sizing import count_parameters

SIZES = tomllib.loads((Path(__file__).parent / "published_sizes.toml").read_text())

#: Vocabulary sizes by data set and stream.
SYMBOLS = {
    ("ptb-word", "standard"): 10_000,
    ("ptb-word", "paper"): 9_650,
    ("ptb-char", "standard"): 50,
    ("ptb-char", "paper"): 51,
    ("enwik8", "standard"): 205,
    ("enwik8", "paper"): 207,
    ("text8", "standard"): 27,
    ("text8", "paper"): 29,
}


def stand_in(recipe: Recipe) -> Family:
    """Data of the recipe's kind and vocabulary, and just long enough."""
    kind = DATASETS[recipe.dataset].kind
    if kind == "music":
        songs = [np.ones((3, 88), dtype=np.uint8)]
        return MusicData(songs, songs, songs)
    if kind == "language":
        stream = getattr(recipe.data, "stream", "standard")
        symbols = SYMBOLS.get((recipe.dataset, stream), 100)
        unit = "word" if "word" in recipe.dataset else "char"
        ids = torch.zeros((recipe.task.window + 1) * recipe.training.batch_size + 1, dtype=torch.int64)
        return LanguageData(ids, ids, ids, list(range(symbols)), unit, stream)

    def examples(inputs: Tensor, targets: Tensor) -> Examples:
        return Examples(inputs, targets)

    if kind == "classification":
        labels = torch.zeros(1, dtype=torch.int64)
        vocabulary = getattr(recipe.data, "vocabulary_size", None)
        inputs = torch.zeros(1, 4, 1) if vocabulary is None else torch.zeros(1, 4, dtype=torch.int64)
        part = examples(inputs, labels)
        return ClassificationData(part, part, part, 2 if vocabulary else 10, vocabulary)
    if kind == "regression":
        part = examples(torch.zeros(1, 4, 2), torch.zeros(1, 1))
        return RegressionData(part, part, part)
    ids = torch.ones(1, 4, dtype=torch.int64)
    part = examples(ids, ids)
    return CopyData(part, part, part, 10)


def load(name: str, overrides: list[str]) -> tuple[Recipe, Any]:
    recipe = load_recipe(name, None, overrides)
    return recipe, build_task(recipe, data=stand_in(recipe))


def parameters(recipe: Recipe, task: Any, hidden_size: int) -> int:
    with torch.device("meta"):
        return count_parameters(build_model(recipe, task, hidden_size))


def test_every_data_set_has_a_recipe_for_every_cell():
    assert {name: cells_of(name) for name in DATASETS} == {name: sorted(CELLS) for name in DATASETS}


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_is_complete_and_sourced(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.kind in TASKS
    written = [key for key, origin in recipe.origin.items() if origin == "default" and recipe.values()[key] is not None]
    assert written == [], "a recipe is complete: nothing is left to a default but what is none"
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    if recipe.published is not None:
        assert recipe.published.metric in ("nll_per_frame", "perplexity", "bits_per_char", "accuracy")
        assert "arXiv" in recipe.published.source or "README" in recipe.published.source
        assert 0 < recipe.published.value < (1 if recipe.published.metric == "accuracy" else 200)


@pytest.mark.parametrize("name", sorted({*recipe_names()} - {row[0] for row in SIZES["recipes"] if not row[1]}))
def test_recipe_builds_within_its_budget(name):
    recipe, task = load(name, [])
    size, count = model_size(recipe, task)
    assert count == parameters(recipe, task, size)
    if recipe.model.hidden_size is None:
        assert recipe.model.parameters is not None
        assert count <= recipe.model.parameters < parameters(recipe, task, size + 1)


@pytest.mark.parametrize(("name", "overrides", "size", "count"), SIZES["recipes"])
def test_published_sizes(name, overrides, size, count):
    recipe, task = load(name, overrides)
    assert recipe.published is None or recipe.published.metric == task.metric
    assert parameters(recipe, task, size) == count
    if recipe.model.hidden_size is None:
        assert recipe.model.parameters is not None
        assert count <= recipe.model.parameters < parameters(recipe, task, size + 1)
    else:
        assert recipe.model.hidden_size == size


@pytest.mark.parametrize("cell", ["rru", "gru", "lstm", "mogrifier"])
@pytest.mark.parametrize("name", ["nottingham", "ptb-word"])
def test_sizes_of_the_robustness_grids(name, cell):
    grid = SIZES["grids"][name]
    recipe, task = load(f"{name}/{cell}", SIZES["grids"]["settings"][cell])
    for budget, size in zip(grid["budgets"], grid[cell], strict=True):
        assert parameters(recipe, task, size) <= round(budget * 1e6) < parameters(recipe, task, size + 1)


@pytest.mark.parametrize("name", [name for name in DATASETS if cells_of(name)])
def test_cells_of_a_set_of_ours_share_budget_and_optimizer(name):
    recipes = [load_recipe(name, cell) for cell in cells_of(name)]
    if any(recipe.published is not None for recipe in recipes):
        return
    assert len({recipe.model.parameters for recipe in recipes}) == 1

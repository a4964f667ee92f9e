"""From recipe to model: sizes, seeds, devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ungated.cells.cell import Cell
from ungated.lab.data import DATASETS
from ungated.lab.errors import RecipeError, UsageError
from ungated.lab.training.build import build, build_task, choose_device, model_size
from ungated.lab.training.recipe import Recipe
from ungated.sizing import count_parameters

from ...faults import tiny

CUDA = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _tiny_data() -> Iterator[None]:
    before = dict(DATASETS)
    tiny.register()
    yield
    DATASETS.clear()
    DATASETS.update(before)


def recipe(**settings: object) -> Recipe:
    return Recipe.from_toml(tiny.MUSIC).override({f"model.{key}": value for key, value in settings.items()})


def weights(made: Recipe, seed: int) -> dict[str, torch.Tensor]:
    return build(made, seed=seed).model.state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_weights_depend_on_the_seed_and_not_on_how_the_size_was_found() -> None:
    by_size = weights(recipe(), 1)
    assert equal(by_size, weights(recipe(), 1))
    assert not equal(by_size, weights(recipe(), 2))
    size, parameters = model_size(recipe(), build_task(recipe()))
    by_budget = recipe(hidden_size=None, parameters=parameters)
    torch.manual_seed(99)
    assert equal(by_size, weights(by_budget, 1))
    assert size == 5


def test_the_budget_is_kept_and_filled() -> None:
    made = build(recipe(hidden_size=None, parameters=1000), seed=0)
    assert made.parameters == count_parameters(made.model) <= 1000
    larger = recipe(hidden_size=made.hidden_size + 1)
    assert model_size(larger, made.task)[1] > 1000


def test_a_hidden_size_goes_before_a_budget() -> None:
    both = tiny.MUSIC.replace("hidden_size = 5", "hidden_size = 3\nparameters = 1000")
    assert build(Recipe.from_toml(both), seed=0).hidden_size == 3


def test_looking_for_the_size_draws_no_random_number() -> None:
    task = build_task(recipe())
    before = torch.get_rng_state()
    model_size(recipe(hidden_size=None, parameters=5000), task)
    assert torch.equal(before, torch.get_rng_state())


def test_a_budget_that_is_too_small_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.parameters.*10 parameters is too small"):
        build(recipe(hidden_size=None, parameters=10), seed=0)


class Elman(Cell):
    def __init__(self, input_size: int, hidden_size: int, *, gain: float = 1.0) -> None:
        super().__init__(input_size, hidden_size)
        self.W = torch.nn.Parameter(gain * torch.randn(input_size + hidden_size, hidden_size))

    def step(self, drive: torch.Tensor, state: torch.Tensor, noise: object = None) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.tanh(torch.cat([drive, state], dim=-1) @ self.W)
        return h, h


def test_a_cell_of_ones_own_is_built() -> None:
    text = tiny.MUSIC.replace('name = "gru"\nrecurrent_dropout = 0.3', 'name = "elman"')
    made = build(Recipe.from_toml(text, cell=Elman), seed=0)
    assert any(isinstance(module, Elman) for module in made.model.modules())


@pytest.mark.parametrize("name", ["banana", "cpu:x", "meta", "mps", "cuda:99" if CUDA else "cuda"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f'device "{name}"'):
        choose_device(name)


def test_under_torchrun_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert choose_device("cuda") == torch.device("cuda", 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="there are 4 GPUs"):
        choose_device("cuda:4")

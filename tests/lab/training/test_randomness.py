"""Random generators: the same draws after the state is put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ungated.lab.training.checkpoint import load_state, save_state
from ungated.lab.training.randomness import random_state, restore_random_state, seed_everything

CPU = torch.device("cpu")


def draw() -> list[float]:
    return [random.gauss(), np.random.normal(), torch.randn(()).item(), torch.rand(3).sum().item()]  # noqa: NPY002


@pytest.fixture(autouse=True)
def generators_as_before() -> Iterator[None]:
    before = random_state(CPU)
    yield
    restore_random_state(before, CPU)


def test_the_seed_decides() -> None:
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(2**40)
    assert draw() != first


def test_generators_go_on_from_a_saved_state(tmp_path: Path) -> None:
    seed_everything(1)
    draw()  # the second normal of a pair is kept by Python and NumPy: it is part of the state
    save_state(tmp_path, {"random": random_state(CPU)})
    expected = [draw() for _ in range(3)]
    draw()
    loaded = load_state(tmp_path)
    assert loaded is not None
    restore_random_state(loaded.state["random"], CPU)
    assert [draw() for _ in range(3)] == expected

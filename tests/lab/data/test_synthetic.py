"""The synthetic memory tasks: every sequence obeys the rule of its task, and always the same are drawn."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from ungated.lab.data import DATASETS, CopyData, RegressionData
from ungated.lab.data.families import Examples
from ungated.lab.errors import RecipeError


def load(name: str, **options: object) -> RegressionData | CopyData:
    data = DATASETS[name].load(options=DATASETS[name].options(**options))
    assert isinstance(data, RegressionData | CopyData)
    return data


def parts(data: RegressionData | CopyData) -> list[Examples]:
    return [data.train, data.valid, data.test]


@pytest.mark.parametrize("length", [2, 3, 50])
def test_adding(length: int) -> None:
    data = load("adding", length=length, train=300, valid=20, test=10)
    assert [len(part) for part in parts(data)] == [300, 20, 10]
    for part in parts(data):
        values, marks = part.inputs.double().unbind(-1)
        assert part.inputs.shape[1:] == (length, 2)
        assert ((marks == 0) | (marks == 1)).all()
        half = length // 2
        assert (marks[:, :half].sum(1) == 1).all()
        assert (marks[:, half:].sum(1) == 1).all()
        assert ((values >= 0) & (values <= 1)).all()
        torch.testing.assert_close(part.targets.double(), (values * marks).sum(1, keepdim=True), atol=1e-6, rtol=0)


def test_adding_baseline_is_one_sixth() -> None:
    targets = load("adding", length=10).train.targets
    assert abs(((targets - 1) ** 2).mean().item() - 1 / 6) < 0.005


@pytest.mark.parametrize(("length", "delay", "symbols"), [(10, 100, 8), (1, 1, 1), (3, 2, 5)])
def test_copy_memory(length: int, delay: int, symbols: int) -> None:
    data = load("copy-memory", length=length, delay=delay, symbols=symbols, train=30, valid=2, test=2)
    assert isinstance(data, CopyData)
    assert data.symbols == symbols + 2
    for part in parts(data):
        assert part.inputs.shape == part.targets.shape == (len(part), 2 * length + delay)
        kept, rest = part.inputs[:, :length], part.inputs[:, length:]
        assert ((kept >= 1) & (kept <= symbols)).all()
        sign = torch.zeros_like(rest)
        sign[:, delay - 1] = symbols + 1
        assert torch.equal(rest, sign)
        assert torch.equal(part.targets[:, -length:], kept)
        assert (part.targets[:, :-length] == 0).all()


@pytest.mark.parametrize("name", ["adding", "copy-memory"])
def test_same_seed_same_data_other_seed_other_data(name: str) -> None:
    first, again, other = (load(name, train=50, valid=50, test=50, seed=seed) for seed in (0, 0, 1))
    drawn = [part.inputs for data in (first, other) for part in parts(data)]
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(parts(first), parts(again), strict=True))
    assert all(not torch.equal(drawn[i], drawn[j]) for i in range(6) for j in range(i))


#: SHA-256 of the inputs of the ten test sequences of seed 0: what is drawn may never change.
DRAWN = {
    "adding": "e9fb400b850363288b835a77b9bb0a06ec1d8a7bfd69aeac9489e31de714967d",
    "copy-memory": "19c643a1ba779dd08275f38c45beed07e538f238888ef2c1e08c91a41d68b9f0",
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_is_fixed(name: str) -> None:
    inputs = load(name, test=10).test.inputs.numpy()
    assert hashlib.sha256(np.ascontiguousarray(inputs).astype("<f4").tobytes()).hexdigest() == DRAWN[name]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adding", {"length": 1}),
        ("adding", {"train": 0}),
        ("adding", {"seed": -1}),
        ("adding", {"seed": 2**32}),
        ("copy-memory", {"delay": 0}),
        ("copy-memory", {"length": True}),
        ("copy-memory", {"symbols": 2.5}),
    ],
)
def test_senseless_sizes_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(options))):
        DATASETS[name].options(**options)

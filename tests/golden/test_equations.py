"""Every cell equals its NumPy transcription to 1e-12, with all its options, over several steps and shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ungated.cells import CELLS
from ungated.scan import scan

from .cases import CASES, as_numpy, as_torch, masks_of, parameters_of, random_state

SHAPES = [(6, 3, 4, 5), (1, 1, 1, 1), (9, 2, 1, 3), (4, 5, 8, 2)]  # T, B, m, n
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def shape_id(shape: tuple[int, ...]) -> str:
    return "-".join(map(str, shape))


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("path", ["reference", "auto"])
def test_scan_equals_transcription(path: str, name: str, shape: tuple[int, int, int, int]) -> None:
    T, B, m, n = shape
    case = CASES[name]
    cell = case.build(m, n)
    rng = np.random.default_rng(1)
    x, state = rng.normal(size=(T, B, m)), random_state(cell, B, rng)
    noise = cell.noise(T, B)
    expected = case.golden(cell, parameters_of(cell), x, state, masks_of(noise))

    with torch.no_grad():
        drive = cell.project(torch.from_numpy(x), noise)
        features, last = scan(cell, drive, as_torch(state), noise, backend=path)
        output = cell.readout(features)

    for got, want in zip((output.numpy(), *as_numpy(last)), expected, strict=True):
        np.testing.assert_allclose(got, want, **EXACT)


@pytest.mark.parametrize("name", [name for name in CASES if "mask" not in name and "dropout" not in name])
def test_streaming_from_the_initial_state_equals_transcription(name: str) -> None:
    T, B, m, n = 5, 2, 3, 4
    case = CASES[name]
    cell = case.build(m, n, seed=2)
    x = np.random.default_rng(3).normal(size=(T, B, m))
    start = as_numpy(cell.initial_state(B))
    expected = case.golden(cell, parameters_of(cell), x, start, None)

    state, outputs = None, []
    with torch.no_grad():
        for t in range(T):
            y, state = cell(torch.from_numpy(x[t]), state)
            outputs.append(y.numpy())

    for got, want in zip((np.stack(outputs), *as_numpy(state)), expected, strict=True):
        np.testing.assert_allclose(got, want, **EXACT)


@pytest.mark.parametrize("name", [name for name in CASES if "mask" in name or "dropout" in name])
def test_masks_are_drawn_and_change_the_result(name: str) -> None:
    cell = CASES[name].build(3, 8)
    noise = cell.noise(4, 2)
    assert noise is not None
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        dropped, _ = scan(cell, cell.project(x, noise), cell.initial_state(2), noise)
        whole, _ = scan(cell, cell.project(x), cell.initial_state(2))
    assert not torch.allclose(dropped, whole)


def test_every_cell_has_a_transcription() -> None:
    assert {case.cell for case in CASES.values()} == set(CELLS.values())

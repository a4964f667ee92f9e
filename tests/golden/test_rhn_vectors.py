"""Worked numbers for a small RHN: n = 2, m = 3, depth 2, two time steps, with and without dropout masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ungated.cells import RHNCell
from ungated.scan import scan

from . import numpy_cells

WEIGHTS = {
    "W_H": [[0.10, -0.20], [0.30, 0.05], [-0.15, 0.25]],
    "W_T": [[-0.05, 0.15], [0.20, -0.10], [0.10, 0.30]],
    "R_H.0": [[0.50, -0.40], [0.30, 0.20]],
    "R_H.1": [[-0.30, 0.60], [0.10, -0.20]],
    "R_T.0": [[0.20, 0.10], [-0.10, 0.40]],
    "R_T.1": [[0.25, -0.35], [0.45, 0.15]],
    "b_H.0": [0.01, -0.02],
    "b_H.1": [0.03, 0.00],
    "b_T.0": [-2.0, -2.0],
    "b_T.1": [-2.0, -2.0],
}
STATE = [[0.4, -0.6]]
INPUTS = [[[1.0, -1.0, 0.5]], [[0.0, 2.0, -1.0]]]
CASES = {
    "no dropout": (None, [[0.2814861521, -0.4847351234], [0.2926334626, -0.3995086121]]),
    "z_i = (4, 0, 4), z_h = (4/3, 0)": (
        ([4.0, 0.0, 4.0], [4 / 3, 0.0]),
        [[0.3249436738, -0.4759727221], [0.2947504262, -0.4115000961]],
    ),
}


def rhn_cell(depth: int = 2) -> RHNCell:
    cell = RHNCell(3, 2, depth=depth).double()
    state = {name: torch.tensor(values, dtype=torch.float64) for name, values in WEIGHTS.items()}
    cell.load_state_dict({name: state[name] for name in cell.state_dict()})
    return cell


@pytest.mark.parametrize("name", CASES)
def test_cell(name: str) -> None:
    masks, expected = CASES[name]
    cell = rhn_cell()
    noise = None
    if masks is not None:
        noise = tuple(torch.tensor(mask, dtype=torch.float64).expand(1, 1, 1, -1) for mask in masks)
    drive = cell.project(torch.tensor(INPUTS, dtype=torch.float64), noise)
    output, last = scan(cell, drive, torch.tensor(STATE, dtype=torch.float64), noise)
    np.testing.assert_allclose(output[:, 0].detach().numpy(), expected, rtol=0, atol=5e-11)
    torch.testing.assert_close(last, output[-1], rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_transcription(name: str) -> None:
    masks, expected = CASES[name]
    w = {key: np.array(values) for key, values in WEIGHTS.items()}
    z_i, z_h = (None, None) if masks is None else ((np.array(z),) * 2 for z in masks)
    output, _ = numpy_cells.rhn(w, np.array(INPUTS), np.array(STATE), depth=2, input_masks=z_i, state_masks=z_h)
    np.testing.assert_allclose(output[:, 0], expected, rtol=0, atol=5e-11)


def test_state_between_the_micro_steps() -> None:
    cell = rhn_cell(depth=1)  # stops after micro-step 1
    y, _ = cell(torch.tensor(INPUTS[0], dtype=torch.float64), torch.tensor(STATE, dtype=torch.float64))
    np.testing.assert_allclose(y.detach().numpy(), [[0.3276266053, -0.5717906865]], rtol=0, atol=5e-11)

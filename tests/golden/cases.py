"""Which transcription speaks for which cell with which options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ungated.cells import GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
from ungated.cells.cell import Cell, Noise

from . import numpy_cells as np_cells
from .numpy_cells import Array, Parameters

Golden = Callable[[Cell, Parameters, Array, tuple[Array, ...], Any], tuple[Array, ...]]


def rru(cell: Cell, w: Parameters, x: Array, state: tuple[Array, ...], masks: Any) -> tuple[Array, ...]:
    options = {"normalize": cell.normalize, "output_relu": cell.output_relu, "relu_layers": cell.relu_layers}
    return np_cells.rru(w, x, *state, **options, residual=cell.residual != "one", masks=masks)


def gru(cell: Cell, w: Parameters, x: Array, state: tuple[Array, ...], masks: Any) -> tuple[Array, ...]:
    run = {"before": np_cells.gru_reset_before, "after": np_cells.gru_reset_after}[cell.reset]
    return run(w, x, *state, masks)


def lstm(cell: Cell, w: Parameters, x: Array, state: tuple[Array, ...], masks: Any) -> tuple[Array, ...]:
    return np_cells.lstm(w, x, *state, forget_bias=cell.forget_bias, masks=masks)


def mogrifier(cell: Cell, w: Parameters, x: Array, state: tuple[Array, ...], masks: Any) -> tuple[Array, ...]:
    return np_cells.mogrifier(w, x, *state, rounds=cell.rounds, masks=masks)


def rhn(cell: Cell, w: Parameters, x: Array, state: tuple[Array, ...], masks: Any) -> tuple[Array, ...]:
    if masks is None:
        return np_cells.rhn(w, x, *state, depth=cell.depth)
    z_i, z_h = (mask[0] for mask in masks)
    return np_cells.rhn(w, x, *state, depth=cell.depth, input_masks=(z_i[0], z_i[-1]), state_masks=(z_h[0], z_h[-1]))


@dataclass(frozen=True)
class Case:
    cell: type[Cell]
    golden: Golden
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, m: int, n: int, seed: int = 0) -> Cell:
        """The cell in float64 with every parameter far from its initial value (Z = 0 would hide W_c)."""
        torch.manual_seed(seed)
        cell = self.cell(m, n, **self.options).double()
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.normal_(std=0.7)
        return cell


CASES = {
    "rru": Case(RRUCell, rru),
    "rru-relu-layers-3": Case(RRUCell, rru, {"relu_layers": 3, "expansion": 0.8}),
    "rru-output-size": Case(RRUCell, rru, {"output_size": 3, "expansion": 1.3}),
    "rru-no-normalisation": Case(RRUCell, rru, {"normalize": False, "expansion": 0.7}),
    "rru-scalar-rezero": Case(RRUCell, rru, {"rezero": "scalar"}),
    "rru-output-relu": Case(RRUCell, rru, {"output_relu": True, "output_size": 5}),
    "rru-residual-one": Case(RRUCell, rru, {"residual": "one"}),
    "rru-residual-0.95": Case(RRUCell, rru, {"residual": 0.95}),
    "rru-dropout": Case(RRUCell, rru, {"recurrent_dropout": 0.4, "relu_layers": 2, "output_size": 2}),
    "gru": Case(GRUCell, gru),
    "gru-dropout": Case(GRUCell, gru, {"recurrent_dropout": 0.3}),
    "gru-reset-after": Case(GRUCell, gru, {"reset": "after"}),
    "gru-reset-after-dropout": Case(GRUCell, gru, {"reset": "after", "recurrent_dropout": 0.3}),
    "lstm": Case(LSTMCell, lstm),
    "lstm-forget-bias": Case(LSTMCell, lstm, {"forget_bias": -2.5}),
    "lstm-dropout": Case(LSTMCell, lstm, {"recurrent_dropout": 0.3}),
    "mogrifier": Case(MogrifierLSTMCell, mogrifier, {"rank": 3}),
    "mogrifier-no-rounds": Case(MogrifierLSTMCell, mogrifier, {"rounds": 0}),
    "mogrifier-1-round": Case(MogrifierLSTMCell, mogrifier, {"rounds": 1, "rank": 2}),
    "mogrifier-6-rounds-rank-above-size": Case(MogrifierLSTMCell, mogrifier, {"rounds": 6, "rank": 50}),
    "mogrifier-dropout": Case(MogrifierLSTMCell, mogrifier, {"recurrent_dropout": 0.3, "rank": 4}),
    "rhn-depth-1": Case(RHNCell, rhn, {"depth": 1}),
    "rhn-depth-4": Case(RHNCell, rhn, {"depth": 4}),
    "rhn-masks": Case(RHNCell, rhn, {"depth": 3, "input_dropout": 0.5, "state_dropout": 0.3}),
    "rhn-masks-untied": Case(
        RHNCell, rhn, {"depth": 3, "input_dropout": 0.5, "state_dropout": 0.3, "tie_masks": False}
    ),
    "rhn-state-mask-only": Case(RHNCell, rhn, {"depth": 2, "state_dropout": 0.5}),
}


def parameters_of(cell: Cell) -> Parameters:
    return {name: value.detach().numpy().copy() for name, value in cell.named_parameters()}


def masks_of(noise: Noise) -> Any:
    """The cell's masks as NumPy arrays, in the cell's own structure."""
    if noise is None:
        return None
    if isinstance(noise, tuple):
        return tuple(mask.numpy() for mask in noise)
    return noise.numpy()


def random_state(cell: Cell, batch: int, rng: np.random.Generator) -> tuple[Array, ...]:
    tensors = 2 if isinstance(cell.initial_state(1), tuple) else 1
    return tuple(rng.normal(size=(batch, cell.hidden_size)) for _ in range(tensors))


def as_torch(state: tuple[Array, ...]) -> Any:
    tensors = tuple(torch.from_numpy(part) for part in state)
    return tensors if len(tensors) > 1 else tensors[0]


def as_numpy(state: Any) -> tuple[Array, ...]:
    parts = state if isinstance(state, tuple) else (state,)
    return tuple(part.detach().numpy() for part in parts)

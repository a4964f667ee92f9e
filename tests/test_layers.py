"""The named layers: RRU, RHN, GRU, LSTM, MogrifierLSTM."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import ungated
from ungated import CELLS, GRU, LSTM, RHN, RNN, RRU, Cell, MogrifierLSTM

LAYERS: dict[str, type[RNN]] = {"rru": RRU, "rhn": RHN, "gru": GRU, "lstm": LSTM, "mogrifier": MogrifierLSTM}

#: Every option of every cell, away from its default.
OPTIONS: dict[str, dict[str, Any]] = {
    "rru": {
        "output_size": 7,
        "expansion": 1.5,
        "relu_layers": 2,
        "recurrent_dropout": 0.25,
        "normalize": False,
        "rezero": "scalar",
        "output_relu": True,
        "residual": 0.95,
    },
    "rhn": {
        "depth": 3,
        "transform_bias": -4.0,
        "init_scale": 0.1,
        "input_dropout": 0.25,
        "state_dropout": 0.125,
        "tie_masks": False,
    },
    "gru": {"recurrent_dropout": 0.25, "reset": "after", "gate_bias": 0.5},
    "lstm": {"recurrent_dropout": 0.25, "forget_bias": -2.0},
    "mogrifier": {"rounds": 4, "rank": 6, "recurrent_dropout": 0.25},
}


def test_every_cell_has_a_layer() -> None:
    assert LAYERS.keys() == CELLS.keys() == OPTIONS.keys()


def options_of(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", LAYERS)
def test_options_and_defaults_are_those_of_the_cell(name: str) -> None:
    assert options_of(LAYERS[name]) == options_of(CELLS[name])
    assert OPTIONS[name].keys() == options_of(CELLS[name]).keys()
    assert all(OPTIONS[name][key] != default for key, default in options_of(CELLS[name]).items())


@pytest.mark.parametrize("name", LAYERS)
def test_every_option_reaches_every_cell(name: str) -> None:
    layer = LAYERS[name](5, 6, 2, bidirectional=True, **OPTIONS[name])
    assert len(layer.cells) == 4
    for cell in layer.cells:
        assert type(cell) is CELLS[name]
        for option, value in OPTIONS[name].items():
            assert getattr(cell, option) == value


@pytest.mark.parametrize("name", LAYERS)
def test_is_the_generic_layer_of_its_cell(name: str) -> None:
    torch.manual_seed(0)
    named = LAYERS[name](5, 6, 2, batch_first=True, dropout=0.5, bidirectional=True, dtype=torch.float64)
    torch.manual_seed(0)
    generic = RNN(CELLS[name], 5, 6, 2, batch_first=True, dropout=0.5, bidirectional=True, dtype=torch.float64)
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    for layer in (named, generic):
        assert (layer.batch_first, layer.dropout, layer.bidirectional) == (True, 0.5, True)
        layer.eval()
    torch.testing.assert_close(named(x), generic(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_takes_the_place_of_nn_lstm(name: str) -> None:
    """Positional sizes, the keyword arguments, the attributes and the call of torch.nn.LSTM."""
    for make in (nn.LSTM, LAYERS[name]):
        layer = make(5, 6, 2, batch_first=True, dropout=0.1, bidirectional=True, device="cpu", dtype=torch.float64)
        assert (layer.input_size, layer.hidden_size, layer.num_layers) == (5, 6, 2)
        y, state = layer(torch.randn(3, 4, 5, dtype=torch.float64))
        assert y.shape[:2] == (3, 4)
        assert (state if isinstance(state, torch.Tensor) else state[0]).shape == (4, 3, 6)


@pytest.mark.parametrize("name", LAYERS)
def test_errors_name_the_layer(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{LAYERS[name].__name__}: x should have 5 features"):
        LAYERS[name](5, 6)(torch.zeros(3, 4, 7))
    with pytest.raises(TypeError, match="recurrent_dropuot"):
        LAYERS[name](5, 6, recurrent_dropuot=0.1)


def test_rru_output_size_is_what_the_next_layer_reads() -> None:
    layer = RRU(5, 6, 3, output_size=7, bidirectional=True)
    assert [cell.input_size for cell in layer.cells] == [5, 5, 14, 14, 14, 14]
    assert layer.output_size == 14
    y, state = layer(torch.zeros(3, 4, 5))
    assert y.shape == (3, 4, 14)
    assert state.shape == (6, 4, 6)


@pytest.mark.parametrize("name", LAYERS)
def test_initial_state_is_stacked_from_the_cells(name: str) -> None:
    layer = LAYERS[name](5, 16, 3)
    state = layer.initial_state(2)
    for part in state if isinstance(state, tuple) else (state,):
        assert part.shape == (3, 2, 16)
        expected = torch.zeros(3, 2, 16)
        if name == "rru":
            expected[..., 0] = 1.0  # sqrt(16) / 4
        assert torch.equal(part, expected)


def test_a_function_may_make_the_cells() -> None:
    made: list[Cell] = []

    def shallow_then_deep(input_size: int, hidden_size: int) -> Cell:
        made.append(ungated.RHNCell(input_size, hidden_size, depth=len(made) + 1))
        return made[-1]

    layer = RNN(shallow_then_deep, 5, 6, 3)
    assert [cell.depth for cell in layer.cells] == [1, 2, 3]
    assert layer(torch.zeros(3, 4, 5))[0].shape == (3, 4, 6)


def test_modes_reach_the_cells() -> None:
    layer = GRU(5, 6, recurrent_dropout=0.5)
    assert all(cell.training for cell in layer.cells)
    assert not any(cell.training for cell in layer.eval().cells)

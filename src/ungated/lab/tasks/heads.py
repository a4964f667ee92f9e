"""The linear map from a recurrent layer to predictions."""

from __future__ import annotations

from torch import Tensor, nn

from ungated.cells.cell import State


def output_layer(features: int, outputs: int) -> nn.Linear:
    """Linear map with a Glorot uniform matrix and a zero bias, as every model of the RRU paper has."""
    layer = nn.Linear(features, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def embedding_layer(symbols: int, size: int) -> nn.Embedding:
    """Table of `symbols` vectors uniform in (-1, 1), as every model of the RRU paper has."""
    layer = nn.Embedding(symbols, size)
    nn.init.uniform_(layer.weight, -1.0, 1.0)
    return layer


def top_state(state: State, directions: int) -> Tensor:
    """h of the top layer, directions side by side: state of an RNN (layers * D, B, n) or a tuple of such -> (B, D * n).

    It is the state also where a cell's output is something else (RRU), and h, not c, where there are two (LSTM).
    """
    h = state if isinstance(state, Tensor) else state[0]
    return h[-directions:].transpose(0, 1).flatten(1)

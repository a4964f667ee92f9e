"""Recurrent networks for PyTorch: RRU, RHN, GRU, LSTM and Mogrifier LSTM as drop-in layers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ungated.cells import CELLS, Cell, GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
    from ungated.layers import GRU, LSTM, RHN, RRU, MogrifierLSTM
    from ungated.rnn import RNN
    from ungated.scan import backend
    from ungated.sizing import count_parameters, size_for
    from ungated.stream import Stream

__version__ = "0.1.0"

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "RHN",
    "RNN",
    "RRU",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "MogrifierLSTM",
    "MogrifierLSTMCell",
    "RHNCell",
    "RRUCell",
    "Stream",
    "backend",
    "count_parameters",
    "size_for",
]


def __getattr__(name: str) -> Any:
    """A public name, on first use: torch takes over a second to import, and `ungated --help` needs none of it."""
    if name in __all__:
        for room in ("cells", "layers", "rnn", "scan", "sizing", "stream"):
            value = getattr(import_module(f"ungated.{room}"), name, None)
            if value is not None:
                globals()[name] = value
                return value
    raise AttributeError(f"module 'ungated' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

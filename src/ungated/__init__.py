"""Recurrent networks for PyTorch: RRU, RHN, GRU, LSTM and Mogrifier LSTM as drop-in layers."""

from ungated.cells import CELLS, Cell, GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
from ungated.layers import GRU, LSTM, RHN, RNN, RRU, MogrifierLSTM
from ungated.scan import backend, scan
from ungated.sizing import count_parameters, size_for

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
    "backend",
    "count_parameters",
    "scan",
    "size_for",
]

"""The cells: one file a paper, read beside its equations."""

from ungated.cells.cell import Cell
from ungated.cells.gru import GRUCell
from ungated.cells.lstm import LSTMCell
from ungated.cells.mogrifier import MogrifierLSTMCell
from ungated.cells.rhn import RHNCell
from ungated.cells.rru import RRUCell

CELLS: dict[str, type[Cell]] = {
    "rru": RRUCell,
    "rhn": RHNCell,
    "gru": GRUCell,
    "lstm": LSTMCell,
    "mogrifier": MogrifierLSTMCell,
}

__all__ = ["CELLS", "Cell", "GRUCell", "LSTMCell", "MogrifierLSTMCell", "RHNCell", "RRUCell"]

"""Recurrent networks for PyTorch: RRU, RHN, GRU, LSTM and Mogrifier LSTM as drop-in layers."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """A public name, on first use: torch takes over a second to import, and `ungated --help` needs none of it."""
    if name in __all__:
        for room in ("cells", "layers", "scan", "sizing"):
            value = getattr(import_module(f"ungated.{room}"), name, None)
            if value is not None:
                globals()[name] = value
                return value
    raise AttributeError(f"module 'ungated' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(ModuleType):
    """This package's own type, for one reason: `ungated.scan` is a function, and its module has the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds a submodule to its parent when the submodule is first imported.
        if name == "scan" and isinstance(value, ModuleType):
            value = value.scan
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

"""What the contract holds for: every cell of CELLS, variants whose code takes another branch, and a user's own cell."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from ungated.cells import CELLS
from ungated.cells.cell import Cell, State
from ungated.rnn import RNN


class Elman(Cell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.W_x = nn.Parameter(torch.randn(input_size, hidden_size) / input_size**0.5)
        self.W_h = nn.Parameter(torch.randn(hidden_size, hidden_size) / hidden_size**0.5)

    def project(self, x, noise=None):
        return x @ self.W_x

    def step(self, drive, state, noise=None):
        h = torch.tanh(drive + state @ self.W_h)
        return h, h


@dataclass(frozen=True)
class Entry:
    """A cell with options small enough for quick tests and large enough to do all it can."""

    name: str
    cell: type[Cell]
    options: dict[str, Any] = field(default_factory=dict)

    def layer(
        self,
        input_size: int = 3,
        hidden_size: int = 4,
        num_layers: int = 1,
        *,
        dtype: torch.dtype = torch.float64,
        dropped: bool = False,
        **options: Any,
    ) -> RNN:
        """A layer off its initial values (RRU starts with Z = 0, biases start at 0); dropped: the cell's dropout on."""
        torch.manual_seed(0)
        drops = self.dropouts() if dropped else {}
        layer = RNN(self.cell, input_size, hidden_size, num_layers, dtype=dtype, **options, **self.options, **drops)
        with torch.no_grad():
            for parameter in layer.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return layer

    def dropouts(self) -> dict[str, float]:
        """Every rate the cell's constructor knows, on."""
        return {name: 0.4 for name in inspect.signature(self.cell).parameters if name.endswith("dropout")}


SMALL: dict[str, dict[str, Any]] = {
    "rhn": {"depth": 2, "init_scale": 0.4},
    "mogrifier": {"rank": 3},
}
ENTRIES = [
    *(Entry(name, cell, SMALL.get(name, {})) for name, cell in CELLS.items()),
    Entry("rru-wide-output", CELLS["rru"], {"output_size": 5, "relu_layers": 2, "expansion": 0.9}),
    Entry("gru-reset-after", CELLS["gru"], {"reset": "after"}),
    Entry("own-cell", Elman),
]


def random_state(layer: RNN, batch: int | None = 2, scale: float = 1.0) -> State:
    """A state of the layer's structure, shape and dtype with every entry drawn; batch None: unbatched."""
    like = layer.initial_state(1 if batch is None else batch)
    if isinstance(like, tuple):
        return tuple(_random(part, batch, scale) for part in like)
    return _random(like, batch, scale)


def _random(like: Tensor, batch: int | None, scale: float) -> Tensor:
    drawn = scale * torch.randn_like(like)
    return drawn.squeeze(1) if batch is None else drawn


def parts(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def rebuilt(tensors: list[Tensor] | tuple[Tensor, ...]) -> State:
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def assert_equal(got: Any, want: Any) -> None:
    """Bit-equal tensors, states, or tuples of them; NaN equals NaN nowhere."""
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def assert_close(got: Any, want: Any, scale: float = 1.0) -> None:
    """Equal up to the rounding that another order of summation may give, relative to the largest entry.

    scale: magnitude of what entered the sums; a gate sees the absolute error of its pre-activation.
    """
    for g, w in zip(_flat(got), _flat(want), strict=True):
        unit = max(scale, 1.0) * (1e-4 if w.dtype == torch.float32 else 1e-11)
        largest = float(w.detach().abs().max()) if w.numel() else 0.0
        torch.testing.assert_close(g, w, rtol=unit, atol=unit * max(largest, 1e-30))


def _flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for item in value for leaf in _flat(item)]


def gradients(layer: RNN, *losses: Tensor, also: tuple[Tensor, ...] = ()) -> list[Tensor]:
    """Gradients of the sum of the losses for every parameter and for `also`; zeros where one is not reached."""
    targets = [*layer.parameters(), *also]
    found = torch.autograd.grad(sum(losses), targets, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, targets, strict=True)]


#: Time steps of the tests with sizes of their own: as many as a fast path needs to be taken (see test_paths).
STEPS = 4

# Sizes: mostly the edges that loops and vector units stumble over.
EDGES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 70]


@dataclass(frozen=True)
class Problem:
    """Sizes, dtype and magnitude of one draw."""

    T: int
    B: int
    I: int
    H: int
    layers: int
    dtype: torch.dtype
    scale: float

    def layer(self, entry: Entry, **options: Any) -> RNN:
        return entry.layer(self.I, self.H, self.layers, dtype=self.dtype, **options)

    def x(self) -> Tensor:
        return self.scale * torch.randn(self.T, self.B, self.I, dtype=self.dtype)


def problems(min_T: int = 1, min_B: int = 0, max_B: int = 9) -> st.SearchStrategy[Problem]:
    return st.builds(
        Problem,
        T=st.integers(min_T, 6) | st.integers(min_T, 40),
        B=st.integers(min_B, max_B),
        I=st.sampled_from(EDGES),
        H=st.sampled_from(EDGES),
        layers=st.sampled_from([1, 1, 2]),
        dtype=st.sampled_from([torch.float64, torch.float32]),
        scale=st.sampled_from([1.0, 1.0, 1e-6, 1e-3, 1e3, 1e6]),
    )


# UNGATED_DRAWS=1000: the long version, with fresh draws each time.
_draws = os.environ.get("UNGATED_DRAWS")
draws = hypothesis.settings(
    deadline=None,
    derandomize=_draws is None,
    max_examples=int(_draws or 12),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)

"""The contract of a cell: three stages, of which only the middle one depends on the previous state.

    project(x)      (T, B, input_size)  -> drive    (T, B, ...)      all time steps at once
    step(drive, s)  one time step       -> features (B, ...), s      inside the loop over time
    readout(f)      (T, B, ...)         -> output   (T, B, output)   all time steps at once

A state is a tensor (B, n) or a tuple of such tensors. Noise (dropout masks) is drawn before the loop, so
that every backend runs with the very same masks: None, a tensor or a tuple of tensors whose first dimension
is time; length 1 there means one mask for all time steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

State = Tensor | tuple[Tensor, ...]
Noise = Tensor | tuple[Tensor, ...] | None


def map_state(fn: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply `fn` to a state's tensor, or to each tensor of its tuple; the others have the same structure."""
    if isinstance(state, Tensor):
        return fn(state, *others)
    return tuple(fn(*tensors) for tensors in zip(state, *others, strict=True))


def noise_at(noise: Noise, t: int) -> Noise:
    """The masks of time step t; a mask whose time dimension is 1 holds for every step."""
    if noise is None:
        return None
    if isinstance(noise, Tensor):
        return noise[t if noise.shape[0] > 1 else 0]
    return tuple(mask[t if mask.shape[0] > 1 else 0] for mask in noise)


def check_size(name: str, value: object) -> int:
    """`value` if it is a positive int; ValueError or TypeError that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} should be an int, got {type(value).__name__} {value!r}")
    if value < 1:
        raise ValueError(f"{name} should be at least 1, got {value}")
    return value


def check_number(name: str, value: object) -> float:
    """`value` if it is a finite number; ValueError or TypeError that names the argument otherwise."""
    if not math.isfinite(number := _number(name, value)):
        raise ValueError(f"{name} should be finite, got {value}")
    return number


def check_rate(name: str, value: object) -> float:
    """`value` if it is a probability of dropping in [0, 1); an error that names the argument otherwise."""
    if not 0.0 <= (rate := _number(name, value)) < 1.0:
        raise ValueError(f"{name} is a probability of dropping and should be in [0, 1), got {value}")
    return rate


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} should be a number, got {type(value).__name__} {value!r}")
    return float(value)


def glorot_uniform_(rows: int, columns: int, *blocks: Tensor) -> None:
    """Fill the blocks of one stored (rows, columns) matrix from U(-a, a), a = sqrt(6 / (rows + columns))."""
    bound = (6.0 / (rows + columns)) ** 0.5
    for block in blocks:
        block.uniform_(-bound, bound)


class Cell(nn.Module):
    """Base of every cell. A subclass defines `step`, and whichever of the other stages it has.

    A complete cell of one's own:

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

    and `ungated.RNN(Elman, 10, 20, num_layers=2, bidirectional=True)` is a layer of it.
    """

    #: Groups of parameter names that the paper's code stores, and so initialises and clips, as one tensor.
    #: Parameters not named here stand alone.
    stored_together: tuple[tuple[str, ...], ...] = ()

    def __init__(self, input_size: int, hidden_size: int, output_size: int | None = None) -> None:
        """Sizes per time step; `output_size` defaults to `hidden_size`. Raises TypeError or ValueError."""
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.output_size = self.hidden_size if output_size is None else check_size("output_size", output_size)

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step: (B, n) or a tuple of such; zeros unless the cell says otherwise."""
        return self.weight().new_zeros(batch_size, self.hidden_size)

    def noise(self, time: int, batch: int) -> Noise:
        """Masks for `time` steps of `batch` rows, or None; called in training mode only."""
        return None

    def project(self, x: Tensor, noise: Noise = None) -> Tensor:
        """What the input contributes to every step: (T, B, input_size) -> (T, B, ...)."""
        return x

    def step(self, drive: Any, state: Any, noise: Any = None) -> tuple[Tensor, Any]:
        """One time step: drive (B, ...), state, masks of this step -> features (B, ...), new state."""
        raise TypeError(f"{type(self).__name__} has no step(drive, state, noise): a cell must define it")

    def readout(self, features: Tensor) -> Tensor:
        """Output of every step from its features: (T, B, ...) -> (T, B, output_size)."""
        return features

    def forward(self, x: Tensor, state: State | None = None, noise: Noise = None) -> tuple[Tensor, State]:
        """One streaming step, as `nn.LSTMCell`: x (B, input_size), state -> output (B, output_size), state.

        In training mode, masks are drawn for this step unless `noise` (time dimension 1) is given.
        Raises ValueError if x is not (B, input_size).
        """
        if x.dim() != 2 or x.shape[1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: x should have shape (batch, {self.input_size}), got {tuple(x.shape)}"
            )
        if state is None:
            state = self.initial_state(x.shape[0])
        if noise is None and self.training:
            noise = self.noise(1, x.shape[0])
        features, state = self.step(self.project(x[None], noise)[0], state, noise_at(noise, 0))
        return self.readout(features[None])[0], state

    def weight(self) -> Tensor:
        """Any floating parameter: what new states and masks take their device and dtype from."""
        for parameter in self.parameters():
            if parameter.is_floating_point():
                return parameter
        return torch.empty(0)

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}"
        return sizes if self.output_size == self.hidden_size else f"{sizes}, output_size={self.output_size}"

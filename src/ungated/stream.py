"""A layer that goes on with a stream, its weights prepared once."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ungated.cells.cell import Cell, State, check_size, map_state
from ungated.checks import check_input, check_streams, check_tensor, checked_state, name_of
from ungated.rnn import RNN
from ungated.scan import choose, chosen_backend, has_stages_of, scan_layer
from ungated.scan.cpu import PREPARED
from ungated.scan.cpu.library import Prepared


class Stream:
    """A layer that takes the next time steps of B sequences at every call, and keeps the state in between.

    It has the weights that the layer had when the stream was made, and runs in evaluation mode, without gradients.
    Where the compiled engine can run, weights are packed once, and a step is one call of it on memory that stays;
    elsewhere a call does what `RNN.step` would do. For one thread at a time.
    """

    def __init__(self, rnn: RNN, batch_size: int = 1) -> None:
        """batch_size: B. Raises ValueError for a bidirectional layer, which needs the whole sequence."""
        check_streams(rnn)
        self.batch_size = check_size("batch_size", batch_size)
        self._rnn = copy.deepcopy(rnn).eval().requires_grad_(False)
        cells: list[Cell] = list(self._rnn.cells)  # type: ignore[arg-type]
        weight = cells[0].weight()
        self._step = (batch_size, rnn.input_size), weight.dtype, weight.device
        with torch.no_grad():
            self._cells = [_cell_stream(cell, batch_size) for cell in cells]

    def __call__(self, x: Tensor) -> Tensor:
        """One time step, x (B, I) -> output (B, p); or some, (T, B, I) or with batch_first (B, T, I), in that layout.

        Raises ValueError or TypeError that names the argument, what it is and what it should be.
        """
        one = isinstance(x, Tensor) and (x.shape, x.dtype, x.device) == self._step
        with torch.no_grad():
            steps = x.unsqueeze(0) if one else self._steps(x)
            for cell in self._cells:
                steps = cell.run(steps)
        if one or x.dim() == 2:
            return steps.squeeze(0)
        return steps.transpose(0, 1) if self._rnn.batch_first else steps

    @property
    def state(self) -> State:
        """(num_layers, B, n), or the tuple of such that the cell has: a copy. To set it is to go on from there."""
        return map_state(lambda *tensors: torch.stack(tensors), *(cell.state for cell in self._cells))

    @state.setter
    def state(self, state: State) -> None:
        state = checked_state(self._rnn, state, self.batch_size)
        for i, cell in enumerate(self._cells):
            cell.state = map_state(lambda tensor, i=i: tensor[i].detach().clone(), state)

    def reset(self) -> None:
        """Begin again, from the state before the first step."""
        self.state = self._rnn.initial_state(self.batch_size)

    def _steps(self, x: Tensor) -> Tensor:
        """(T, B, I), checked."""
        check_tensor(self._rnn, x)
        if x.dim() not in (2, 3):
            raise ValueError(f"{name_of(self._rnn)}: x should be (batch, input) or have time too, got {tuple(x.shape)}")
        steps = x.unsqueeze(0) if x.dim() == 2 else x.transpose(0, 1) if self._rnn.batch_first else x
        check_input(self._rnn, steps)
        if steps.shape[1] != self.batch_size:
            raise ValueError(
                f"{name_of(self._rnn)}: x should have the stream's {self.batch_size} sequences, got {steps.shape[1]}"
            )
        return steps


class _CellStream:
    """A cell and its state."""

    state: State

    def __init__(self, cell: Cell, batch: int) -> None:
        self._cell, self.state = cell, cell.initial_state(batch)

    def run(self, x: Tensor) -> Tensor:
        """x (T, B, m) -> output (T, B, p)."""
        output, self.state = scan_layer(self._cell, x, self.state)
        return output


class _PreparedStream:
    """The same on the compiled engine."""

    def __init__(self, cell: Cell, batch: int, prepare: Callable[..., Prepared]) -> None:
        self._cell, self._prepare = cell, prepare
        self._state = map_state(Tensor.contiguous, map_state(torch.clone, cell.initial_state(batch)))
        self._x = cell.weight().new_zeros(1, batch, cell.input_size)
        self._one_step = prepare(cell, self._x, self._state, None)
        self._one_step.run()  # packs the weights; the state it leaves is not taken

    def run(self, x: Tensor) -> Tensor:
        """x (T, B, m) -> output (T, B, p)."""
        if torch.is_autocast_enabled("cpu"):  # the engine takes float32 alone
            with torch.autocast("cpu", enabled=False):
                return self.run(x)
        if len(x) == 1:
            self._x.copy_(x)
            now = self._one_step
        else:
            now = self._prepare(self._cell, x.to(self._x.dtype).contiguous(), self._state, self._one_step.scan.weights)
        now.run()
        self.state = now.state
        return now.output.clone() if now is self._one_step else now.output

    @property
    def state(self) -> State:
        return map_state(torch.clone, self._state)

    @state.setter
    def state(self, state: State) -> None:
        map_state(Tensor.copy_, self._state, state)


def _cell_stream(cell: Cell, batch: int) -> _CellStream | _PreparedStream:
    """By the engine, where it may and can."""
    prepare = next((prepare for known, prepare in PREPARED.items() if has_stages_of(known, cell)), None)
    if prepare is None or chosen_backend() not in ("auto", "cpu"):
        return _CellStream(cell, batch)
    try:
        drive = cell.project(cell.weight().new_zeros(1, batch, cell.input_size))
        choose(cell, drive, cell.initial_state(batch), backend="cpu")
    except RuntimeError:  # says why it cannot
        return _CellStream(cell, batch)
    return _PreparedStream(cell, batch, prepare)

"""A cell as a drop-in layer: stacks, directions, ragged batches and state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ungated.cells.cell import Cell, Noise, State, check_rate, check_size, map_state
from ungated.checks import (
    Lengths,
    check_input,
    check_streams,
    check_tensor,
    checked_lengths,
    checked_state,
    name_of,
)
from ungated.scan import scan_layer


class RNN(nn.Module):
    """A stack of recurrent layers of any cell, called as `torch.nn.LSTM` and `torch.nn.GRU` are.

    T time steps, B sequences, I = input_size, n = hidden_size, p = the cell's output size, D directions.
    """

    def __init__(
        self,
        cell: Callable[..., Cell],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **cell_options: Any,
    ) -> None:
        """cell: class of a cell (or a function that makes one), called cell(input_size, hidden_size, **cell_options).

        batch_first: x and output are (B, T, ...); states are not affected, as in torch.nn.
        dropout: rate between layers, in training. bidirectional: a second cell a layer reads backwards and the
        outputs are concatenated. Raises TypeError or ValueError that names the argument.
        """
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.batch_first = batch_first
        self.dropout = check_rate("dropout", dropout)
        self.bidirectional = bidirectional
        self.directions = 2 if bidirectional else 1
        self.cells = nn.ModuleList()
        with nullcontext() if device is None else torch.device(device):
            for _ in range(num_layers):
                pair = [cell(input_size, hidden_size, **cell_options) for _ in range(self.directions)]
                self.cells.extend(pair)
                input_size = self.directions * pair[0].output_size
        self.output_size = input_size
        if dtype is not None:
            self.to(dtype=dtype)

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        lengths: Lengths | None = None,
        noise: Sequence[Noise] | None = None,
    ) -> tuple[Any, State]:
        """Run the layers over a batch of sequences.

        x: (T, B, I), with batch_first (B, T, I), or unbatched (T, I), of the layer's dtype; or a PackedSequence.
        state: (num_layers * D, B, n), or the tuple of such that the cell has; None for the cell's initial state.
        lengths: (B,) true lengths in 1..T on any device, in any order; what lies beyond them never reaches an
        output (0 there), a state or a gradient.
        noise: masks from `noise(T, B)` to use again, in training or not; by default drawn anew in training mode.
        Returns output (T, B, D * p) in the layout of x, and the state after each sequence's last step.
        Raises ValueError or TypeError that names the argument, what it is and what it should be.
        """
        if isinstance(x, PackedSequence):
            if lengths is not None:
                raise ValueError(f"{name_of(self)}: lengths should be None for a PackedSequence, which has its own")
            padded, own_lengths = pad_packed_sequence(x)
            output, state = self._run(padded, checked_state(self, state, padded.shape[1]), own_lengths, noise)
            return _packed_like(x, output, own_lengths), state
        check_tensor(self, x)
        batched = x.dim() == 3
        if x.dim() not in (2, 3):
            layout = "(batch, time, input)" if self.batch_first else "(time, batch, input)"
            raise ValueError(f"{name_of(self)}: x should be {layout} or (time, input), got shape {tuple(x.shape)}")
        if not batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        output, state = self._run(x, checked_state(self, state, x.shape[1], batched), lengths, noise)
        if not batched:
            return output.squeeze(1), map_state(lambda tensor: tensor.squeeze(1), state)
        return (output.transpose(0, 1) if self.batch_first else output), state

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One time step: x (B, I), state as in `forward` -> output (B, p), new state. For many, `Stream` is faster.

        Raises ValueError for a bidirectional layer, which needs the whole sequence.
        """
        check_streams(self)
        check_tensor(self, x)
        if x.dim() != 2:
            raise ValueError(f"{name_of(self)}: x should be (batch, {self.input_size}), got shape {tuple(x.shape)}")
        x = x.unsqueeze(0)
        output, state = self._run(x, checked_state(self, state, x.shape[1]), None, None)
        return output.squeeze(0), state

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step: (num_layers * D, B, n), or the tuple of such that the cell has."""
        return _stack([cell.initial_state(batch_size) for cell in self._cells])

    def noise(self, time: int, batch: int) -> list[Noise]:
        """Fresh dropout masks of every cell for T steps of B rows, to be given to `forward` one or more times."""
        return [cell.noise(time, batch) for cell in self._cells]

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"]
        parts += [f"{name}=True" for name in ("batch_first", "bidirectional") if getattr(self, name)]
        return ", ".join(parts + ([f"dropout={self.dropout}"] if self.dropout else []))

    @property
    def _cells(self) -> list[Cell]:
        return list(self.cells)  # type: ignore[arg-type]

    def _run(
        self, x: Tensor, state: State, lengths: Lengths | None, noise: Sequence[Noise] | None
    ) -> tuple[Tensor, State]:
        """x (T, B, I), state that was checked -> output (T, B, D * p), state."""
        check_input(self, x)
        time, batch = x.shape[:2]
        padding: Tensor | None = None
        if lengths is not None:
            lengths = checked_lengths(self, lengths, x)
            padding = (torch.arange(time, device=x.device)[:, None] >= lengths).unsqueeze(-1)
            # Zeroed, not only ignored: NaN in the padding would reach the gradients of the weights as 0 * NaN.
            x = x.masked_fill(padding, 0.0)
        if noise is None:
            noise = self.noise(time, batch) if self.training else [None] * len(self.cells)
        if len(noise) != len(self.cells):
            raise ValueError(
                f"{name_of(self)}: noise should have {len(self.cells)} entries (num_layers * directions), "
                f"got {len(noise)}"
            )
        last_states = []
        for layer in range(self.num_layers):
            if layer > 0:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in range(self.directions):
                index = layer * self.directions + direction
                cell, masks = self._cells[index], noise[index]
                before = map_state(lambda tensor, index=index: tensor[index], state)
                inputs = _reverse(x, lengths) if direction else x
                output, after = scan_layer(cell, inputs, before, masks, lengths)
                outputs.append(_reverse(output, lengths) if direction else output)
                last_states.append(after)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
            if padding is not None:
                x = x.masked_fill(padding, 0.0)
        return x, _stack(last_states)


def _stack(states: Sequence[State]) -> State:
    return map_state(lambda *tensors: torch.stack(tensors), states[0], *states[1:])


def _reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence of x (T, B, ...) backwards within its own length; padding stays where it is."""
    if lengths is None:
        return x.flip(0)
    t = torch.arange(x.shape[0], device=x.device)[:, None]
    index = torch.where(t < lengths, lengths - 1 - t, t)
    return x.gather(0, index.view(*index.shape, *[1] * (x.dim() - 2)).expand_as(x))


def _packed_like(packed: PackedSequence, output: Tensor, lengths: Tensor) -> PackedSequence:
    """output (T, B, ...), rows in the caller's order, packed in the very order of `packed`."""
    if packed.sorted_indices is not None:
        output, lengths = output.index_select(1, packed.sorted_indices), lengths[packed.sorted_indices.cpu()]
    data = pack_padded_sequence(output, lengths).data
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)

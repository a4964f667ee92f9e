"""Drop-in layers: stacks, directions, ragged batches and state, for any cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ungated.cells import GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
from ungated.cells.cell import Cell, Noise, State, check_rate, check_size, map_state
from ungated.scan import scan_layer

Lengths = Tensor | Sequence[int]


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
                raise ValueError(f"{self._name}: lengths should be None for a PackedSequence, which has its own")
            padded, own_lengths = pad_packed_sequence(x)
            output, state = self._run(padded, self._checked_state(state, padded), own_lengths, noise)
            return _packed_like(x, output, own_lengths), state
        self._check_tensor(x)
        batched = x.dim() == 3
        if x.dim() not in (2, 3):
            layout = "(batch, time, input)" if self.batch_first else "(time, batch, input)"
            raise ValueError(f"{self._name}: x should be {layout} or (time, input), got shape {tuple(x.shape)}")
        if not batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        output, state = self._run(x, self._checked_state(state, x, batched), lengths, noise)
        if not batched:
            return output.squeeze(1), map_state(lambda tensor: tensor.squeeze(1), state)
        return (output.transpose(0, 1) if self.batch_first else output), state

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One time step of a stream: x (B, I), state as in `forward` -> output (B, p), new state.

        Raises ValueError for a bidirectional layer, which needs the whole sequence.
        """
        if self.bidirectional:
            raise ValueError(f"{self._name}: a bidirectional layer cannot stream, it needs the whole sequence")
        self._check_tensor(x)
        if x.dim() != 2:
            raise ValueError(f"{self._name}: x should be (batch, {self.input_size}), got shape {tuple(x.shape)}")
        x = x.unsqueeze(0)
        output, state = self._run(x, self._checked_state(state, x), None, None)
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
    def _name(self) -> str:
        return type(self).__name__

    @property
    def _cells(self) -> list[Cell]:
        return list(self.cells)  # type: ignore[arg-type]

    def _run(
        self, x: Tensor, state: State, lengths: Lengths | None, noise: Sequence[Noise] | None
    ) -> tuple[Tensor, State]:
        """x (T, B, I), state that was checked -> output (T, B, D * p), state."""
        self._check_input(x)
        time, batch = x.shape[:2]
        padding: Tensor | None = None
        if lengths is not None:
            lengths = self._checked_lengths(lengths, x)
            padding = (torch.arange(time, device=x.device)[:, None] >= lengths).unsqueeze(-1)
            # Zeroed, not only ignored: NaN in the padding would reach the gradients of the weights as 0 * NaN.
            x = x.masked_fill(padding, 0.0)
        if noise is None:
            noise = self.noise(time, batch) if self.training else [None] * len(self.cells)
        if len(noise) != len(self.cells):
            raise ValueError(
                f"{self._name}: noise should have {len(self.cells)} entries (num_layers * directions), got {len(noise)}"
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

    def _check_tensor(self, x: object) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"{self._name}: x should be a tensor, got {type(x).__name__}")

    def _check_input(self, x: Tensor) -> None:
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"{self._name}: x should have {self.input_size} features in its last dimension, "
                f"got {x.shape[-1]} in shape {tuple(x.shape)} (time, batch, features)"
            )
        if x.shape[0] == 0:
            raise ValueError(f"{self._name}: x should have at least one time step, got shape {tuple(x.shape)}")
        weight = self._cells[0].weight()
        if x.device != weight.device:
            raise ValueError(f"{self._name}: x is on {x.device} but the layer is on {weight.device}")
        if x.dtype != weight.dtype and not _autocasting(x.device.type):
            raise TypeError(f"{self._name}: x should have the layer's dtype {weight.dtype}, got {x.dtype}")

    def _checked_state(self, state: State | None, x: Tensor, batched: bool = True) -> State:
        """The state for x (T, B, I), with a batch dimension; one that is given has it only if `batched`."""
        like = self.initial_state(x.shape[1])
        if state is None:
            return like
        if not isinstance(state, (tuple, list) if isinstance(like, tuple) else Tensor):
            kind = f"a tuple of {len(like)} tensors" if isinstance(like, tuple) else "a tensor"
            raise TypeError(f"{self._name}: state should be {kind}, got {type(state).__name__}")
        tensors, wanted = _tensors(state), _tensors(like)
        if len(tensors) != len(wanted):
            raise ValueError(f"{self._name}: state should have {len(wanted)} tensors, got {len(tensors)}")
        for got, want in zip(tensors, wanted, strict=True):
            if not isinstance(got, Tensor):
                raise TypeError(f"{self._name}: state should hold tensors, got {type(got).__name__}")
            shape = want.shape if batched else want.shape[::2]
            if got.shape != shape:
                axes = "batch, hidden), got" if batched else "hidden) for an unbatched x, got"
                raise ValueError(
                    f"{self._name}: state should have shape {tuple(shape)} (num_layers * directions = "
                    f"{self.num_layers} * {self.directions}, {axes} {tuple(got.shape)}"
                )
            if got.device != want.device:
                raise ValueError(f"{self._name}: state is on {got.device} but the layer is on {want.device}")
            if got.dtype != want.dtype and not _autocasting(got.device.type):
                raise TypeError(f"{self._name}: state should have the layer's dtype {want.dtype}, got {got.dtype}")
        state = state if isinstance(state, Tensor) else tuple(state)
        return state if batched else map_state(lambda tensor: tensor.unsqueeze(1), state)

    def _checked_lengths(self, lengths: Lengths, x: Tensor) -> Tensor:
        time, batch = x.shape[:2]
        try:
            lengths = torch.as_tensor(lengths)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{self._name}: lengths should be integers, got {type(lengths).__name__}") from None
        if lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise TypeError(f"{self._name}: lengths should be integers, got {lengths.dtype}")
        if lengths.shape != (batch,):
            raise ValueError(f"{self._name}: lengths should have shape ({batch},), got {tuple(lengths.shape)}")
        if not torch.compiler.is_compiling() and lengths.device.type != "meta":
            wrong = ((lengths < 1) | (lengths > time)).nonzero()
            if len(wrong) > 0:
                index = int(wrong[0])
                raise ValueError(
                    f"{self._name}: lengths should be in 1..{time} (the time steps of x), "
                    f"got {int(lengths[index])} at index {index}"
                )
        return lengths.to(x.device)


class LayerOptions(TypedDict, total=False):
    """What every layer takes besides its sizes and its cell's options: see `RNN`."""

    batch_first: bool
    dropout: float
    bidirectional: bool
    device: torch.device | str | None
    dtype: torch.dtype | None


class RRU(RNN):
    """Residual Recurrent Unit layers, Zakovskis et al., arXiv 2108.00527: equations and options in `RRUCell`.

    The output has `output_size` features (default `hidden_size`), and the next layer reads those.
    `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        output_size: int | None = None,
        expansion: float = 2.0,
        relu_layers: int = 1,
        recurrent_dropout: float = 0.0,
        normalize: bool = True,
        rezero: str = "vector",
        output_relu: bool = False,
        residual: str | float = "learned",
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {
            "output_size": output_size,
            "expansion": expansion,
            "relu_layers": relu_layers,
            "recurrent_dropout": recurrent_dropout,
            "normalize": normalize,
            "rezero": rezero,
            "output_relu": output_relu,
            "residual": residual,
        }
        super().__init__(RRUCell, input_size, hidden_size, num_layers, **layer, **options)


class RHN(RNN):
    """Recurrent Highway Network layers, Zilly et al., arXiv 1607.03474: equations and options in `RHNCell`.

    `depth` counts micro-steps inside one time step, `num_layers` stacked layers (1 in all published results).
    `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        depth: int = 10,
        transform_bias: float = -2.0,
        init_scale: float = 0.04,
        input_dropout: float = 0.0,
        state_dropout: float = 0.0,
        tie_masks: bool = True,
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {
            "depth": depth,
            "transform_bias": transform_bias,
            "init_scale": init_scale,
            "input_dropout": input_dropout,
            "state_dropout": state_dropout,
            "tie_masks": tie_masks,
        }
        super().__init__(RHNCell, input_size, hidden_size, num_layers, **layer, **options)


class GRU(RNN):
    """Gated Recurrent Unit layers, Cho et al., arXiv 1406.1078: equations and options in `GRUCell`.

    `reset="after"` is torch.nn.GRU's form. `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        recurrent_dropout: float = 0.0,
        reset: str = "before",
        gate_bias: float = 1.0,
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {"recurrent_dropout": recurrent_dropout, "reset": reset, "gate_bias": gate_bias}
        super().__init__(GRUCell, input_size, hidden_size, num_layers, **layer, **options)

    @classmethod
    def from_torch(cls, source: nn.GRU) -> Self:
        """The same function as `source`, with its weights copied; its reset="after" form."""
        layer = cls(reset="after", **_layer_options(source))
        n = source.hidden_size
        for cell, (w_ih, w_hh, b_ih, b_hh) in zip(layer.cells, _torch_weights(source), strict=True):
            assert isinstance(cell, GRUCell)
            with torch.no_grad():
                cell.W_xg.copy_(w_ih[: 2 * n].T)
                cell.W_hg.copy_(w_hh[: 2 * n].T)
                cell.b_g.copy_(b_ih[: 2 * n] + b_hh[: 2 * n])
                cell.W_xc.copy_(w_ih[2 * n :].T)
                cell.W_hc.copy_(w_hh[2 * n :].T)
                cell.b_c.copy_(b_ih[2 * n :])
                cell.b_hc.copy_(b_hh[2 * n :])
        return layer


class LSTM(RNN):
    """Long Short-Term Memory layers: equations and options in `LSTMCell`; the state is (h, c).

    `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        recurrent_dropout: float = 0.0,
        forget_bias: float = 1.0,
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {"recurrent_dropout": recurrent_dropout, "forget_bias": forget_bias}
        super().__init__(LSTMCell, input_size, hidden_size, num_layers, **layer, **options)

    @classmethod
    def from_torch(cls, source: nn.LSTM) -> Self:
        """The same function as `source`, with its weights copied; forget_bias 0. ValueError if it has projections."""
        if source.proj_size:
            raise ValueError(f"LSTM.from_torch: proj_size should be 0, got {source.proj_size}")
        layer = cls(forget_bias=0.0, **_layer_options(source))
        for cell, (w_ih, w_hh, b_ih, b_hh) in zip(layer.cells, _torch_weights(source), strict=True):
            assert isinstance(cell, LSTMCell)
            # torch orders the gates i, f, g, o; the paper's code i, j, f, o, where j is g.
            i, f, g, o = torch.arange(4 * source.hidden_size, device=w_ih.device).chunk(4)
            order = torch.cat([i, g, f, o])
            with torch.no_grad():
                cell.W_x.copy_(w_ih[order].T)
                cell.W_h.copy_(w_hh[order].T)
                cell.b.copy_((b_ih + b_hh)[order])
        return layer


class MogrifierLSTM(RNN):
    """Mogrifier LSTM layers, Melis et al., arXiv 1909.01792: equations and options in `MogrifierLSTMCell`.

    The state is (h, c). `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        rounds: int = 5,
        rank: int = 40,
        recurrent_dropout: float = 0.0,
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {"rounds": rounds, "rank": rank, "recurrent_dropout": recurrent_dropout}
        super().__init__(MogrifierLSTMCell, input_size, hidden_size, num_layers, **layer, **options)


def _tensors(state: State) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _autocasting(device_type: str) -> bool:
    # Asked about the meta device, is_autocast_enabled raises.
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


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


def _layer_options(source: nn.RNNBase) -> dict[str, Any]:
    weight = source.weight_ih_l0
    return {
        "input_size": source.input_size,
        "hidden_size": source.hidden_size,
        "num_layers": source.num_layers,
        "batch_first": source.batch_first,
        "dropout": source.dropout,
        "bidirectional": source.bidirectional,
        "device": weight.device,
        "dtype": weight.dtype,
    }


def _torch_weights(source: nn.RNNBase) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """W_ih, W_hh, b_ih, b_hh of every layer and direction, biases zero where `source` has none."""
    for layer in range(source.num_layers):
        for suffix in ("", "_reverse") if source.bidirectional else ("",):
            w_ih, w_hh = (getattr(source, f"weight_{kind}_l{layer}{suffix}") for kind in ("ih", "hh"))
            if source.bias:
                b_ih, b_hh = (getattr(source, f"bias_{kind}_l{layer}{suffix}") for kind in ("ih", "hh"))
            else:
                b_ih = b_hh = w_ih.new_zeros(w_ih.shape[0])
            yield w_ih, w_hh, b_ih, b_hh

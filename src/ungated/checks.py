"""What a layer says to input that does not fit: ValueError or TypeError with what it is and what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ungated.cells.cell import State, map_state
from ungated.scan.conditions import autocast_dtype

Lengths = Tensor | Sequence[int]


class Layer(Protocol):
    """What is asked of an `RNN`."""

    input_size: int
    num_layers: int
    directions: int
    cells: nn.ModuleList

    def initial_state(self, batch_size: int) -> State: ...


def name_of(rnn: Layer) -> str:
    """What messages call it."""
    return type(rnn).__name__


def check_streams(rnn: Layer) -> None:
    """That it can go on step after step."""
    if rnn.directions > 1:
        raise ValueError(f"{name_of(rnn)}: a bidirectional layer cannot stream, it needs the whole sequence")


def check_tensor(rnn: Layer, x: object) -> None:
    """Raises TypeError unless it is one."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name_of(rnn)}: x should be a tensor, got {type(x).__name__}")


def check_input(rnn: Layer, x: Tensor) -> None:
    """x (T, B, I)."""
    name = name_of(rnn)
    if x.shape[-1] != rnn.input_size:
        raise ValueError(
            f"{name}: x should have {rnn.input_size} features in its last dimension, "
            f"got {x.shape[-1]} in shape {tuple(x.shape)} (time, batch, features)"
        )
    if x.shape[0] == 0:
        raise ValueError(f"{name}: x should have at least one time step, got shape {tuple(x.shape)}")
    weight: Tensor = rnn.cells[0].weight()  # type: ignore[operator]
    if x.device != weight.device:
        raise ValueError(f"{name}: x is on {x.device} but the layer is on {weight.device}")
    if x.dtype != weight.dtype and autocast_dtype(x.device.type) is None:
        raise TypeError(f"{name}: x should have the layer's dtype {weight.dtype}, got {x.dtype}")


def checked_state(rnn: Layer, state: State | None, batch: int, batched: bool = True) -> State:
    """The state of `batch` sequences, with a batch dimension; one that is given has it only if `batched`."""
    name = name_of(rnn)
    like = rnn.initial_state(batch)
    if state is None:
        return like
    if not isinstance(state, (tuple, list) if isinstance(like, tuple) else Tensor):
        kind = f"a tuple of {len(like)} tensors" if isinstance(like, tuple) else "a tensor"
        raise TypeError(f"{name}: state should be {kind}, got {type(state).__name__}")
    tensors, wanted = _tensors(state), _tensors(like)
    if len(tensors) != len(wanted):
        raise ValueError(f"{name}: state should have {len(wanted)} tensors, got {len(tensors)}")
    for got, want in zip(tensors, wanted, strict=True):
        if not isinstance(got, Tensor):
            raise TypeError(f"{name}: state should hold tensors, got {type(got).__name__}")
        shape = want.shape if batched else want.shape[::2]
        if got.shape != shape:
            axes = "batch, hidden), got" if batched else "hidden) for an unbatched x, got"
            raise ValueError(
                f"{name}: state should have shape {tuple(shape)} (num_layers * directions = "
                f"{rnn.num_layers} * {rnn.directions}, {axes} {tuple(got.shape)}"
            )
        if got.device != want.device:
            raise ValueError(f"{name}: state is on {got.device} but the layer is on {want.device}")
        if got.dtype != want.dtype and autocast_dtype(got.device.type) is None:
            raise TypeError(f"{name}: state should have the layer's dtype {want.dtype}, got {got.dtype}")
    state = state if isinstance(state, Tensor) else tuple(state)
    return state if batched else map_state(lambda tensor: tensor.unsqueeze(1), state)


def checked_lengths(rnn: Layer, lengths: Lengths, x: Tensor) -> Tensor:
    """(B,) integers in 1..T, on x's device; x (T, B, I)."""
    name = name_of(rnn)
    time, batch = x.shape[:2]
    try:
        lengths = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: lengths should be integers, got {type(lengths).__name__}") from None
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"{name}: lengths should be integers, got {lengths.dtype}")
    if lengths.shape != (batch,):
        raise ValueError(f"{name}: lengths should have shape ({batch},), got {tuple(lengths.shape)}")
    if not torch.compiler.is_compiling() and lengths.device.type != "meta":
        wrong = ((lengths < 1) | (lengths > time)).nonzero()
        if len(wrong) > 0:
            index = int(wrong[0])
            raise ValueError(
                f"{name}: lengths should be in 1..{time} (the time steps of x), "
                f"got {int(lengths[index])} at index {index}"
            )
    return lengths.to(x.device)


def _tensors(state: State) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)

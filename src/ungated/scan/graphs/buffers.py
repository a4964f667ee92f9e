"""What the graphs of one kind of call work on: tensors that stay where they are, and the graphs themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ungated.scan.graphs.loops import Loops
from ungated.scan.graphs.recorder import Recorder, Work

#: A place, and what belongs there.
Pair = tuple[Tensor, Tensor]


class Buffers:
    """Room for the arguments of some time steps, for what the loops make of them and for gradients; graphs over it.

    Each graph starts at the first step. What it needs must be there, all of it, whatever was there before.
    """

    def __init__(self, loops: Loops, a: Any, steps: int, recorder: Recorder) -> None:
        self.loops, self.recorder = loops, recorder
        self._graphs: dict[tuple[bool, int], Work] = {}
        with _ordinary_tensors():
            timed = loops.timed(a)
            self.a = type(a)(*(_zeros_like(x, steps if i in timed else None) for i, x in enumerate(a)))
            self.axes = loops.axes(self.a)
            self.made = loops.made(*loops.allocate(self.a))
        self.G_features: Tensor | None = None
        self.G_drive: Tensor
        self.G_states: list[Tensor]
        self.G_weights: list[Tensor]

    def nbytes(self) -> int:
        gradients = [] if self.G_features is None else [self.G_features, self.G_drive, *self.G_states, *self.G_weights]
        given = [*self.loops.passing(self.a, 0, len(self.a[0])), *self.loops.lasting(self.a)]
        return sum(tensor.nbytes for tensor in (*given, *self.made, *gradients))

    def forward(self, steps: int) -> Work:
        """The way forward over so many steps; it leaves the last states in the arguments' states."""
        return self._graph(False, steps, self._forward)

    def backward(self, steps: int) -> Work:
        """The way back over so many steps, from G_features and, of the last states, G_states.

        It leaves the gradients of the drive in G_drive, of the first states in G_states, and adds to G_weights.
        """
        if self.G_features is None:
            with _ordinary_tensors():
                self.G_drive = torch.zeros_like(self.a[0])
                self.G_states = [torch.zeros_like(state) for state in self.loops.states(self.a)]
                self.G_weights = [torch.zeros_like(weight) for weight in self.loops.weights(self.a)]
                self.G_features = torch.zeros_like(self.made[0])
        return self._graph(True, steps, self._backward)

    def _graph(self, backward: bool, steps: int, work: Callable[[int], None]) -> Work:
        if (backward, steps) not in self._graphs:
            with _ordinary_tensors():
                self._graphs[backward, steps] = self.recorder.record(lambda: work(steps))
        return self._graphs[backward, steps]

    def _first(self, steps: int) -> tuple[Any, Any]:
        return self.loops.made_at(self.made, self.axes, 0, steps), self.loops.arguments_at(self.a, 0, steps)

    def _forward(self, steps: int) -> None:
        made, a = self._first(steps)
        self.loops.forward(made, a)
        copy(zip(self.loops.states(a), made[1:], strict=False))

    def _backward(self, steps: int) -> None:
        assert self.G_features is not None
        found = self.loops.backward([self.G_features[:steps], *self.G_states], *self._first(steps))
        gradients = [gradient() for gradient in found if gradient is not None]
        drive_and_states = [self.G_drive[:steps], *self.G_states]
        copy(zip(drive_and_states, gradients, strict=False))
        for total, gradient in zip(self.G_weights, gradients[len(drive_and_states) :], strict=True):
            total.add_(gradient)


def copy(pairs: Iterable[Pair]) -> None:
    """Copy to each place what belongs there: in one call for all where their layout allows it."""
    places, values = [list(side) for side in zip(*pairs, strict=True)]
    torch._foreach_copy_(places, values)


@contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Tensors that may be written to later too, wherever they are first needed."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _zeros_like(x: Any, steps: int | None) -> Any:
    """Zeros like a tensor, with so many time steps if given, or like each in a list; anything else as it is."""
    if isinstance(x, list):
        return [_zeros_like(part, None) for part in x]
    if not isinstance(x, Tensor):
        return x
    return x.new_zeros(x.shape if steps is None else (steps, *x.shape[1:]))

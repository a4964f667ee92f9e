"""A cell's loops over time in parts: which of its tensors have an axis of time, and what some time steps take and make.

The arguments of every cell start with drive, its states, noise (or None) and lengths (or None).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ungated.scan.scan_op import Gradient


@dataclass(frozen=True)
class Loops:
    """What `scan_op` is told of a cell; results: how many there are, features and states."""

    name: str
    results: int
    made: Callable[..., Any]
    allocate: Callable[[Any], Sequence[Tensor]]
    forward: Callable[[Any, Any], None]
    backward: Callable[[Sequence[Tensor | None], Any, Any], Sequence[Gradient | None]]

    def states(self, a: Any) -> list[Tensor]:
        return list(a[1 : self.results])

    def weights(self, a: Any) -> list[Tensor]:
        lists = [x if isinstance(x, list) else [x] for x in a[self.results + 2 :]]
        return [x for part in lists for x in part if isinstance(x, Tensor)]

    def marks(self, a: Any) -> list[Tensor]:
        """Noise and lengths, where they are: what has no gradient."""
        return [x for x in a[self.results : self.results + 2] if x is not None]

    def timed(self, a: Any) -> list[int]:
        """The places of the arguments with an axis of time, their first."""
        return [0] if a[self.results] is None or self._lasts(a) else [0, self.results]

    def lasting(self, a: Any) -> list[Tensor]:
        """What holds for all time steps: the weights, and masks that do."""
        return [a[self.results], *self.weights(a)] if self._lasts(a) else self.weights(a)

    def axes(self, a: Any) -> list[int | None]:
        """The axis of time in each tensor that the loops make; None: it has none."""
        one, two = (a._replace(**{a._fields[0]: a[0].new_empty(T, *a[0].shape[1:])}) for T in (1, 2))
        pairs = zip(self.allocate(one), self.allocate(two), strict=True)
        differ = ([x != y for x, y in zip(short.shape, long.shape, strict=True)] for short, long in pairs)
        return [axis.index(True) if any(axis) else None for axis in differ]

    def made_at(self, made: Sequence[Tensor], axes: Sequence[int | None], start: int, steps: int) -> Any:
        """Views of what is made of some time steps."""
        parts = (x if axis is None else x.narrow(axis, start, steps) for x, axis in zip(made, axes, strict=True))
        return self.made(*parts)

    def arguments_at(self, a: Any, start: int, steps: int) -> Any:
        """Views of the arguments for some time steps, lengths counted from there; the states as they are."""
        changed: dict[str, Any] = {a._fields[i]: a[i][start : start + steps] for i in self.timed(a)}
        if start and a[self.results + 1] is not None:
            changed[a._fields[self.results + 1]] = a[self.results + 1] - start
        return a._replace(**changed)

    def passing(self, a: Any, start: int, steps: int) -> list[Tensor]:
        """What some time steps alone take, but the states."""
        given, lengths = self.arguments_at(a, start, steps), self.results + 1
        return [given[i] for i in (*self.timed(a), *([] if a[lengths] is None else [lengths]))]

    def with_states(self, a: Any, states: Sequence[Tensor]) -> Any:
        return a._replace(**dict(zip(a._fields[1 : self.results], states, strict=True)))

    def _lasts(self, a: Any) -> bool:
        """Whether there is one mask for several steps."""
        noise = a[self.results]
        return noise is not None and len(noise) == 1 < len(a[0])

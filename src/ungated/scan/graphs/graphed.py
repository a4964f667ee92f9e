"""Loops over time as CUDA graphs of chunks of it, recorded once for each kind of call.

A call copies its weights and states to where the graphs expect them and then, for each chunk, the drive in, and what
was made of it out; so nothing that a graph knows can be out of date. On the way back the gradients of the weights are
summed over the chunks.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ungated.scan.graphs import recorder as recorders
from ungated.scan.graphs.buffers import Buffers, Pair, copy
from ungated.scan.graphs.loops import Loops
from ungated.scan.graphs.recorder import Recorder
from ungated.scan.products import tf32_allowed
from ungated.scan.scan_op import Gradient, scan_op

# A chunk has at least so many time steps, at most so many, and between them about so many entries of drive: few
# enough that recording them stays cheap, enough that copies and transposed weights, once a chunk, do not count.
_FEWEST, _MOST, _ENTRIES = 16, 64, 1 << 21

# What is kept: the kinds of call that came last, and of these no more than fit.
_KINDS, _BYTES = 16, 1 << 30

_logger = logging.getLogger("ungated")
_lock = threading.Lock()
_kept: OrderedDict[Any, Buffers | None] = OrderedDict()  # None: it could not be recorded
_said: set[str] = set()


def graphed_op(
    loops: Loops, in_torch: Loops, arguments: type[Any], reference: Callable[[Any], Sequence[Tensor]]
) -> Callable[..., Any]:
    """The operator `torch.ops.ungated.NAME` of these loops, by graphs: arguments -> results, as by `scan_op`.

    in_torch: those that run where graphs cannot; they take and make the same.
    """
    made = namedtuple("made", (*loops.made._fields, "starts"))  # type: ignore[misc, attr-defined]
    graphed = Graphed(loops, in_torch)
    return scan_op(
        loops.name,
        arguments,
        made,
        results=loops.results,
        allocate=graphed.allocate,
        forward=graphed.forward,
        backward=graphed.backward,
        reference=reference,
    )


class Graphed:
    """A cell's loops by graphs, with the same arguments; what they make has one tensor more, `starts`.

    starts: (states, chunks, B, n), the states before each chunk; (0,) if no backward pass may follow.
    """

    def __init__(self, loops: Loops, in_torch: Loops) -> None:
        self._loops, self._in_torch = loops, in_torch

    def allocate(self, a: Any) -> list[Tensor]:
        states, count = self._loops.states(a), len(_chunks(a[0]))
        shape = (len(states), count, *states[0].shape) if a.save else (0,)
        return [*self._loops.allocate(a), states[0].new_empty(shape)]

    def forward(self, made: Any, a: Any) -> None:
        recorder = _free_recorder(a[0])
        if recorder is not None:
            with _lock, recorder.in_turn():
                buffers = _buffers(self._loops, a, recorder, backward=False)
                if buffers is not None:
                    self._replay_forward(buffers, made, a)
                    return
        self._plain_forward(made, a)

    def backward(self, gradients: Sequence[Tensor | None], made: Any, a: Any) -> Sequence[Gradient | None]:
        recorder = _free_recorder(a[0])
        if recorder is not None:
            with _lock, recorder.in_turn():
                buffers = _buffers(self._loops, a, recorder, backward=True)
                if buffers is not None:
                    return self._replay_backward(buffers, gradients, made, a)
        return self._in_torch.backward(gradients, self._in_torch.made(*made[:-1]), a)

    def _replay_forward(self, buffers: Buffers, made: Any, a: Any) -> None:
        loops, states = self._loops, self._loops.states(buffers.a)
        copy(zip(loops.lasting(buffers.a), loops.lasting(a), strict=True))
        copy(zip(states, loops.states(a), strict=True))
        for i, (start, steps) in enumerate(_chunks(a[0])):
            if a.save:
                copy(zip(made.starts[:, i], states, strict=True))
            copy(self._passing(buffers, a, start, steps))
            buffers.forward(steps)()
            copy((theirs, ours) for ours, theirs in self._made(buffers, made, start, steps))
        copy(zip(made[1 : loops.results], states, strict=True))

    def _replay_backward(
        self, buffers: Buffers, gradients: Sequence[Tensor | None], made: Any, a: Any
    ) -> Sequence[Gradient | None]:
        loops, G_drive, (G_features, *G_last) = self._loops, a[0].new_empty(a[0].shape), gradients
        copy(zip(loops.lasting(buffers.a), loops.lasting(a), strict=True))
        back = {chunk: buffers.backward(chunk[1]) for chunk in _chunks(a[0])}
        assert buffers.G_features is not None
        for place, gradient in zip((buffers.G_features, *buffers.G_states), (None, *G_last), strict=True):
            place.zero_() if gradient is None else place.copy_(gradient)
        torch._foreach_zero_(buffers.G_weights)
        for i, ((start, steps), replay) in reversed(list(enumerate(back.items()))):
            pairs = [*self._passing(buffers, a, start, steps), *self._made(buffers, made, start, steps)]
            if G_features is not None:
                pairs.append((buffers.G_features[:steps], G_features[start : start + steps]))
            copy([*pairs, *zip(loops.states(buffers.a), made.starts[:, i], strict=True)])
            replay()
            G_drive[start : start + steps].copy_(buffers.G_drive[:steps])
        found = [G_drive, *(G.clone() for G in (*buffers.G_states, *buffers.G_weights))]
        gets: list[Gradient | None] = [lambda G=G: G for G in found]  # type: ignore[misc]
        return [*gets[: loops.results], *(None for _ in loops.marks(a)), *gets[loops.results :]]

    def _plain_forward(self, made: Any, a: Any) -> None:
        loops, whole = self._in_torch, made[:-1]
        if not a.save:
            loops.forward(loops.made(*whole), a)
            return
        axes, states = loops.axes(a), loops.states(a)
        for i, (start, steps) in enumerate(_chunks(a[0])):
            copy(zip(made.starts[:, i], states, strict=True))
            given = loops.with_states(loops.arguments_at(a, start, steps), made.starts[:, i].unbind(0))
            loops.forward(loops.made_at(whole, axes, start, steps), given)
            states = list(made[1 : loops.results])

    def _passing(self, buffers: Buffers, a: Any, start: int, steps: int) -> list[Pair]:
        """Each place for what some time steps take, with it."""
        loops = self._loops
        return list(zip(loops.passing(buffers.a, 0, steps), loops.passing(a, start, steps), strict=True))

    def _made(self, buffers: Buffers, made: Any, start: int, steps: int) -> list[Pair]:
        """Each place for what is made of some time steps, and where that is in the end."""
        ours = self._loops.made_at(buffers.made, buffers.axes, 0, steps)
        theirs = self._loops.made_at(made[:-1], buffers.axes, start, steps)
        return [(x, y) for x, y, axis in zip(ours, theirs, buffers.axes, strict=True) if axis is not None]


def _chunks(drive: Tensor) -> list[tuple[int, int]]:
    """(start, steps) of each chunk: all alike, then ever smaller powers of two, so that any T needs but few sizes."""
    T, most, start = len(drive), _most_steps(drive), 0
    found = []
    while start < T:
        steps = min(most, 1 << ((T - start).bit_length() - 1))
        found.append((start, steps))
        start += steps
    return found


def _most_steps(drive: Tensor) -> int:
    steps = _MOST
    while steps > _FEWEST and steps * drive[0].numel() > _ENTRIES:
        steps //= 2
    return steps


def _free_recorder(drive: Tensor) -> Recorder | None:
    """None where there is none, or where the loops themselves are to be recorded by somebody else."""
    recorder = recorders.recorder_of(drive.device)
    return None if recorder is None or recorder.is_recorded() else recorder


def _buffers(loops: Loops, a: Any, recorder: Recorder, *, backward: bool) -> Buffers | None:
    """The buffers for this call with all the graphs that it needs; None, said once, if they cannot be recorded."""
    kind = _kind(loops, a)
    try:
        if kind not in _kept:
            _kept[kind] = Buffers(loops, a, _most_steps(a[0]), recorder)
        _kept.move_to_end(kind)
        buffers = _kept[kind]
        if buffers is not None:
            for steps in {steps for _, steps in _chunks(a[0])}:
                (buffers.backward if backward else buffers.forward)(steps)
    except RuntimeError as error:
        buffers = _kept[kind] = None
        reason = str(error).partition("\n")[0]
        if reason not in _said:
            _said.add(reason)
            _logger.warning("a CUDA graph could not be recorded, a slower loop runs instead: %s", reason)
    _forget_the_oldest()
    return buffers


def _forget_the_oldest() -> None:
    """All but the newest go if that is what it takes."""
    while len(_kept) > 1 and (len(_kept) > _KINDS or sum(b.nbytes() for b in _kept.values() if b) > _BYTES):
        _, oldest = _kept.popitem(last=False)
        if oldest is not None:
            oldest.recorder.wait()


def _kind(loops: Loops, a: Any) -> tuple[Any, ...]:
    """All that a graph depends on but the values of tensors."""
    timed, described = loops.timed(a), []
    for i, x in enumerate(a):
        for part in x if isinstance(x, list) else [x]:
            is_tensor = isinstance(part, Tensor)
            described.append((i, part.dtype, part.shape[1 if i in timed else 0 :]) if is_tensor else part)
    return (loops.name, a[0].device, *described, *_settings())


def _settings() -> tuple[Any, ...]:
    """What decides, beside its arguments, how a product is computed."""
    matmul = torch.backends.cuda.matmul
    names = (
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation",
    )
    return (
        tf32_allowed(),
        torch.are_deterministic_algorithms_enabled(),
        *(getattr(matmul, name, None) for name in names),
    )

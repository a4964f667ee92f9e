"""How a case is measured: everything interleaved in one process, so that what disturbs one disturbs all."""

from __future__ import annotations

import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import torch

from ungated.lab.bench.variants import COMPILED, Line, Variant

# A round repeats a short run until it has lasted about this long: a clock and a scheduler are not exact enough.
_SHORTEST = 0.05

#: Untimed runs of the same variant before it is timed in a round: in training, a step comes after one of its own kind.
WARM_UP = 1


@dataclass
class Timing:
    """What one variant took. seconds: a run in each round. first_call: its first run in this process.

    memory: bytes, see `memory_of`; None where it cannot be told.
    """

    variant: Variant
    first_call: float
    memory: int | None
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)


@dataclass
class Measured:
    """The timings of a case, and whether all rounds were run."""

    line: Line
    timings: list[Timing] = field(default_factory=list)
    complete: bool = False

    def even_out(self) -> None:
        """Drop what a round that was stopped left behind."""
        rounds = min((len(timing.seconds) for timing in self.timings), default=0)
        for timing in self.timings:
            del timing.seconds[rounds:]


def measure(measured: Measured, rounds: int, compile_limit: float, tell: Callable[[str], None]) -> None:
    """Fill in the timings of a line-up, round by round, so that whoever stops it finds those that were run.

    tell: hears what is done next. compile_limit: seconds that a compiled peer's first run may take.
    A variant that fails is left out, with the reason.
    """
    line = measured.line
    for variant in line.variants:
        tell(f"{variant.name}, first run")
        try:
            measured.timings.append(_first_runs(variant, compile_limit))
        except Exception as error:  # a peer may fail in any way, and the others are still of interest
            first_line = (str(error).splitlines() or [""])[0]
            line.left_out[variant.name] = f"failed: {type(error).__name__}: {first_line}"
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        order = random.Random(number).sample(measured.timings, len(measured.timings))
        for timing in order:  # nobody always runs after the same neighbour, which leaves caches and memory behind
            _timed(timing.variant, WARM_UP)
            timing.seconds.append(_timed(timing.variant, timing.repeats))
    measured.complete = True


def memory_kind(device: torch.device) -> str:
    """What `memory_of` gives, in words."""
    if device.type == "cuda":
        return "peak of torch's allocator during a run, beyond what was there before"
    return "tensors kept for the backward pass, weights and input apart"


def memory_of(variant: Variant) -> int | None:
    """Bytes as `memory_kind` says; None where torch cannot tell."""
    variant.prepare()
    if variant.x.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        variant.run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if variant.mode != "train" or variant.kind == COMPILED:
        return None
    return _kept_bytes(variant)


def _kept_bytes(variant: Variant) -> int:
    import ungated

    known = {tensor.untyped_storage().data_ptr() for tensor in (*variant.module.parameters(), variant.x)}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with ungated.backend(variant.path), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = variant.forward()
    del output
    return sum(size for place, size in kept.items() if place not in known)


def _first_runs(variant: Variant, compile_limit: float) -> Timing:
    """The first run, one for the memory, and one that tells how many a round needs."""
    limit = compile_limit if variant.kind == COMPILED else math.inf
    with _time_limit(limit):
        first_call = _timed(variant, 1)
    memory = memory_of(variant)
    return Timing(variant, first_call, memory, max(1, math.ceil(_SHORTEST / max(_timed(variant, 1), 1e-9))))


def _timed(variant: Variant, repeats: int) -> float:
    """Seconds of a run, the mean of `repeats`."""
    total = 0.0
    for _ in range(repeats):
        variant.prepare()
        _wait_for(variant.x)
        start = time.perf_counter()
        variant.run()
        _wait_for(variant.x)
        total += time.perf_counter() - start
    return total / repeats


def _wait_for(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


class _OutOfTime(BaseException):
    """Not an Exception: compilers catch those."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block once it has lasted that long; without effect outside the main thread."""
    if not math.isfinite(seconds) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _OutOfTime:
        raise TimeoutError(f"not compiled within {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

"""A recorder for machines without a GPU: it keeps the calls of torch's operators, and makes them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ungated.scan.graphs.recorder import Work


class Tape:
    """As a CUDA graph: the very calls, on the very memory, whatever Python would decide by now."""

    def __init__(self) -> None:
        self.recording = self.fails = self.in_use = False
        self.recorded = self.replayed = self.waited = 0

    def is_recorded(self) -> bool:
        return self.recording

    def record(self, work: Work) -> Work:
        assert self.in_use
        if self.fails:
            raise RuntimeError("no luck\nand more of it")
        work()
        with _Calls() as calls:
            work()
        self.recorded += 1
        return lambda: self._replay(calls.made)

    def _replay(self, calls: list[Callable[[], None]]) -> None:
        assert self.in_use
        self.replayed += 1
        for call in calls:
            call()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        assert not self.in_use
        self.in_use = True
        try:
            yield
        finally:
            self.in_use = False

    def wait(self) -> None:
        self.waited += 1


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[Callable[[], None]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a value was asked for, which no GPU knows while it is recorded")
        result = func(*args, **kwargs)
        given = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        fresh = [x for x in tree_leaves(result) if isinstance(x, Tensor) and _memory(x) not in given]

        def again() -> None:
            results = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for place, value in zip(fresh, results, strict=bool(fresh)):
                place.copy_(value)

        self.made.append(again)
        return result


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata

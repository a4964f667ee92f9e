"""CUDA graphs: work on a GPU recorded once, then replayed by one call where it took hundreds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Protocol

import torch

#: Work on tensors that stay where they are; what a recording replays.
Work = Callable[[], None]


class Recorder(Protocol):
    """Records work of one device."""

    def is_recorded(self) -> bool:
        """Whether the caller's own work is being recorded at the moment."""

    def record(self, work: Work) -> Work:
        """The replay of `work`, which is run for that, also in vain. Raises RuntimeError where that cannot be done."""

    def in_turn(self) -> AbstractContextManager[None]:
        """Around every use of recordings and of the tensors they work on: on all streams together, one at a time."""

    def wait(self) -> None:
        """Until the last use is over on the device too."""


class CudaRecorder:
    """CUDA graphs on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            # One stream for all recordings: cuBLAS keeps a workspace for every stream that it has ever run on.
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._last_use = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def is_recorded(self) -> bool:
        with torch.cuda.device(self._device):
            return bool(torch.cuda.is_current_stream_capturing())

    def record(self, work: Work) -> Work:
        graph, outside = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            work()  # what libraries set up at their first call cannot be recorded
            self._stream.synchronize()
            # Not `torch.cuda.graph`: it leaves the stream entered when a recording fails, and empties torch's cache.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        outside.wait_stream(self._stream)
        return graph.replay

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        # All recordings share that stream's workspace, so not even those with tensors of their own may overlap.
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._last_use)
            try:
                yield
            finally:
                self._last_use.record(stream)

    def wait(self) -> None:
        self._last_use.synchronize()


def recorder_of(device: torch.device) -> Recorder | None:
    """None: this device has none."""
    return _cuda_recorder(device) if device.type == "cuda" else None


@cache
def _cuda_recorder(device: torch.device) -> CudaRecorder:
    return CudaRecorder(device)

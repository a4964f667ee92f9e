"""The order in which torch is asked for a CUDA graph, with a torch.cuda that only writes it down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ungated.scan.graphs.recorder import CudaRecorder, recorder_of


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: Any) -> None:
        self.log.append(f"{self.name} waits for the last use")

    def synchronize(self) -> None:
        self.log.append(f"the host waits for {self.name}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    log: list[str] = []
    current = [Stream("main", log)]

    @contextmanager
    def stream(entered: Stream) -> Iterator[None]:
        current.append(entered)
        try:
            yield
        finally:
            current.pop()

    @contextmanager
    def device(entered: torch.device) -> Iterator[None]:
        log.append(f"on {entered}")
        yield

    event = SimpleNamespace(
        record=lambda stream: log.append(f"used on {stream.name}"), synchronize=lambda: log.append("wait for last use")
    )
    graph = SimpleNamespace(
        capture_begin=lambda capture_error_mode: log.append(f"begin, {capture_error_mode}"),
        capture_end=lambda: log.append("end"),
        replay=lambda: log.append("replay"),
    )
    for name, value in {
        "Stream": lambda: Stream("side", log),
        "Event": lambda: event,
        "CUDAGraph": lambda: graph,
        "stream": stream,
        "device": device,
        "current_stream": lambda: current[-1],
        "is_current_stream_capturing": lambda: False,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return log


def test_warmed_up_recorded_on_the_side_and_replayed_where_it_is_wanted(log: list[str]) -> None:
    recorder = CudaRecorder(torch.device("cuda", 1))
    log.clear()
    replay = recorder.record(lambda: log.append(f"work on {torch.cuda.current_stream().name}"))  # type: ignore[attr-defined]
    assert log == [
        "side waits for main",
        "work on side",
        "the host waits for side",
        "begin, thread_local",
        "work on side",
        "end",
        "main waits for side",
    ]
    replay()
    assert log[-1] == "replay"
    assert not recorder.is_recorded()


def test_a_failure_ends_the_recording_and_leaves_the_stream(log: list[str]) -> None:
    calls = []

    def work() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        CudaRecorder(torch.device("cuda", 0)).record(work)
    assert log[-1] == "end"
    assert torch.cuda.current_stream().name == "main"  # type: ignore[attr-defined]


def test_uses_follow_each_other_on_all_streams_also_after_an_error(log: list[str]) -> None:
    recorder = CudaRecorder(torch.device("cuda", 1))
    for stream in ("main", "side"):
        log.clear()
        with (
            torch.cuda.stream(Stream(stream, log)),  # type: ignore[arg-type]
            pytest.raises(ValueError, match="inside"),
            recorder.in_turn(),
        ):
            raise ValueError("inside")
        assert log == ["on cuda:1", f"{stream} waits for the last use", f"used on {stream}"]
    recorder.wait()
    assert log[-1] == "wait for last use"


def test_one_for_each_gpu_none_for_other_devices(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from ungated.scan.graphs import recorder

    recorder._cuda_recorder.cache_clear()
    first, again, second = (recorder_of(torch.device("cuda", k)) for k in (0, 0, 1))
    assert first is again
    assert second is not first
    assert recorder_of(torch.device("cpu")) is None
    recorder._cuda_recorder.cache_clear()

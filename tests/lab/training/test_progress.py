"""What is shown of a run, and that a lost terminal stops nothing."""

from __future__ import annotations

import contextlib
import io
import os
import time
from pathlib import Path

import pytest

from ungated.lab.training.progress import BarProgress, LineProgress, Outlook, Progress, make_progress

OUTLOOK = Outlook("jsb/rru: 6,898,864 parameters", "nll_per_frame", 100, 7)


def entry(epoch: int, value: float | None) -> dict[str, object]:
    return {"epoch": epoch, "train_loss": 9.5, "valid": {"nll_per_frame": value}}


def play(progress: Progress) -> None:
    """The calls of a run of two epochs."""
    progress.start(OUTLOOK, 1)
    for epoch, value in ((1, 8.25), (2, None)):
        for batch in range(3):
            progress.batch(batch + 1, 3, 9.0)
        progress.evaluating("valid", 1, 2)
        progress.epoch(entry(epoch, value), 8.25, epoch - 1)
    progress.notice("not [bold]bit-identical[/bold]")
    progress.stop()


def test_plain_lines_one_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 130.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    play(LineProgress(stream))
    assert stream.getvalue().splitlines() == [
        "jsb/rru: 6,898,864 parameters",
        "epoch 1: loss 9.5000, valid nll_per_frame 8.2500, best so far  at least 0:01:10 left",
        "epoch 2: loss 9.5000, valid nll_per_frame not a number, best 8.2500 1 epoch ago  at least 0:01:30 left",
        "not [bold]bit-identical[/bold]",
    ]


def test_time_left_is_exact_where_the_number_of_epochs_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = LineProgress(stream)
    progress.start(Outlook("", "nll_per_frame", 101, None), 1)
    progress.epoch(entry(1, 8.0), 8.0, 0)
    assert stream.getvalue().endswith("best so far  1:06:40 left\n")


def test_the_bar_shows_the_same_lines_above_it() -> None:
    stream = io.StringIO()
    play(BarProgress(stream))
    assert "epoch 1: loss 9.5000, valid nll_per_frame 8.2500" in stream.getvalue()
    assert "not [bold]bit-identical[/bold]" in stream.getvalue()


def test_quiet_lines_or_bar_by_the_stream() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert type(make_progress(quiet=True, stream=Terminal())) is Progress
    assert isinstance(make_progress(stream=io.StringIO()), LineProgress)
    assert isinstance(make_progress(stream=Terminal()), BarProgress)
    closed = io.StringIO()
    closed.close()
    play(make_progress(stream=closed))


@pytest.mark.parametrize("kind", [LineProgress, BarProgress])
def test_a_closed_stream_or_broken_pipe_stops_nothing(kind: type[LineProgress], tmp_path: Path) -> None:
    closed = (tmp_path / "log").open("w")
    progress = kind(closed)
    progress.start(OUTLOOK, 1)
    closed.close()
    play(progress)

    reading, writing = os.pipe()
    os.close(reading)
    pipe = os.fdopen(writing, "w", buffering=1)
    play(kind(pipe))
    with contextlib.suppress(BrokenPipeError):
        pipe.close()

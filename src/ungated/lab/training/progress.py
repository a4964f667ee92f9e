"""What a person sees of a run: a bar on a terminal, a line per epoch elsewhere, nothing if quiet.

Progress never stops a run: when the stream it writes to is gone, it falls silent.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO, cast


@dataclass(frozen=True)
class Outlook:
    """What of a run is known before it starts: the metric watched and when training ends."""

    title: str
    metric: str
    max_epochs: int
    patience: int | None


class Progress:
    """Quiet: the calls a run makes, all doing nothing. Subclasses show what they like."""

    def start(self, outlook: Outlook, epoch: int) -> None:
        """Training begins, or goes on, with epoch number `epoch` (from 1)."""

    def batch(self, done: int, total: int, loss: float) -> None:
        """`done` of the epoch's `total` updates are done; `loss` is the epoch's average so far."""

    def evaluating(self, split: str, done: int, total: int) -> None:
        """`done` of `total` batches of the split are evaluated."""

    def epoch(self, entry: Mapping[str, Any], best: float | None, waited: int) -> None:
        """An epoch is done: its line of metrics.jsonl, the best value so far, epochs since that."""

    def notice(self, text: str) -> None:
        """Something the person should know, in one sentence."""

    def stop(self) -> None:
        """Nothing more will come."""


class LineProgress(Progress):
    """One plain line per epoch and notice."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = _Lasting(stream or sys.stderr)
        self._outlook = Outlook("", "", 0, None)
        self._pace = _Pace()

    def start(self, outlook: Outlook, epoch: int) -> None:
        self._outlook = outlook
        self._pace.start()
        self._write(outlook.title)

    def epoch(self, entry: Mapping[str, Any], best: float | None, waited: int) -> None:
        self._pace.epoch()
        left = self._pace.left(self._outlook, entry["epoch"], waited)
        self._write(f"{_summary(self._outlook.metric, entry, best, waited)}  {left}")

    def notice(self, text: str) -> None:
        self._write(text)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class BarProgress(Progress):
    """A bar with loss, metric, best and time left, for a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._console = Console(file=cast(TextIO, _Lasting(stream or sys.stderr)))
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            refresh_per_second=4,
            transient=True,
        )
        self._task = self._bar.add_task("", note="", total=None)
        self._outlook = Outlook("", "", 0, None)
        self._pace = _Pace()
        self._epoch = 1
        self._left = ""

    def start(self, outlook: Outlook, epoch: int) -> None:
        self._outlook, self._epoch = outlook, epoch
        self._pace.start()
        self.notice(outlook.title)
        self._bar.start()

    def batch(self, done: int, total: int, loss: float) -> None:
        self._show(f"epoch {self._epoch}", done, total, f"loss {loss:.4g}  {self._left}")

    def evaluating(self, split: str, done: int, total: int) -> None:
        self._show(f"epoch {self._epoch} {split}", done, total, self._left)

    def epoch(self, entry: Mapping[str, Any], best: float | None, waited: int) -> None:
        self._pace.epoch()
        self._left = self._pace.left(self._outlook, entry["epoch"], waited)
        self._epoch = entry["epoch"] + 1
        self.notice(_summary(self._outlook.metric, entry, best, waited))

    def notice(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def stop(self) -> None:
        self._bar.stop()

    def _show(self, description: str, done: int, total: int, note: str) -> None:
        self._bar.update(self._task, description=description, completed=done, total=total, note=note)


def make_progress(*, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """What fits the stream (standard error by default): a bar on a terminal, lines elsewhere, nothing if quiet."""
    if quiet:
        return Progress()
    stream = stream or sys.stderr
    return BarProgress(stream) if _Lasting(stream).isatty() else LineProgress(stream)


class _Lasting:
    """A text stream that swallows text once what it wrote to is gone: closed file, broken pipe, no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"


class _Pace:
    """Seconds per epoch, by the monotonic clock, and from them the time left."""

    def __init__(self) -> None:
        self._began = 0.0
        self._epochs = 0

    def start(self) -> None:
        self._began, self._epochs = time.monotonic(), 0

    def epoch(self) -> None:
        self._epochs += 1

    def left(self, outlook: Outlook, epoch: int, waited: int) -> str:
        """Exact but for the pace where the number of epochs is fixed; else the least it can take."""
        to_come, at_least = outlook.max_epochs - epoch, ""
        if outlook.patience is not None and outlook.patience - waited < to_come:
            to_come, at_least = outlook.patience - waited, "at least "
        if to_come <= 0 or not self._epochs:
            return ""
        return f"{at_least}{_duration(to_come * (time.monotonic() - self._began) / self._epochs)} left"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{int(seconds):02d}"


def _summary(metric: str, entry: Mapping[str, Any], best: float | None, waited: int) -> str:
    value = entry["valid"].get(metric)
    now = "not a number" if value is None else f"{value:.4f}"
    words = f"epoch {entry['epoch']}: loss {entry['train_loss']:.4f}, valid {metric} {now}"
    if best is None:
        return words
    return f"{words}, best so far" if waited == 0 else f"{words}, best {best:.4f} {_times(waited)} ago"


def _times(epochs: int) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"

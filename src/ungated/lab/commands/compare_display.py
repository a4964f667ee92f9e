"""The progress of many runs: one bar with what runs now and the time left; lines where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Self

from ungated.lab.reports.metrics import duration
from ungated.lab.workers import Clock, Watcher


class Display(Watcher):
    """Quiet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the display."""


def make_display(
    labels: Sequence[str], kinds: Sequence[str], total: int, workers: int, *, quiet: bool = False
) -> Display:
    """What fits standard error: a bar on a terminal, lines elsewhere, nothing if quiet.

    labels: of the runs still to be done, in the order of their indices; kinds: what makes their times alike.
    """
    if quiet:
        return Display()
    kind = _Bar if sys.stderr.isatty() else _Lines
    return kind(labels, total, Clock(kinds, workers))


class _Lines(Display):
    """A line when a run is finished."""

    def __init__(self, labels: Sequence[str], total: int, clock: Clock) -> None:
        self.labels, self.total, self.clock = labels, total, clock
        self.done = total - len(labels)
        self.epochs: dict[int, int] = {}  # of what runs now
        if self.done:
            self.line(f"{self.done} of {total} runs were finished before")

    def hear(self, job: int, what: str, value: Any) -> None:
        self.clock.hear(job, what, value)
        if what == "started":
            self.epochs[job] = 0
        elif what == "epoch":
            self.epochs[job] = value[0]
        else:
            epochs = self.epochs.pop(job, 0)
            self.done += 1
            if what == "failed":
                self.line(f"{self.labels[job]} failed: {value}")
            else:
                left = self.left()
                self.line(
                    f"{self.labels[job]}: {epochs} epochs; {self.done} of {self.total} runs done"
                    + (f", about {left} left" if left and self.done < self.total else "")
                )

    def left(self) -> str:
        """The time left in words; empty while unknown."""
        seconds = self.clock.left()
        return "" if seconds is None else duration(seconds)

    def line(self, text: str) -> None:
        """A line on standard error."""
        print(text, file=sys.stderr, flush=True)


class _Bar(_Lines):
    """One bar for all runs."""

    def __init__(self, labels: Sequence[str], total: int, clock: Clock) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        super().__init__(labels, total, clock)
        self._task = self._bar.add_task("", total=total, completed=self.done, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tick(self) -> None:
        left = self.left()
        running = ", ".join(f"{self.labels[job]} epoch {epoch}" for job, epoch in sorted(self.epochs.items()) if epoch)
        self._bar.update(
            self._task,
            description=f"{self.done} of {self.total} runs" + (f", about {left} left" if left else ""),
            completed=self.done,
            note=running,
        )

    def line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

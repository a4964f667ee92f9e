"""The progress of a measurement: one bar on a terminal, a line a case elsewhere."""

from __future__ import annotations

import sys
from typing import Any, Self

from ungated.lab.bench.session import Watcher


class Display(Watcher):
    """Quiet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the display."""


def make_display(*, quiet: bool) -> Display:
    """What fits standard error."""
    if quiet:
        return Display()
    return _Bar() if sys.stderr.isatty() else _Lines()


class _Lines(Display):
    """A line when a case begins and when it is done."""

    def case(self, number: int, total: int, name: str) -> None:
        self.line(f"{number} of {total}: {name}")

    def done(self, entry: dict[str, Any]) -> None:
        medians = (
            f"{variant['name']} {variant['milliseconds']['median']:g} ms"
            for variant in entry["variants"]
            if variant["milliseconds"]["median"] is not None
        )
        self.line(f"  {', '.join(medians)}")
        for goal in entry["goals"]:
            met = "met" if goal["met"] else "not met"
            self.line(
                f"  {goal['of']} {goal['ratio']:g} of {goal['to']} ({goal['what']}), at most {goal['at_most']:g}: {met}"
            )

    def line(self, text: str) -> None:
        """A line on standard error."""
        print(text, file=sys.stderr, flush=True)


class _Bar(_Lines):
    """A bar over the cases, with what runs now."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._name = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def case(self, number: int, total: int, name: str) -> None:
        self._name = f"{number} of {total}: {name}"
        self._bar.update(self._task, total=total, completed=number - 1, description=self._name)

    def doing(self, what: str) -> None:
        self._bar.update(self._task, description=f"{self._name}: {what}")

    def done(self, entry: dict[str, Any]) -> None:
        self.line(entry["name"])
        super().done(entry)

    def line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

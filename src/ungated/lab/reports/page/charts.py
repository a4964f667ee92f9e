"""Small line charts that a page draws itself, in the colours of its text: there may be hundreds of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 320.0, 120.0


@dataclass(frozen=True)
class Chart:
    """A curve in a box of WIDTH by HEIGHT. points: "x,y x,y ..." for SVG; low, high: the ends of the vertical axis.

    best: where the mark of the best epoch stands, None without one.
    """

    title: str
    points: str
    low: str
    high: str
    epochs: int
    best: tuple[float, float] | None


def chart(title: str, values: Sequence[float | None], best_epoch: int | None) -> Chart | None:
    """The chart of a value per epoch; epochs without a finite one are left out. None where none has one."""
    seen = [(epoch, value) for epoch, value in enumerate(values, 1) if value is not None and math.isfinite(value)]
    if not seen:
        return None
    low, high = min(value for _, value in seen), max(value for _, value in seen)
    span = (high - low) or 1.0
    steps = max(1, len(values) - 1)

    def place(epoch: int, value: float) -> tuple[float, float]:
        return round(WIDTH * (epoch - 1) / steps, 1), round(HEIGHT * (high - value) / span, 1)

    points = " ".join(f"{x:g},{y:g}" for x, y in (place(*pair) for pair in seen))
    marked = next((place(epoch, value) for epoch, value in seen if epoch == best_epoch), None)
    return Chart(title, points, f"{low:.4g}", f"{high:.4g}", len(values), marked)

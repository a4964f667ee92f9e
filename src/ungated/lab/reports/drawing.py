"""What all figures share: a style that does without colour, and files that are the same for the same numbers."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ungated.lab.files import atomic_write, atomic_write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart with any colour vision, in an order that alternates dark and light; the line
#: style and the marker tell them apart in grey.
STYLES = (
    ("#000000", "-", "o"),
    ("#E69F00", "--", "s"),
    ("#0072B2", "-.", "^"),
    ("#56B4E9", ":", "D"),
    ("#D55E00", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#009E73", (0, (8, 2)), "P"),
    ("#CC79A7", (0, (3, 1)), "X"),
)

_STYLE_SHEET: dict[Any, Any] = {
    "font.size": 13,
    "axes.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "svg.hashsalt": "ungated",  # the same numbers give the same file
}

#: The width of every figure, in inches: at half a page's width its 13 point text is 6.5 points high.
WIDTH = 8.4
_REMARK_LETTERS = 88


@dataclass(frozen=True)
class Drawing:
    """A figure and the numbers in it. name: of its files. columns, rows: the table behind it, numbers unrounded."""

    name: str
    title: str
    caption: str
    figure: Figure = field(repr=False)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()

    @property
    def png(self) -> bytes:
        """200 dots an inch."""
        return self._saved("png", dpi=200, metadata={"Software": None})

    @property
    def svg(self) -> str:
        """Letters as outlines, so that no font is needed."""
        return self._saved("svg", metadata={"Date": None, "Creator": None}).decode("utf-8")

    @property
    def csv(self) -> str:
        """The rows; an empty field is what could not be measured, or is not published."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()

    def save(self, folder: str | Path, kinds: Sequence[str] = ("png", "svg", "csv")) -> list[Path]:
        """Write NAME.png, NAME.svg and NAME.csv into a folder, made if need be; return them. Raises LabError."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for kind in kinds:
            path = folder / f"{self.name}.{kind}"
            if kind == "png":
                atomic_write(path, self._write_png)
            else:
                atomic_write_text(path, self.svg if kind == "svg" else self.csv)
            paths.append(path)
        return paths

    def _write_png(self, file: BinaryIO) -> None:
        file.write(self.png)

    def _saved(self, kind: str, **options: Any) -> bytes:
        import matplotlib as mpl

        buffer = io.BytesIO()
        with mpl.rc_context(_STYLE_SHEET):
            self.figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


def draw(
    name: str,
    title: str,
    caption: str,
    height: float,
    paint: Callable[[Figure], None],
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    remark: str = "",
) -> Drawing:
    """A drawing, WIDTH by `height` inches, that `paint` fills; `columns` and `rows` are the numbers it shows.

    remark: what must not be lost where the picture is shown without its caption, written across its top.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE_SHEET):
        # The object-oriented interface: no global state, no display, safe in any process.
        lines = textwrap.wrap(remark, _REMARK_LETTERS)
        figure = Figure(figsize=(WIDTH, height + 0.25 * len(lines)), layout="constrained")
        FigureCanvasAgg(figure)
        if lines:
            figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=12, style="italic")
        paint(figure)
    return Drawing(name, title, caption, figure, columns, rows)

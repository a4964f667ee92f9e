"""The words that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ungated.lab.errors import UsageError

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME|KEY=VALUE",
        help="One data set (its cell with --cell) or recipe, and any settings; `ungated show` lists both.",
        show_default=False,
    ),
]
CellName = Annotated[
    str | None,
    typer.Option("--cell", help="rru, rhn, gru, lstm, mogrifier, or your own as FILE.py:Class.", show_default=False),
]
Seed = Annotated[int, typer.Option("--seed", help="Of every random number of the run.", min=0)]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, or cuda:1.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Where data files are; else the environment's UNGATED_DATA, else the user's cache.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result to standard output as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the Python traceback.")]


Text = Annotated[Path | None, typer.Option("--text", help="Instead of NAME: a text file of yours.", show_default=False)]
Midi = Annotated[
    Path | None, typer.Option("--midi", help="Instead of NAME: a folder of MIDI files of yours.", show_default=False)
]
Csv = Annotated[
    Path | None, typer.Option("--csv", help="Instead of NAME: a CSV file of numbers of yours.", show_default=False)
]


def name_and_settings(words: Sequence[str] | None, **own: Path | None) -> tuple[str | None, list[str]]:
    """What is named (a data set, a recipe, or KIND:PATH for one's own data), or None, and the settings.

    own: paths by kind. Raises UsageError where two things are named.
    """
    names = [word for word in words or () if "=" not in word]
    names += [f"{kind}:{path}" for kind, path in own.items() if path is not None]
    if len(names) > 1:
        raise UsageError(
            f"{names[0]} and {names[1]} are two names: give one data set or recipe, its cell with --cell,"
            " and settings as key=value"
        )
    return (names[0] if names else None), [word for word in words or () if "=" in word]

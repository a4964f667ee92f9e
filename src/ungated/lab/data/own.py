"""A user's own data by one name: `text:FILE`, `midi:FOLDER` or `csv:FILE`, usable wherever a data set is named."""

from __future__ import annotations

from collections.abc import Callable

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.own_csv import csv_data
from ungated.lab.data.own_midi import midi_data
from ungated.lab.data.own_text import text_data
from ungated.lab.errors import UsageError

OWN: dict[str, Callable[[str], DataSet]] = {"text": text_data, "midi": midi_data, "csv": csv_data}


def own_data(name: str) -> DataSet:
    """The data set `KIND:PATH`; further settings are its Options.

    Raises UsageError for another kind or no path, and what the kind's own function raises.
    """
    kind, colon, path = name.partition(":")
    if kind not in OWN or not path:
        known = ", ".join(f"{kind}:PATH" for kind in OWN)
        raise UsageError(f"own data are named {known}; got {name!r}" if colon else f"{name!r} is not one of {known}")
    return OWN[kind](path)

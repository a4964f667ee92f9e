"""Data sets by name, and what they load as."""

from __future__ import annotations

from ungated.lab.data.dataset import DataSet, NoOptions, Verification
from ungated.lab.data.digits import DIGITS
from ungated.lab.data.families import (
    ClassificationData,
    CopyData,
    Examples,
    Family,
    LanguageData,
    MusicData,
    RegressionData,
)
from ungated.lab.data.music import JSB, MUSEDATA, NOTTINGHAM, PIANO_MIDI
from ungated.lab.data.store import DataFile, data_directory
from ungated.lab.data.synthetic import ADDING, COPY_MEMORY

#: Every data set by its name: the only list.
DATASETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        JSB,
        NOTTINGHAM,
        MUSEDATA,
        PIANO_MIDI,
        DIGITS,
        ADDING,
        COPY_MEMORY,
    )
}

__all__ = [
    "DATASETS",
    "ClassificationData",
    "CopyData",
    "DataFile",
    "DataSet",
    "Examples",
    "Family",
    "LanguageData",
    "MusicData",
    "NoOptions",
    "RegressionData",
    "Verification",
    "data_directory",
]

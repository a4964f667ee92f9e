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
from ungated.lab.data.hutter import ENWIK8, ENWIK8_PREFIX, TEXT8, TEXT8_PREFIX
from ungated.lab.data.imdb import IMDB
from ungated.lab.data.mnist import PMNIST, SMNIST
from ungated.lab.data.music import JSB, MUSEDATA, NOTTINGHAM, PIANO_MIDI
from ungated.lab.data.own import own_data
from ungated.lab.data.own_csv import csv_data
from ungated.lab.data.own_midi import midi_data
from ungated.lab.data.own_text import text_data
from ungated.lab.data.ptb import PTB_CHAR, PTB_WORD
from ungated.lab.data.shakespeare import TINYSHAKESPEARE
from ungated.lab.data.store import DataFile, data_directory
from ungated.lab.data.synthetic import ADDING, COPY_MEMORY
from ungated.lab.data.wikitext import WIKITEXT_2, WIKITEXT_2_REORDERED

#: Every data set by its name: the only list.
DATASETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        JSB,
        NOTTINGHAM,
        MUSEDATA,
        PIANO_MIDI,
        PTB_WORD,
        PTB_CHAR,
        WIKITEXT_2,
        WIKITEXT_2_REORDERED,
        ENWIK8,
        ENWIK8_PREFIX,
        TEXT8,
        TEXT8_PREFIX,
        TINYSHAKESPEARE,
        IMDB,
        SMNIST,
        PMNIST,
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
    "csv_data",
    "data_directory",
    "midi_data",
    "own_data",
    "text_data",
]

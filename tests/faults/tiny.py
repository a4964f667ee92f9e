"""Data sets so small that a whole training run takes a fraction of a second, and recipes for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ungated.lab.data import DATASETS, DataSet, LanguageData, MusicData


def _songs(contents: Mapping[str, bytes], options: Any) -> MusicData:
    random = np.random.default_rng(0)
    splits = [[(random.random((length, 4)) < 0.4).astype(np.uint8) for length in (5, 9, 7, 4)] for _ in range(3)]
    return MusicData(*splits)


def _text(contents: Mapping[str, bytes], options: Any) -> LanguageData:
    random = np.random.default_rng(1)
    train, valid, test = (torch.from_numpy(random.integers(0, 5, size)) for size in (50, 22, 22))
    return LanguageData(train, valid, test, vocabulary=list("abcde"), unit="char", stream="standard")


def _data_set(name: str, kind: str, parse: Any) -> DataSet:
    return DataSet(
        name=name,
        kind=kind,
        summary="",
        licence="",
        source="",
        parse=parse,
        count=lambda data, options: {},
    )


#: Shuffled windows, recurrent dropout, the papers' optimiser.
MUSIC = """
name = "tiny-music/gru"
dataset = "tiny-music"
protocol = "paper"
[model]
hidden_size = 5
[cell]
name = "gru"
recurrent_dropout = 0.3
[task]
window = 6
train_stride = 3
[optimizer]
name = "rectified-laprop"
learning_rate = 0.01
[training]
batch_size = 2
max_epochs = 2
"""

#: Two layers, a carried state, dropout between the layers.
TEXT = """
name = "tiny-text/lstm"
dataset = "tiny-text"
protocol = "standard"
[model]
hidden_size = 4
num_layers = 2
dropout = 0.2
embedding_size = 3
[cell]
name = "lstm"
recurrent_dropout = 0.3
[task]
window = 5
reset_probability = 0.2
[optimizer]
name = "adam"
learning_rate = 0.01
[training]
batch_size = 4
max_epochs = 2
"""

RECIPES = {"music": MUSIC, "text": TEXT}


def register() -> None:
    """Make the tiny data sets known by name, in this process."""
    DATASETS["tiny-music"] = _data_set("tiny-music", "music", _songs)
    DATASETS["tiny-text"] = _data_set("tiny-text", "language", _text)

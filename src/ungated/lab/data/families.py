"""What a loaded data set is: one dataclass a family, the same for named sets and for one's own files.

`remarks` are sentences on what was changed or left out while reading one's own files, for the user to see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class MusicData:
    """Songs as piano rolls: arrays uint8 (T, 88) of 0 and 1, column = MIDI note - 21, silent frames kept."""

    train: list[NDArray[np.uint8]]
    valid: list[NDArray[np.uint8]]
    test: list[NDArray[np.uint8]]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LanguageData:
    """Three streams of ids, int64 (N,), and what each id stands for: a word, a character, or a byte's value.

    Ids that stand for no symbol of the text (padding, unknown) are strings such as "<pad>" in `vocabulary`.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: list[str | int]
    unit: str  # "word", "char" or "byte"
    stream: str  # "standard" or "paper"
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examples:
    """N sequences with a target each.

    inputs: float (N, T, m), or int64 ids (N, T). targets: int64 (N,) classes, float (N, k) values, or int64
    (N, T) ids. lengths: int64 (N,), steps that count (the rest is padding at the end); None if all do.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class ClassificationData:
    """Sequences to be put in one of `classes` classes (targets int64 (N,))."""

    train: Examples
    valid: Examples
    test: Examples
    classes: int
    vocabulary_size: int | None = None  # where inputs are ids


@dataclass(frozen=True)
class RegressionData:
    """Sequences with real values to be predicted after the last step (targets float (N, k)).

    names, mean, std: what the k targets are, and how to get from them to the values as they were given,
    `target * std + mean` (float (k,)); None where they are as given.
    """

    train: Examples
    valid: Examples
    test: Examples
    names: tuple[str, ...] = ()
    mean: Tensor | None = None
    std: Tensor | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class CopyData:
    """Sequences of ids below `symbols`, with an id to be predicted at every step (targets int64 (N, T))."""

    train: Examples
    valid: Examples
    test: Examples
    symbols: int


Family = MusicData | LanguageData | ClassificationData | RegressionData | CopyData

"""The classic synthetic memory tasks: `adding` and `copy-memory`, drawn from fixed seeds.

Everything comes from NumPy's RandomState, whose streams are frozen: the same on every machine and version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.families import CopyData, Examples, RegressionData
from ungated.lab.errors import RecipeError

_SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class _Sizes:
    train: int = 10_000  # sequences
    valid: int = 1_000
    test: int = 1_000
    seed: int = 0  # train, valid, test are drawn from RandomState(3 seed), (3 seed + 1), (3 seed + 2)

    def __post_init__(self) -> None:
        for option in fields(self):
            value, least = getattr(self, option.name), 0 if option.name == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RecipeError(f"{option.name} should be an int of at least {least}, got {value!r}")
        if self.seed > (2**32 - 3) // 3:
            raise RecipeError(f"seed should be at most {(2**32 - 3) // 3}, got {self.seed}")

    def draws(self) -> dict[str, tuple[int, np.random.RandomState]]:
        return {
            split: (getattr(self, split), np.random.RandomState(3 * self.seed + i)) for i, split in enumerate(_SPLITS)
        }


@dataclass(frozen=True)
class AddingOptions(_Sizes):
    """Sizes of `adding`."""

    length: int = 200  # steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 2:
            raise RecipeError(f"length should be at least 2, for two marked steps, got {self.length}")


def _adding(contents: Mapping[str, bytes], options: AddingOptions) -> RegressionData:
    """Feature 0: uniform in [0, 1); feature 1: 1 at two steps, else 0; target: the sum of the two marked values.

    The first mark is uniform over the first half of the steps, the second over the second half, as in
    Arjovsky et al. 2016, section 5.2 (the task is Hochreiter and Schmidhuber's, 1997, section 5.4). Always
    predicting 1 has a mean squared error of 1/6.
    """
    parts = {}
    for split, (count, random) in options.draws().items():
        values = random.uniform(size=(count, options.length))
        half = options.length // 2
        first = random.randint(0, half, size=count)
        second = random.randint(half, options.length, size=count)
        rows = np.arange(count)
        marks = np.zeros((count, options.length))
        marks[rows, first] = marks[rows, second] = 1.0
        parts[split] = Examples(
            torch.as_tensor(np.stack([values, marks], axis=-1), dtype=torch.float32),
            torch.as_tensor((values * marks).sum(axis=1, keepdims=True), dtype=torch.float32),
        )
    return RegressionData(parts["train"], parts["valid"], parts["test"])


@dataclass(frozen=True)
class CopyOptions(_Sizes):
    """Sizes of `copy-memory`."""

    length: int = 10  # symbols to be kept in mind
    delay: int = 100  # steps between the last of them and the first step where they are wanted
    symbols: int = 8  # kinds of them


def _copy_memory(contents: Mapping[str, bytes], options: CopyOptions) -> CopyData:
    """Ids 1..symbols are what is to be kept, 0 is blank, symbols + 1 the sign to begin.

    Input (2 length + delay steps): `length` random symbols, delay - 1 blanks, the sign, `length` blanks.
    Target: length + delay blanks, then the symbols in their order. Arjovsky et al. 2016, section 5.1, with
    T = delay: 10 of 8 kinds. Knowing all but the symbols, the mean cross entropy a step is
    length ln(symbols) / (2 length + delay).
    """
    length, delay = options.length, options.delay
    parts = {}
    for split, (count, random) in options.draws().items():
        symbols = random.randint(1, options.symbols + 1, size=(count, length))
        inputs = np.zeros((count, 2 * length + delay), dtype=np.int64)
        targets = np.zeros_like(inputs)
        inputs[:, :length] = symbols
        inputs[:, length + delay - 1] = options.symbols + 1
        targets[:, length + delay :] = symbols
        parts[split] = Examples(torch.from_numpy(inputs), torch.from_numpy(targets))
    return CopyData(**parts, symbols=options.symbols + 2)


def _count(data: RegressionData | CopyData, options: _Sizes) -> dict[str, int]:
    if options != type(options)():  # the counts listed are those of the defaults
        return {}
    return {f"{split} sequences": len(getattr(data, split)) for split in _SPLITS}


_COUNTS = {f"{split} sequences": getattr(_Sizes, split) for split in _SPLITS}

ADDING = DataSet(
    name="adding",
    kind="regression",
    summary="the sum of two marked numbers among `length`",
    licence="generated",
    source="Hochreiter and Schmidhuber 1997, section 5.4, as in https://arxiv.org/abs/1511.06464, section 5.2",
    parse=_adding,
    count=_count,
    counts=_COUNTS,
    Options=AddingOptions,
)

COPY_MEMORY = DataSet(
    name="copy-memory",
    kind="copy",
    summary="`length` symbols to be repeated after `delay` steps",
    licence="generated",
    source="Hochreiter and Schmidhuber 1997, as in https://arxiv.org/abs/1511.06464, section 5.1",
    parse=_copy_memory,
    count=_count,
    counts=_COUNTS,
    Options=CopyOptions,
)

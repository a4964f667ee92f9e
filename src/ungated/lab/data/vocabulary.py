"""From symbols to ids: which symbols there are, in which order, and streams of them as tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ungated.lab.errors import DataError

EOS = "<eos>"
PAD = "<pad>"
UNK = "<unk>"

#: What Keras' Tokenizer removes by default; the apostrophe stays.
_KERAS_FILTER = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))


def by_count_then_name(symbols: Iterable[str]) -> list[str]:
    """The distinct symbols by falling count, ties in alphabetical order (Mikolov's and Zaremba's way)."""
    return sorted((counts := Counter(symbols)), key=lambda symbol: (-counts[symbol], symbol))


def by_count_then_appearance(symbols: Iterable[str]) -> list[str]:
    """The distinct symbols by falling count, ties in order of first appearance (Keras' way)."""
    return [symbol for symbol, _ in Counter(symbols).most_common()]


def encode(symbols: Sequence[str], vocabulary: Sequence[str | int], unknown: str | None, where: str) -> Tensor:
    """Ids of the symbols, int64 (N,): their place in the vocabulary.

    A symbol outside the vocabulary gets the id of `unknown`; DataError naming it and `where` if that is None.
    """
    ids = {symbol: place for place, symbol in enumerate(vocabulary)}
    try:
        if unknown is None:
            numbers = [ids[symbol] for symbol in symbols]
        else:
            other = ids[unknown]
            numbers = [ids.get(symbol, other) for symbol in symbols]
    except KeyError as error:
        raise DataError(f"{where} has {error.args[0]!r}, which is not in the vocabulary") from None
    return torch.tensor(numbers, dtype=torch.int64)


def encode_bytes(text: NDArray[np.uint8], values: Sequence[int], first: int, unknown: int) -> Tensor:
    """Ids of bytes, int64 (N,): `first` + their place in `values`, or `unknown` if they are not there."""
    table = np.full(256, unknown, dtype=np.int64)
    table[list(values)] = first + np.arange(len(values))
    return torch.from_numpy(table[text])


def keras_words(text: str) -> list[str]:
    """The words of Keras' `text_to_word_sequence` by its defaults.

    Lower case; punctuation but the apostrophe, tab and newline become spaces; then split at spaces, and only
    there (a no-break space or a C1 control character is part of a word).
    """
    return list(filter(None, text.lower().translate(_KERAS_FILTER).split(" ")))

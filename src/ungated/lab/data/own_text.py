"""A user's own text as a language data set: characters, words or bytes.

One stream, split by place into 90 % train, 5 % valid, 5 % test. Rules:

- "char" and "word" need text in a named encoding (UTF-8). A byte order mark at the start is dropped; `\\r\\n` and
  `\\r` become `\\n`; a NUL means the file is binary and is refused. Nothing else is changed.
- "word": words are what stands between spaces (and other white space); every line end is a word of its own, `<eos>`.
- "byte": the file as it is, 256 symbols at most, whatever it holds.
- The vocabulary comes from the training part, by falling count, ties in code point order. What is not in it, or
  falls beyond `vocabulary_size`, becomes `<unk>`, which is in the vocabulary only if it is needed.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from torch import Tensor

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.decoding import decoded
from ungated.lab.data.families import LanguageData
from ungated.lab.data.naming import own_name, own_options
from ungated.lab.data.streams import count_stream, split_points
from ungated.lab.data.vocabulary import EOS, UNK, by_count_then_name, encode, encode_bytes
from ungated.lab.errors import DataError, DataMissingError, RecipeError

_UNITS = ("char", "word", "byte")
Symbol = TypeVar("Symbol")
_LEAST = 40  # symbols: two in each held-out part, so that there is something to predict


@dataclass(frozen=True)
class TextOptions:
    """How a text becomes symbols."""

    unit: Literal["char", "word", "byte"] = "char"
    encoding: str = "utf-8"
    vocabulary_size: int | None = None  # most symbols, `<unk>` included; None: all of the training part

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            raise RecipeError(f"unit should be one of {', '.join(_UNITS)}, got {self.unit!r}")
        try:
            codecs.lookup(self.encoding)
        except (LookupError, TypeError, ValueError):
            raise RecipeError(f"encoding {self.encoding!r} is not known; use for example utf-8 or latin-1") from None
        if self.vocabulary_size is not None and self.vocabulary_size < 2:
            raise RecipeError(f"vocabulary_size should be at least 2, got {self.vocabulary_size}")


def text_data(
    path: str | Path, unit: str = "char", *, encoding: str = "utf-8", vocabulary_size: int | None = None
) -> DataSet:
    """The text file as a language data set; see the module for the rules, `TextOptions` for the arguments.

    Raises DataMissingError where there is no such file. `load` raises DataError, with file, line and byte, for
    text that is not in the encoding, is binary, empty, or too short to be split.
    """
    path = Path(path).expanduser().absolute()
    if not path.is_file():
        raise DataMissingError(f"there is no text file {path}")
    options = own_options(TextOptions, unit=unit, encoding=encoding, vocabulary_size=vocabulary_size)
    return DataSet(
        name=own_name("text", path),
        kind="language",
        summary=f"the text file {path}",
        licence="your own",
        source=str(path),
        parse=_parse,
        count=count_stream,
        paths=(path,),
        Options=options,
    )


def _parse(contents: Mapping[str, bytes], options: TextOptions) -> LanguageData:
    ((path, content),) = contents.items()
    if not content:
        raise DataError(f"{path} is empty: it should hold the text to be learned")
    return (_bytes if options.unit == "byte" else _symbols)(path, content, options)


def _bytes(path: str, content: bytes, options: TextOptions) -> LanguageData:
    text = np.frombuffer(content, dtype=np.uint8)
    valid, test = _cut(path, len(text), "bytes")
    counts = np.bincount(text[:valid], minlength=256)
    values = sorted(np.flatnonzero(counts).tolist(), key=lambda value: (-counts[value], value))
    kept, unknown = _limited(values, bool(np.isin(text[valid:], values, invert=True).any()), options)
    ids = encode_bytes(text, kept, first=0, unknown=len(kept))
    return _data(ids, valid, test, [*kept, *unknown], options, [])


def _symbols(path: str, content: bytes, options: TextOptions) -> LanguageData:
    text, remarks = decoded(path, content, options.encoding, "unit=byte reads it as it is")
    symbols: list[str] = list(text)
    if options.unit == "word":
        if not text.endswith("\n"):
            text += "\n"  # the last line is a line, with or without its end
        symbols = text.replace("\n", f" {EOS} ").split()
    valid, test = _cut(path, len(symbols), f"{options.unit}s")
    distinct = by_count_then_name(symbols[:valid])
    known = set(distinct)
    kept, unknown = _limited(distinct, any(symbol not in known for symbol in symbols[valid:]), options)
    vocabulary: list[str | int] = [*kept, *(symbol for symbol in unknown if symbol not in kept)]
    ids = encode(symbols, vocabulary, UNK if UNK in vocabulary else None, path)
    return _data(ids, valid, test, vocabulary, options, remarks)


def _limited(symbols: list[Symbol], unseen: bool, options: TextOptions) -> tuple[list[Symbol], list[str]]:
    """Those that are kept, and [UNK] if something is left to stand for."""
    limit = options.vocabulary_size
    if limit is not None and len(symbols) + unseen > limit:
        return symbols[: limit - 1], [UNK]
    return symbols, [UNK] if unseen else []


def _cut(path: str, length: int, what: str) -> tuple[int, int]:
    if length < _LEAST:
        raise DataError(f"{path} has {length} {what}; {_LEAST} are the least that can be split into three parts")
    return split_points(length)


def _data(
    ids: Tensor,
    valid: int,
    test: int,
    vocabulary: list[str | int],
    options: TextOptions,
    remarks: list[str],
) -> LanguageData:
    if UNK in vocabulary:
        unknown = ids == vocabulary.index(UNK)
        parts = (("training", unknown[:valid]), ("valid", unknown[valid:test]), ("test", unknown[test:]))
        shares = ", ".join(f"{int(part.sum()):,} in {name}" for name, part in parts)
        remarks = [*remarks, f"symbols that are {UNK}: {shares}"]
    return LanguageData(
        ids[:valid],
        ids[valid:test],
        ids[test:],
        vocabulary=vocabulary,
        unit=options.unit,
        stream="standard",
        remarks=tuple(remarks),
    )

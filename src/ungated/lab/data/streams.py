"""What the sets of symbol streams share: which stream is made of a text, and how it is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ungated.lab.data.families import LanguageData
from ungated.lab.errors import RecipeError

SPLITS = ("train", "valid", "test")
_STREAMS = ("standard", "paper")


@dataclass(frozen=True)
class StreamOptions:
    """Which stream of symbols is made of the text: "standard" or "paper"."""

    stream: Literal["standard", "paper"] = "standard"

    def __post_init__(self) -> None:
        if self.stream not in _STREAMS:
            raise RecipeError(f'stream should be "standard" or "paper", got {self.stream!r}')


def count_stream(data: LanguageData, options: object) -> dict[str, int]:
    """Tokens of each split, and size of the vocabulary, named after the stream."""
    counts = {f"{split} tokens ({data.stream})": len(getattr(data, split)) for split in SPLITS}
    return {**counts, f"vocabulary ({data.stream})": len(data.vocabulary)}


def split_points(length: int) -> tuple[int, int]:
    """Where valid and test begin in one stream split 90/5/5: each held-out part is floor(length / 20)."""
    held_out = length // 20
    return length - 2 * held_out, length - held_out

"""Vocabularies, ids, and the words Keras makes of a text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ungated.lab.data.vocabulary import (
    by_count_then_appearance,
    by_count_then_name,
    encode,
    encode_bytes,
    keras_words,
)
from ungated.lab.errors import DataError


def test_order_of_a_vocabulary() -> None:
    symbols = list("dcbabce")
    assert by_count_then_name(symbols) == ["b", "c", "a", "d", "e"]
    assert by_count_then_appearance(symbols) == ["c", "b", "d", "a", "e"]


def test_encode() -> None:
    assert torch.equal(encode("abca", ["c", "b", "a"], None, ""), torch.tensor([2, 1, 0, 2]))
    assert torch.equal(encode("axc", ["c", "?", "a"], "?", ""), torch.tensor([2, 1, 0]))
    assert encode("", ["a"], None, "").dtype == torch.int64
    with pytest.raises(DataError, match=r"the test split has 'x', which is not in the vocabulary"):
        encode("ax", ["a"], None, "the test split")


def test_encode_bytes() -> None:
    text = np.frombuffer(b"\xff\x00A", dtype=np.uint8)
    assert encode_bytes(text, [0, 255], 2, 1).tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's  <b>GREAT</b>!", ["it's", "b", "great", "b"]),
        ("u.s. third-quarter s&p $ 1,000", ["u", "s", "third", "quarter", "s", "p", "1", "000"]),
        ("a\tb\nc\rd", ["a", "b", "c\rd"]),
        ("x\x96y\xa0z É", ["x\x96y\xa0z", "é"]),
        ("$ & # * ''", ["''"]),
        ("", []),
    ],
)
def test_keras_words(text: str, words: list[str]) -> None:
    assert keras_words(text) == words

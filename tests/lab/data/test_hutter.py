"""enwik8 and text8: ids of both streams, the split, and prefixes that say so."""

from __future__ import annotations

import pytest

from ungated.lab.data import DATASETS, hutter
from ungated.lab.data.streams import StreamOptions

# 40 bytes: 36 train, 2 valid, 2 test; "z" is in test alone.
TEXT = b"ba" + b"c" * 33 + b"a" + b"ab" + b"cz"


def test_standard_ids_are_ranks_in_the_whole_file() -> None:
    data = hutter._parse("char")({"x": TEXT}, StreamOptions("standard"))
    assert data.vocabulary == ["a", "b", "c", "z"]
    assert [len(part) for part in (data.train, data.valid, data.test)] == [36, 2, 2]
    assert data.train[:3].tolist() == [1, 0, 2]
    assert data.valid.tolist() == [0, 1]
    assert data.test.tolist() == [2, 3]


def test_paper_ids_are_in_order_of_appearance_in_training() -> None:
    data = hutter._parse("byte")({"x": TEXT}, StreamOptions("paper"))
    assert data.vocabulary == ["<pad>", "<unk>", ord("b"), ord("a"), ord("c")]
    assert data.train[:3].tolist() == [2, 3, 4]
    assert data.test.tolist() == [4, 1]
    assert (data.unit, data.stream) == ("byte", "paper")


@pytest.mark.parametrize(("name", "symbols"), [("enwik8", 205), ("text8", 27)])
def test_published_counts(name: str, symbols: int) -> None:
    for stream, extra in (("standard", 0), ("paper", 2)):
        assert DATASETS[name].counts[f"train tokens ({stream})"] == 90_000_000
        assert DATASETS[name].counts[f"valid tokens ({stream})"] == 5_000_000
        assert DATASETS[name].counts[f"test tokens ({stream})"] == 5_000_000
        assert DATASETS[name].counts[f"vocabulary ({stream})"] == symbols + extra


@pytest.mark.parametrize("name", ["enwik8", "text8"])
def test_a_prefix_never_stands_for_the_whole(name: str) -> None:
    whole, prefix = DATASETS[name], DATASETS[f"{name}-prefix"]
    assert not whole.alternatives
    assert whole.files[0].path != prefix.files[0].path
    assert "not comparable" in prefix.summary
    assert prefix.size < whole.size == 100_000_000

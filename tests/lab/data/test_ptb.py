"""Penn Treebank: the two streams by hand, and the published facts on the real files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ungated.lab.data import DATASETS, LanguageData, ptb
from ungated.lab.data.streams import StreamOptions
from ungated.lab.errors import DataError, RecipeError

WORDS = {
    "train": b" a b's $ a-b \n u.s. N a \n",
    "valid": b" a zzz \n",
    "test": b" N \n",
}
CHARS = {"train": b"a b _ b \n a \n ", "valid": b"a \n ", "test": b"b _ \n "}


def load(name: str, data_dir: Path, stream: str) -> LanguageData:
    data = DATASETS[name].load(data_dir, StreamOptions(stream), download=False)
    assert isinstance(data, LanguageData)
    return data


def symbols(data: LanguageData, split: str = "train") -> list[str | int]:
    return [data.vocabulary[i] for i in getattr(data, split).tolist()]


def test_words_standard() -> None:
    contents = WORDS | {"valid": b" a \n"}
    data = ptb._words(contents, StreamOptions("standard"))
    assert symbols(data) == ["a", "b's", "$", "a-b", "<eos>", "u.s.", "N", "a", "<eos>"]
    assert data.vocabulary == ["<eos>", "a", "$", "N", "a-b", "b's", "u.s."]
    assert symbols(data, "test") == ["N", "<eos>"]
    assert (data.unit, data.stream) == ("word", "standard")
    with pytest.raises(DataError, match=r"ptb valid has 'zzz'"):
        ptb._words(WORDS, StreamOptions("standard"))


def test_words_paper() -> None:
    data = ptb._words(WORDS, StreamOptions("paper"))
    assert data.vocabulary == ["<pad>", "<oov>", "a", "b's", "b", "u", "s", "n"]
    assert symbols(data) == ["a", "b's", "a", "b", "u", "s", "n", "a"]
    assert symbols(data, "valid") == ["a", "<oov>"]


def test_words_paper_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptb, "_KERAS_NUM_WORDS", 5)
    data = ptb._words(WORDS, StreamOptions("paper"))
    assert data.vocabulary == ["<pad>", "<oov>", "a", "b's", "b"]
    assert data.train.tolist() == [2, 3, 2, 4, 1, 1, 1, 2]


def test_characters() -> None:
    standard = ptb._characters(CHARS, StreamOptions("standard"))
    assert standard.vocabulary == ["\n", "a", "b", "_"]
    assert symbols(standard) == ["a", "b", "_", "b", "\n", "a", "\n"]
    paper = ptb._characters(CHARS, StreamOptions("paper"))
    assert paper.vocabulary == ["<pad>", "<unk>", "a", "b", "_"]
    assert symbols(paper) == ["a", "b", "_", "b", "a"]


def test_stream_is_one_of_two() -> None:
    with pytest.raises(RecipeError, match=r'stream should be "standard" or "paper", got \'papper\''):
        StreamOptions("papper")


# ---- the real files: counts are checked on load; here is what else is published --------------------------


def unigram_perplexity(data: LanguageData) -> float:
    counts = torch.bincount(data.train, minlength=len(data.vocabulary)).double()
    return math.exp(-(counts / counts.sum())[data.test].log().mean().item())


@pytest.mark.parametrize(("stream", "perplexity"), [("standard", 639.3), ("paper", 707.8)])
def test_unigram_perplexity(stream: str, perplexity: float, data_dir: Path) -> None:
    assert abs(unigram_perplexity(load("ptb-word", data_dir, stream)) - perplexity) < 0.05


def test_unknown_words(data_dir: Path) -> None:
    standard = load("ptb-word", data_dir, "standard")
    paper = load("ptb-word", data_dir, "paper")
    parts = [[data.train, data.valid, data.test] for data in (standard, paper)]
    unk = standard.vocabulary.index("<unk>")
    assert [int((part == unk).sum()) for part in parts[0]] == [45_020, 3_485, 4_794]
    # The cut takes one word, "isi", once in train and nine times in valid.
    assert [int((part == 1).sum()) for part in parts[1]] == [1, 9, 0]
    assert not any((part == 0).any() for part in parts[1])
    assert paper.vocabulary.index("unk") == 3
    assert int((paper.train == 3).sum()) == 45_020
    assert int((paper.train == paper.vocabulary.index("n")).sum()) == 32_691


def test_special_characters_never_occur(data_dir: Path) -> None:
    paper = load("ptb-char", data_dir, "paper")
    assert min(int(part.min()) for part in (paper.train, paper.valid, paper.test)) == 2
    standard = load("ptb-char", data_dir, "standard")
    assert int((standard.test == standard.vocabulary.index("\n")).sum()) == 3_761

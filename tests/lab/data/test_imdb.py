"""IMDB: ids by hand on a tiny archive, hostile members, and the facts of the real reviews."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ungated.lab.data import DATASETS, imdb
from ungated.lab.data.imdb import ImdbOptions
from ungated.lab.data.store import read
from ungated.lab.errors import DataError, RecipeError

TRAIN_NEG = ["bad film", "bad plot bad film"]
TRAIN_POS = ["A good film!", "good<br />good"]


def archive(changes: dict[str, bytes] | None = None) -> dict[str, bytes]:
    members = {
        **{f"aclImdb/train/neg/{i}_1.txt": text.encode() for i, text in enumerate(TRAIN_NEG)},
        **{f"aclImdb/train/pos/{i}_10.txt": text.encode() for i, text in enumerate(TRAIN_POS)},
        "aclImdb/train/unsup/0_0.txt": b"neither",
        "aclImdb/train/urls_pos.txt": b"x",
        "aclImdb/test/neg/0_4.txt": b"bad unseen film",
        "aclImdb/test/pos/0_7.txt": b"",
        "aclImdb/README": b"x",
    } | (changes or {})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in sorted(members.items(), reverse=True):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {"reviews.tar.gz": buffer.getvalue()}


def test_reviews_are_in_the_order_of_their_numbers() -> None:
    train, test = imdb.reviews(archive({"aclImdb/train/neg/10_1.txt": b"ten", "aclImdb/train/neg/9_1.txt": b"nine"}))
    assert [words for words, _ in train] == [
        ["bad", "film"],
        ["bad", "plot", "bad", "film"],
        ["nine"],
        ["ten"],
        ["a", "good", "film"],
        ["good", "br", "good"],
    ]
    assert [label for _, label in train] == [0, 0, 0, 0, 1, 1]
    assert test == [(["bad", "unseen", "film"], 0), ([], 1)]


def test_word_index() -> None:
    texts = [words for words, _ in imdb.reviews(archive())[0]]
    # bad, film and good three times each, in order of appearance, then plot, a, br.
    assert imdb.word_index(texts, 100) == {"bad": 4, "film": 5, "good": 6, "plot": 7, "a": 8, "br": 9}
    assert imdb.word_index(texts, 7) == {"bad": 4, "film": 5, "good": 6, "plot": 2, "a": 2, "br": 2}


def test_ids() -> None:
    data = imdb._parse(archive(), ImdbOptions(vocabulary_size=8, length=4))
    assert data.classes == 2
    assert data.vocabulary_size == 8
    # The unseen word is left out; the empty review is its start alone.
    assert data.test.inputs.tolist() == [[1, 4, 5, 0], [1, 0, 0, 0]]
    assert data.test.lengths is not None
    assert data.test.lengths.tolist() == [3, 1]
    assert data.test.targets.tolist() == [0, 1]
    # The longest review keeps its last four ids: its start is cut off.
    rows = {tuple(row) for row in data.train.inputs.tolist() + data.valid.inputs.tolist()}
    assert rows == {(1, 4, 5, 0), (4, 7, 4, 5), (1, 2, 6, 5), (1, 6, 2, 6)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aclImdb/train/neg/7_8.txt": b"x"}, r"neg/7_8.txt has a rating outside 1 to 4"),
        ({"aclImdb/test/pos/7_11.txt": b"x"}, r"pos/7_11.txt has a rating outside 7 to 10"),
        ({"aclImdb/train/pos/7_8.txt": b"ab\xff"}, r"pos/7_8.txt is not UTF-8 at byte 2"),
        ({"aclImdb/train/pos/../../../evil": b"x"}, r"refused as a whole"),
        ({"/aclImdb/train/pos/7_8.txt": b"x"}, r"refused as a whole"),
    ],
)
def test_members_that_cannot_be(changes: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        imdb.reviews(archive(changes))


def test_no_reviews_at_all() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    with pytest.raises(DataError, match=r"x has 0 training and 0 test reviews"):
        imdb.reviews({"x": buffer.getvalue()})


@pytest.mark.parametrize("options", [{"vocabulary_size": 4}, {"length": 0}, {"length": True}, {"length": 5.0}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match=next(iter(options))):
        ImdbOptions(**options)


@pytest.fixture(scope="module")
def real_reviews(data_dir: Path) -> tuple[list[imdb.Review], list[imdb.Review]]:
    files = DATASETS["imdb"]._chosen(data_dir)
    if files is None:
        pytest.skip("imdb is not in the data directory")
    return imdb.reviews({file.path: read(data_dir, file) for file in files})


def test_real_reviews_are_like_keras(real_reviews: tuple[list[imdb.Review], list[imdb.Review]]) -> None:
    """The figures known of Keras' arrays: words in all, mean, shortest and longest review."""
    train, test = real_reviews
    index = imdb.word_index([words for words, _ in train], 1 << 30)
    assert len(index) == 88_582
    assert list(index)[:10] == ["the", "and", "a", "of", "to", "is", "br", "in", "it", "i"]
    lengths = np.array([1 + len(words) for words, _ in train])
    assert abs(lengths.mean() - 238.71364) < 1e-9
    assert (lengths.min(), lengths.max()) == (11, 2494)
    lengths = np.array([1 + sum(word in index for word in words) for words, _ in test])
    assert abs(lengths.mean() - 230.8042) < 2e-4
    assert (lengths.min(), lengths.max()) == (7, 2315)


def test_real_ids(real_reviews: tuple[list[imdb.Review], list[imdb.Review]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imdb, "reviews", lambda contents: real_reviews)
    data = imdb._parse({}, ImdbOptions())
    for part in (data.train, data.valid, data.test):
        assert part.lengths is not None
        assert part.inputs.shape == (len(part), 512)
        assert int(part.inputs.max()) < 10_000
        assert int(part.lengths.min()) > 0
        assert torch.equal((part.inputs != 0).sum(1), part.lengths)
        assert 0.4 < part.targets.double().mean() < 0.6
        assert not (part.inputs == 3).any()

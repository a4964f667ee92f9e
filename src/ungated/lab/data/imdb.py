"""IMDB movie reviews (Maas et al. 2011): sentiment of 50,000 reviews as sequences of word ids.

The RRU paper uses the ids that come with Keras (`keras.datasets.imdb`), whose word index was never published as
code; ours is built from the reviews by the same rules, as far as they are known:

- Words as Keras' Tokenizer makes them by default (lower case, punctuation but the apostrophe to spaces; the
  `<br />` of line breaks becomes the word `br`). That gives 88,582 distinct ones in training, where Keras' index
  has 88,584, and lengths as in Keras' arrays: mean 238.71364 in training, 230.8043 (Keras 230.8042) in test.
- Ids: 0 padding, 1 start of a review, 2 out of vocabulary, then from 4 on words by falling count in the training
  reviews (3 is never used). Ties: order of first appearance, reading neg, then pos, each by number; how Keras'
  index breaks ties is unknown. Ids from `vocabulary_size` on become 2. Words of the test reviews that training
  does not have are left out, as Keras documents it.
- Reviews longer than `length` ids keep their last ones (and so lose the start), shorter ones are padded at the
  end. Training reviews (neg, then pos, by number) are shuffled once by NumPy's RandomState(113), Keras' seed; the
  last 5,000 are valid. Test reviews keep their order. The reviews of Keras' validation part are others than
  ours: its file had been shuffled before, in an order that is not known.

Labels: 0 negative, 1 positive.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from io import BytesIO

import numpy as np
import torch

from ungated.lab.data.archive import read_archive
from ungated.lab.data.dataset import DataSet
from ungated.lab.data.families import ClassificationData, Examples
from ungated.lab.data.store import DataFile
from ungated.lab.data.vocabulary import keras_words
from ungated.lab.errors import DataError, RecipeError

PADDING, START, OUT_OF_VOCABULARY, FIRST_WORD = 0, 1, 2, 4
_SEED = 113
_VALID = 5_000
_MEMBER = re.compile(r"aclImdb/(train|test)/(neg|pos)/(\d+)_(\d+)\.txt")
_RATINGS = {"neg": range(1, 5), "pos": range(7, 11)}


@dataclass(frozen=True)
class ImdbOptions:
    """How reviews become ids."""

    vocabulary_size: int = 10_000  # ids in all, the four special ones included
    length: int = 512  # ids of a review that are kept, the last ones

    def __post_init__(self) -> None:
        for option, least in zip(fields(self), (FIRST_WORD + 1, 1), strict=True):
            value = getattr(self, option.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RecipeError(f"{option.name} should be an int of at least {least}, got {value!r}")


def _parse(contents: Mapping[str, bytes], options: ImdbOptions) -> ClassificationData:
    train, test = reviews(contents)
    index = word_index([words for words, _ in train], options.vocabulary_size)
    order = np.arange(len(train))
    np.random.RandomState(_SEED).shuffle(order)
    train = [train[place] for place in order]
    cut = len(train) - min(_VALID, len(train) // 5)
    return ClassificationData(
        train=_examples(train[:cut], index, options.length),
        valid=_examples(train[cut:], index, options.length),
        test=_examples(test, index, options.length),
        classes=2,
        vocabulary_size=options.vocabulary_size,
    )


Review = tuple[list[str], int]  # words, label


def reviews(contents: Mapping[str, bytes]) -> tuple[list[Review], list[Review]]:
    """Training and test reviews of the archive, neg then pos, each by number."""
    ((path, content),) = contents.items()
    members = read_archive(BytesIO(content), path, lambda name: bool(_MEMBER.fullmatch(name)), max_members=150_000)
    found: dict[str, list[tuple[str, int, list[str]]]] = {"train": [], "test": []}
    for name, text in members.items():
        split, side, number, rating = _MEMBER.fullmatch(name).groups()  # type: ignore[union-attr]
        if int(rating) not in _RATINGS[side]:
            raise DataError(f"{path}: {name} has a rating outside {_RATINGS[side][0]} to {_RATINGS[side][-1]}")
        try:
            words = keras_words(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: {name} is not UTF-8 at byte {error.start}") from error
        found[split].append((side, int(number), words))
    train, test = (
        [(words, int(side == "pos")) for side, _, words in sorted(found[split], key=lambda review: review[:2])]
        for split in ("train", "test")
    )
    if not train or not test:
        raise DataError(f"{path} has {len(train):,} training and {len(test):,} test reviews")
    return train, test


def word_index(texts: list[list[str]], vocabulary_size: int) -> dict[str, int]:
    """The id of every word of the texts: by falling count from 4 on, 2 from `vocabulary_size` on."""
    counts: Counter[str] = Counter()
    for words in texts:
        counts.update(words)
    return {
        word: place if place < vocabulary_size else OUT_OF_VOCABULARY
        for place, (word, _) in enumerate(counts.most_common(), start=FIRST_WORD)
    }


def _examples(reviews: list[Review], index: Mapping[str, int], length: int) -> Examples:
    inputs = np.full((len(reviews), length), PADDING, dtype=np.int64)
    lengths = np.zeros(len(reviews), dtype=np.int64)
    for row, (words, _) in enumerate(reviews):
        ids = [START, *filter(None, map(index.get, words))][-length:]
        inputs[row, : len(ids)] = ids
        lengths[row] = len(ids)
    labels = torch.tensor([label for _, label in reviews])
    return Examples(torch.from_numpy(inputs), labels, torch.from_numpy(lengths))


def _count(data: ClassificationData, options: object) -> dict[str, int]:
    counts = {}
    for split in ("train", "valid", "test"):
        counts[f"{split} reviews"] = len(getattr(data, split))
    positive = int(data.train.targets.sum() + data.valid.targets.sum())
    return {**counts, "train and valid positive": positive, "test positive": int(data.test.targets.sum())}


IMDB = DataSet(
    name="imdb",
    kind="classification",
    summary="movie reviews, positive or negative, as word ids",
    licence="free for research with citation; the reviews belong to their writers and IMDb",
    source="Maas et al. 2011, https://ai.stanford.edu/~amaas/data/sentiment/",
    parse=_parse,
    count=_count,
    counts={
        "train reviews": 20_000,
        "valid reviews": 5_000,
        "test reviews": 25_000,
        "train and valid positive": 12_500,
        "test positive": 12_500,
    },
    files=(
        DataFile(
            path="imdb/aclImdb_v1.tar.gz",
            urls=(
                "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
                "https://bj.bcebos.com/dataset/imdb%2FaclImdb_v1.tar.gz",
            ),
            checksum="md5:7c2ac02c03563afcf9b574c7e56c153a",
            size=84_125_825,
        ),
    ),
    alternatives=(
        (
            # The labelled reviews alone, repacked.
            DataFile(
                path="imdb/aclImdb_labelled.tar.xz",
                urls=(),
                checksum="sha256:e2f00b54ea30fba36ecc2f745a1478c992f0d44b60f0a6d471e2e14937bc0d3b",
                size=19_058_632,
            ),
        ),
    ),
    Options=ImdbOptions,
)

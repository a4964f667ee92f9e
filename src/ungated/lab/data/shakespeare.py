"""Tiny Shakespeare (Karpathy 2015): 40,000 lines of plays as one text of characters.

Split 90/5/5 by place in the text. Ids by falling training count, ties in code point order; all characters of the
held-out parts occur in training.
"""

from __future__ import annotations

from collections.abc import Mapping

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.families import LanguageData
from ungated.lab.data.store import DataFile
from ungated.lab.data.streams import count_stream, split_points
from ungated.lab.data.vocabulary import by_count_then_name, encode


def _parse(contents: Mapping[str, bytes], options: object) -> LanguageData:
    (content,) = contents.values()
    text = content.decode("ascii")
    valid, test = split_points(len(text))
    vocabulary = by_count_then_name(text[:valid])
    ids = encode(text, vocabulary, None, "tinyshakespeare")
    return LanguageData(
        ids[:valid], ids[valid:test], ids[test:], vocabulary=list(vocabulary), unit="char", stream="standard"
    )


TINYSHAKESPEARE = DataSet(
    name="tinyshakespeare",
    kind="language",
    summary="40,000 lines of Shakespeare, characters",
    licence="public domain",
    source="https://github.com/karpathy/char-rnn",
    parse=_parse,
    count=count_stream,
    counts={
        "train tokens (standard)": 1_003_856,
        "valid tokens (standard)": 55_769,
        "test tokens (standard)": 55_769,
        "vocabulary (standard)": 65,
    },
    files=(
        DataFile(
            path="tinyshakespeare/input.txt",
            urls=(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "https://cdn.jsdelivr.net/gh/karpathy/char-rnn@master/data/tinyshakespeare/input.txt",
            ),
            checksum="sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            size=1_115_394,
        ),
    ),
)

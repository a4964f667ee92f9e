"""WikiText-2, words (Merity et al. 2016): tokens apart by spaces, `<unk>` in the text, `<eos>` for line ends.

Ids by falling training count, ties alphabetically. `wikitext-2-reordered` is for trial runs: its training text
has every byte of the canonical one, but its last 62 pieces (the last eighth) stand in another order.
"""

from __future__ import annotations

from collections.abc import Mapping

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.families import LanguageData
from ungated.lab.data.store import DataFile
from ungated.lab.data.streams import SPLITS, count_stream
from ungated.lab.data.vocabulary import EOS, by_count_then_name, encode


def _parse(contents: Mapping[str, bytes], options: object) -> LanguageData:
    tokens = {
        # Only spaces and line ends are white space here: the text has others within words.
        split: [token for token in text.decode("utf-8").replace("\n", f" {EOS} ").split(" ") if token]
        for split, text in zip(SPLITS, contents.values(), strict=True)
    }
    vocabulary = by_count_then_name(tokens["train"])
    train, valid, test = (encode(tokens[split], vocabulary, None, f"wikitext-2 {split}") for split in SPLITS)
    return LanguageData(train, valid, test, vocabulary=list(vocabulary), unit="word", stream="standard")


def _file(name: str, checksum: str, size: int, *, public: bool = True) -> DataFile:
    archives = (
        "https://wikitext.smerity.com/wikitext-2-v1.zip",
        "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip",
        "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/dataset/wikitext-2/wikitext-2-v1.zip",
    )
    urls = tuple(f"{archive}#wikitext-2/{name}" for archive in archives) if public else ()
    return DataFile(path=f"wikitext-2/{name}", urls=urls, checksum=checksum, size=size)


_VALID = _file(
    "wiki.valid.tokens", "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8", 1_121_681
)
_TEST = _file("wiki.test.tokens", "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0", 1_256_449)


def _wikitext(name: str, summary: str, train: DataFile) -> DataSet:
    return DataSet(
        name=name,
        kind="language",
        summary=summary,
        licence="CC BY-SA 3.0 and GFDL",
        source="Merity et al. 2016, https://arxiv.org/abs/1609.07843",
        parse=_parse,
        count=count_stream,
        counts={
            "train tokens (standard)": 2_088_628,
            "valid tokens (standard)": 217_646,
            "test tokens (standard)": 245_569,
            "vocabulary (standard)": 33_278,
        },
        files=(train, _VALID, _TEST),
    )


WIKITEXT_2 = _wikitext(
    "wikitext-2",
    "Wikipedia articles, words",
    # SHA-1 is what is published of this file (in MXNet's Gluon).
    _file("wiki.train.tokens", "sha1:863f29c46ef9d167fff4940ec821195882fe29d1", 10_797_148),
)

WIKITEXT_2_REORDERED = _wikitext(
    "wikitext-2-reordered",
    "WikiText-2 with the last eighth of its training text in another order: trial runs only",
    _file(
        "wiki.train.tail-reordered.tokens",
        "sha256:2e24adb25c1c035d21c507f323769d12489407724943b8e8680c0fabbd4fc2db",
        10_797_148,
        public=False,
    ),
)

"""enwik8 and text8: the first 10^8 bytes of an English Wikipedia dump, raw and cleaned (Mahoney 2006).

Split 90/5/5: the last 5 % are test, the 5 % before them valid. Every byte is a symbol. Streams:

`standard`: a symbol's id is the rank of its byte among the distinct bytes of the whole file: 205 and 27 symbols
(Zilly et al. 2017, data/reader.py of github.com/jzilly/RecurrentHighwayNetworks).
`paper`: ids 0 (padding) and 1 (unknown), never used, then bytes in order of first appearance in the training
part: 207 and 29 (github.com/LUMII-Syslab/RRU, lm_utils.py).

The sets named `-prefix` are short beginnings of these files, split in the same proportions: for tests and trial
runs, and not comparable with any published number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.families import LanguageData
from ungated.lab.data.store import DataFile
from ungated.lab.data.streams import StreamOptions, count_stream, split_points
from ungated.lab.data.vocabulary import PAD, UNK, encode_bytes


def _parse(unit: str) -> Callable[[Mapping[str, bytes], StreamOptions], LanguageData]:
    def symbol(value: int) -> str | int:
        return chr(value) if unit == "char" else value

    def parse(contents: Mapping[str, bytes], options: StreamOptions) -> LanguageData:
        (content,) = contents.values()
        text = np.frombuffer(content, dtype=np.uint8)
        valid, test = split_points(len(text))
        vocabulary: list[str | int]
        if options.stream == "standard":
            values = [value for value in range(256) if value in content]
            first, unknown, vocabulary = 0, 0, []
        else:
            appearance = {value: place for value in range(256) if (place := content.find(value, 0, valid)) >= 0}
            values = sorted(appearance, key=appearance.__getitem__)
            first, unknown, vocabulary = 2, 1, [PAD, UNK]
        ids = encode_bytes(text, values, first, unknown)
        return LanguageData(
            ids[:valid],
            ids[valid:test],
            ids[test:],
            vocabulary=vocabulary + [symbol(value) for value in values],
            unit=unit,
            stream=options.stream,
        )

    return parse


def _set(
    name: str,
    summary: str,
    unit: str,
    file: DataFile,
    *,
    vocabulary: int,
) -> DataSet:
    valid, test = split_points(file.size)
    counts = {}
    for stream, extra in (("standard", 0), ("paper", 2)):
        counts[f"train tokens ({stream})"] = valid
        counts[f"valid tokens ({stream})"] = test - valid
        counts[f"test tokens ({stream})"] = file.size - test
        counts[f"vocabulary ({stream})"] = vocabulary + extra
    return DataSet(
        name=name,
        kind="language",
        summary=summary,
        licence="Wikipedia text: CC BY-SA 3.0 and GFDL",
        source="Mahoney 2006, https://mattmahoney.net/dc/textdata.html",
        parse=_parse(unit),
        count=count_stream,
        counts=counts,
        files=(file,),
        Options=StreamOptions,
        variants=({"stream": "standard"}, {"stream": "paper"}),
    )


ENWIK8 = _set(
    "enwik8",
    "the first 10^8 bytes of Wikipedia, bytes",
    "byte",
    DataFile(
        path="enwik8/enwik8",
        urls=(
            "https://mattmahoney.net/dc/enwik8.zip#enwik8",
            "https://data.deepai.org/enwik8.zip#enwik8",
            "http://prize.hutter1.net/enwik8.zip#enwik8",
        ),
        checksum="sha256:2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
        size=100_000_000,
    ),
    vocabulary=205,
)

TEXT8 = _set(
    "text8",
    "10^8 letters and spaces of Wikipedia's cleaned text, characters",
    "char",
    DataFile(
        path="text8/text8",
        urls=(
            "https://mattmahoney.net/dc/text8.zip#text8",
            "https://github.com/piskvorky/gensim-data/releases/download/text8/text8.gz",
            "https://data.deepai.org/text8.zip#text8",
        ),
        checksum="md5:3bea1919949baf155f99411df5fada7e",
        size=100_000_000,
    ),
    vocabulary=27,
)

ENWIK8_PREFIX = _set(
    "enwik8-prefix",
    "the first 4,150,000 bytes of enwik8: trial runs only, not comparable with published numbers",
    "byte",
    DataFile(
        path="enwik8/enwik8-first-4150000-bytes",
        urls=(),
        checksum="sha256:204482105f330f13c6490df36624bd9bc020dd24ba0854e005ada4d735ad6d7e",
        size=4_150_000,
    ),
    vocabulary=200,
)

TEXT8_PREFIX = _set(
    "text8-prefix",
    "the first 3,000,000 characters of text8: trial runs only, not comparable with published numbers",
    "char",
    DataFile(
        path="text8/text8-first-3000000-bytes",
        urls=(),
        checksum="sha256:3d70b4c8ba7ef3dccce164db77b68be402fbbcff3b1323d2e675007da1ba8a91",
        size=3_000_000,
    ),
    vocabulary=27,
)

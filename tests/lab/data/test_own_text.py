"""One's own text: characters, words, bytes, and files that are none of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ungated.lab.data import LanguageData, text_data
from ungated.lab.data.own_text import TextOptions
from ungated.lab.errors import DataError, DataMissingError, RecipeError


def load(path: Path, content: bytes, **options: object) -> LanguageData:
    file = path / "book.txt"
    file.write_bytes(content)
    data = text_data(file, **options).load()  # type: ignore[arg-type]
    assert isinstance(data, LanguageData)
    return data


def joined(data: LanguageData, by: str = "") -> str:
    ids = [*data.train.tolist(), *data.valid.tolist(), *data.test.tolist()]
    return by.join(str(data.vocabulary[i]) for i in ids)


def test_characters(tmp_path: Path) -> None:
    text = "Ännchen von Tharau\nist's, die mir gefällt.\n" * 3
    data = load(tmp_path, text.encode())
    assert joined(data) == text
    assert (data.unit, data.stream, data.remarks) == ("char", "standard", ())
    held_out = len(text) // 20
    assert (len(data.train), len(data.valid), len(data.test)) == (len(text) - 2 * held_out, held_out, held_out)
    counts = [text[: len(data.train)].count(str(symbol)) for symbol in data.vocabulary]
    assert counts == sorted(counts, reverse=True)


def test_words(tmp_path: Path) -> None:
    data = load(tmp_path, b"to be  or\tnot to be\n\n" * 10 + b"not to be", unit="word")
    # A last line without an end of its own ends all the same.
    assert joined(data, " ") == "to be or not to be <eos> <eos> " * 10 + "not to be <eos>"
    assert data.vocabulary == ["be", "to", "<eos>", "not", "or"]


def test_unknown_only_where_needed(tmp_path: Path) -> None:
    known = load(tmp_path, b"ab" * 50)
    assert known.vocabulary == ["a", "b"]
    unseen = load(tmp_path, b"ab" * 49 + b"xy")
    assert unseen.vocabulary == ["a", "b", "<unk>"]
    assert unseen.test.tolist()[-2:] == [2, 2]
    assert unseen.remarks == ("symbols that are <unk>: 0 in training, 0 in valid, 2 in test",)


def test_vocabulary_size(tmp_path: Path) -> None:
    text = b"a a a a b b b c c d\n" * 5
    small = load(tmp_path, text, unit="word", vocabulary_size=3)
    assert small.vocabulary == ["a", "b", "<unk>"]
    assert int((small.train == 2).sum()) > 0
    exact = load(tmp_path, text, unit="word", vocabulary_size=5)
    assert "<unk>" not in exact.vocabulary


def test_a_text_that_has_its_own_unknown_words(tmp_path: Path) -> None:
    data = load(tmp_path, b"the <unk> cat\n" * 19 + b"the rare cat\n", unit="word")
    assert data.vocabulary.count("<unk>") == 1
    assert joined(data, " ").split() == ("the <unk> cat <eos> " * 20).split()


def test_bytes_take_anything(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4
    data = load(tmp_path, content, unit="byte")
    assert sorted(value for value in data.vocabulary if isinstance(value, int)) == list(range(256))
    ids = [*data.train.tolist(), *data.valid.tolist(), *data.test.tolist()]
    assert bytes(int(data.vocabulary[i]) for i in ids) == content
    few = load(tmp_path, b"a" * 95 + b"\xff" * 5, unit="byte")
    assert few.vocabulary == [97, "<unk>"]
    assert few.test.tolist() == [1] * 5


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    data = load(tmp_path, b"\xef\xbb\xbf" + b"one\r\ntwo\rthree\n" * 4)
    assert joined(data) == "one\ntwo\nthree\n" * 4
    assert data.remarks == (
        "the byte order mark at the start was dropped",
        "8 line ends with a carriage return became plain ones",
    )
    assert joined(load(tmp_path, b"one\r\n" * 10, unit="byte")).count("13") == 10


@pytest.mark.parametrize("unit", ["char", "word"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"book.txt is empty"),
        (b"too short", r"book.txt has \d+ (char|word)s; 40 are the least"),
        (b"fine\ncaf\xe9\n" * 9, r"book.txt, line 2: byte 8 \(0xe9\) is not utf-8; unit=byte"),
        (b"fine\n\0" * 50, r"book.txt, line 2: a NUL, as binary files have.*unit=byte"),
        (
            "wide".encode("utf-16") * 20,
            r"book.txt, line 1: byte 0 \(0xff\) is not utf-8; it looks like encoding utf-16",
        ),
        (b"surrogate \xed\xa0\x80" * 9, r"book.txt, line 1: byte 10 \(0xed\) is not utf-8"),
        (b"overlong \xc0\xaf" * 9, r"line 1: byte 9 \(0xc0\) is not utf-8"),
        (b"\x89PNG\r\n\x1a\n" * 20, r"line 1: byte 0 \(0x89\)"),
    ],
    ids=["empty", "short", "latin-1", "binary", "utf-16", "surrogate", "overlong", "png"],
)
def test_what_is_no_text(content: bytes, message: str, unit: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, content, unit=unit)


def test_bytes_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is empty"):
        load(tmp_path, b"", unit="byte")
    with pytest.raises(DataError, match=r"has 39 bytes; 40 are the least"):
        load(tmp_path, b"x" * 39, unit="byte")


def test_a_named_encoding(tmp_path: Path) -> None:
    text = "déjà vu\n" * 10
    assert joined(load(tmp_path, text.encode("latin-1"), encoding="latin-1")) == text
    assert joined(load(tmp_path, text.encode("utf-16"), encoding="utf-16")) == text
    with pytest.raises(DataError, match=r"cannot be read as zip"):
        load(tmp_path, b"x" * 50, encoding="zip")


def test_arguments_are_the_defaults_of_the_options(tmp_path: Path) -> None:
    (tmp_path / "My Book!.txt").write_text("ab" * 50)
    data_set = text_data(tmp_path / "My Book!.txt", "word", vocabulary_size=7)
    assert data_set.name == "text-my-book"
    assert data_set.kind == "language"
    assert isinstance(data_set.options(), TextOptions)
    assert data_set.options() == data_set.Options(unit="word", encoding="utf-8", vocabulary_size=7)
    data = data_set.load(options=data_set.options(unit="char", vocabulary_size=None))
    assert isinstance(data, LanguageData)
    assert data.unit == "char"
    assert data_set.state() == "present"
    verification = data_set.verify()
    assert not verification.ok  # two words are too few
    with pytest.raises(RecipeError, match=r"unit should be one of char, word, byte"):
        text_data(tmp_path / "My Book!.txt", "letter")
    with pytest.raises(RecipeError, match=r"encoding 'utf-9' is not known"):
        TextOptions(encoding="utf-9")
    with pytest.raises(RecipeError, match=r"vocabulary_size"):
        TextOptions(vocabulary_size=1)


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataMissingError, match=r"there is no text file"):
            text_data(path)
    (tmp_path / "book").write_text("ab" * 50)
    data_set = text_data(tmp_path / "book")
    (tmp_path / "book").unlink()
    assert data_set.state() == "missing"
    with pytest.raises(DataMissingError, match=r"there is no file"):
        data_set.load()


def test_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "book").write_text("ab" * 50)
    before = text_data(tmp_path / "book").fingerprint()
    assert text_data(tmp_path / "book").fingerprint() == before
    (tmp_path / "book").write_text("ab" * 49 + "ba")
    assert text_data(tmp_path / "book").fingerprint() != before

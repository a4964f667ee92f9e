"""What every data set promises, and the checks between its files and its user."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from ungated.lab.data import DATASETS, DataFile, DataSet, NoOptions
from ungated.lab.data.families import (
    ClassificationData,
    CopyData,
    Examples,
    LanguageData,
    MusicData,
    RegressionData,
)
from ungated.lab.errors import DataError, DataMissingError, RecipeError, UsageError

FAMILIES: dict[str, type] = {
    "music": MusicData,
    "language": LanguageData,
    "classification": ClassificationData,
    "regression": RegressionData,
    "copy": CopyData,
}


def tiny(content: bytes = b"abc", counts: Mapping[str, int] | None = None) -> DataSet:
    def parse(contents: Mapping[str, bytes], options: object) -> LanguageData:
        (text,) = contents.values()
        ids = torch.tensor(list(text))
        return LanguageData(ids, ids, ids, list(range(256)), "byte", "standard")

    return DataSet(
        name="tiny",
        kind="language",
        summary="",
        licence="",
        source="",
        parse=parse,
        count=lambda data, options: {"train bytes": len(data.train)},
        counts=counts if counts is not None else {"train bytes": 3},
        files=(DataFile("tiny.txt", (), f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)),),
    )


@pytest.mark.parametrize("name", DATASETS)
def test_entry_is_complete(name: str) -> None:
    data_set = DATASETS[name]
    assert data_set.name == name
    assert data_set.kind in FAMILIES
    assert data_set.summary
    assert data_set.licence
    assert data_set.source
    assert data_set.counts
    assert isinstance(data_set.options(), data_set.Options)
    for option in dataclasses.fields(data_set.Options):
        assert option.default is not dataclasses.MISSING
    for file in data_set.files:
        algorithm, _, digest = file.checksum.partition(":")
        assert len(digest) == 2 * hashlib.new(algorithm, usedforsecurity=False).digest_size
        assert file.size > 0
        assert ".." not in file.path


@pytest.mark.parametrize("name", [name for name, data_set in DATASETS.items() if not data_set.files])
def test_built_in_needs_no_directory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNGATED_DATA", "/nowhere")
    data_set = DATASETS[name]
    assert isinstance(data_set.load(), FAMILIES[data_set.kind])
    assert data_set.state() == "built in"
    data_set.fetch()
    assert data_set.verify().ok


@pytest.mark.parametrize("name", [name for name, data_set in DATASETS.items() if data_set.files])
def test_where_the_files_are(name: str, data_dir: Path) -> None:
    """Every file that is there is right, every count is the published one."""
    data_set = DATASETS[name]
    if data_set.state(data_dir) == "missing":
        pytest.skip(f"{name} is not in the data directory")
    verification = data_set.verify(data_dir)
    assert verification.problems == []
    assert verification.state == "present"
    assert data_set.counts.items() <= verification.counts.items()


@pytest.mark.parametrize("name", [name for name, data_set in DATASETS.items() if data_set.files])
def test_where_nothing_is(name: str, tmp_path: Path) -> None:
    data_set = DATASETS[name]
    assert data_set.state(tmp_path) == "missing"
    assert not data_set.verify(tmp_path).ok
    with pytest.raises(DataMissingError):
        data_set.load(tmp_path, download=False)


def test_counts_are_checked(tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_bytes(b"abc")
    assert len(tiny().load(tmp_path).train) == 3
    with pytest.raises(DataError, match=r"tiny has 3 train bytes where 4 are published"):
        tiny(counts={"train bytes": 4}).load(tmp_path)
    verification = tiny(counts={"train bytes": 4}).verify(tmp_path)
    assert not verification.ok
    assert verification.state == "present"


def test_states(tmp_path: Path) -> None:
    path = tmp_path / "tiny.txt"
    assert tiny().state(tmp_path) == "missing"
    path.write_bytes(b"abc")
    assert tiny().state(tmp_path) == "present"
    path.write_bytes(b"abd")
    assert tiny().state(tmp_path) == "damaged"
    assert str(path) in tiny().verify(tmp_path).problems[0]
    with pytest.raises(DataError, match=r"not the published file"):
        tiny().load(tmp_path)


def test_missing_without_an_address(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"put it there by hand"):
        tiny().load(tmp_path)
    with pytest.raises(UsageError, match=r"does not exist"):
        tiny().load(tmp_path / "nowhere")


def test_alternatives_serve_when_the_files_are_not_there(tmp_path: Path) -> None:
    other = DataFile("other.txt", (), f"sha256:{hashlib.sha256(b'xyz').hexdigest()}", 3)
    data_set = dataclasses.replace(tiny(), alternatives=((other,),))
    (tmp_path / "other.txt").write_bytes(b"xyz")
    assert data_set.state(tmp_path) == "present"
    assert bytes(data_set.load(tmp_path).train.tolist()) == b"xyz"  # type: ignore[union-attr]
    (tmp_path / "tiny.txt").write_bytes(b"abc")
    assert bytes(data_set.load(tmp_path).train.tolist()) == b"abc"  # type: ignore[union-attr]


def test_options_are_of_the_data_set() -> None:
    assert tiny().options() == NoOptions()
    with pytest.raises(RecipeError, match=r"options of tiny: none"):
        tiny().options(length=3)
    with pytest.raises(RecipeError, match=r"length, delay, symbols"):
        DATASETS["copy-memory"].options(lenght=3)
    with pytest.raises(RecipeError, match=r"options of adding should be AddingOptions"):
        DATASETS["adding"].load(options=NoOptions())


def test_examples_have_a_length() -> None:
    assert len(Examples(torch.zeros(4, 2, 1), torch.zeros(4))) == 4

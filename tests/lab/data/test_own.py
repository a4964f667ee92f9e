"""One's own data by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ungated.lab.data import own_data
from ungated.lab.errors import DataMissingError, UsageError


def test_by_name(tmp_path: Path) -> None:
    (tmp_path / "a:b.txt").write_text("ab" * 50)
    (tmp_path / "t.csv").write_text("1\n2\n")
    assert own_data(f"text:{tmp_path}/a:b.txt").kind == "language"
    assert own_data(f"csv:{tmp_path}/t.csv").kind == "regression"
    with pytest.raises(DataMissingError):
        own_data("midi:/nowhere")


@pytest.mark.parametrize("name", ["jsb", "txt:file", "text:", ":file", ""])
def test_other_names(name: str) -> None:
    with pytest.raises(UsageError, match=r"text:PATH, midi:PATH, csv:PATH"):
        own_data(name)


def test_relative_paths_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "book.txt").write_text("ab" * 50)
    monkeypatch.chdir(tmp_path)
    data_set = own_data("text:book.txt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_data("text:~/book.txt").paths == data_set.paths == (tmp_path / "book.txt",)
    monkeypatch.chdir("/")
    data_set.load()

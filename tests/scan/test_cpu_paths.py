"""The compiled engine's libraries: compiling and keeping them, and what happens where that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from ungated.scan.cpu.compiler import Unavailable, library_file


class TestLibrary:
    """Compiling it, and what may go wrong on the way: each a reason, none an error."""

    @pytest.fixture(autouse=True)
    def own_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("UNGATED_CACHE", str(tmp_path / "cache"))

    def test_no_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", "")
        with pytest.raises(Unavailable, match="no C\\+\\+ compiler"):
            library_file("rru")

    def test_broken_compiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        compiler = tmp_path / "broken"
        compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'x.cpp: fatal error: no luck' >&2\nexit 1\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        with pytest.raises(Unavailable, match=r"failed: x\.cpp: fatal error: no luck"):
            library_file("rru")
        assert [file.name for file in (tmp_path / "cache").iterdir()] == ["lock"]

    def test_no_place_to_keep_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("UNGATED_CACHE", str(tmp_path / "file"))
        _skip_without_compiler()
        with pytest.raises(Unavailable, match="could not be built or kept"):
            library_file("rru")

    def test_kept_and_rebuilt_when_damaged(self) -> None:
        _skip_without_compiler()
        first = library_file("rru")
        whole, built = first.read_bytes(), first.stat().st_mtime_ns
        assert library_file("rru") == first
        assert first.stat().st_mtime_ns == built
        first.write_bytes(whole[: len(whole) // 2])
        second = library_file("rru")
        assert second.stat().st_size == len(whole)
        assert sorted(file.suffix for file in second.parent.iterdir()) == ["", ".so"]


def _skip_without_compiler() -> None:
    try:
        library_file("rru")
    except Unavailable as error:
        if "no C++ compiler" in str(error):
            pytest.skip(str(error))

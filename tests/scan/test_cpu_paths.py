"""The compiled engine: compiling and keeping its libraries, what happens where that fails, and what is its alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ungated
from ungated.scan.cpu import library, rru
from ungated.scan.cpu.batched import Sums
from ungated.scan.cpu.compiler import SOURCE, Unavailable, found_compiler, library_file


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
        assert [file.name for file in (tmp_path / "cache").iterdir()] == ["lock-rru"]

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


def test_what_is_fetched_ahead_is_in_the_compiled_code(tmp_path: Path) -> None:
    """A compiler may find what only fetches to be without effect, and leave the calls out."""
    compiler = found_compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    source = tmp_path / "ahead.cpp"
    source.write_text("""
        #include "scratch.h"
        template <class Ahead>
        static void each(int64_t n, Ahead ahead) {
          for (int64_t i = 0; i < n; i++) ahead(i);
        }
        void fetch_all(float* p, int64_t n) {
          each(n, [&](int64_t i) { fetch<WRITE>(p, 64, i, i + 4, 0, 32); });
        }
    """)
    command = [compiler, "-std=c++17", "-O3", f"-I{SOURCE}", "-S", str(source), "-o", "-"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search("prefetch|prfm", made)


@pytest.mark.parametrize("options", [{}, {"relu_layers": 3, "recurrent_dropout": 0.3}, {"normalize": False}], ids=str)
def test_the_rru_s_way_back_in_spans_of_steps_is_the_same(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_without_compiler()
    torch.manual_seed(0)
    layer = ungated.RRU(3, 37, **options)
    torch.nn.init.normal_(layer.get_parameter("cells.0.Z"))
    noise, lengths = layer.noise(11, 5), [11, 3, 1, 10, 7]
    x, state = torch.randn(11, 5, 3, requires_grad=True), torch.randn(1, 5, 37, requires_grad=True)

    def gradients() -> tuple[Tensor, ...]:
        with ungated.backend("cpu"):
            output, last = layer(x, state, lengths, noise)
        return torch.autograd.grad(output.sin().sum() + last.square().sum(), [x, state, *layer.parameters()])

    at_once = gradients()
    monkeypatch.setattr(rru, "_SPAN_ENTRIES", 1)
    monkeypatch.setattr(rru, "_FEWEST_ROWS", 20)
    torch.testing.assert_close(gradients(), at_once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"relu_layers": 3, "recurrent_dropout": 0.3}, {"normalize": False}], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_rru_takes_a_small_batch_in_spans_of_steps(batch: int, options: dict[str, Any]) -> None:
    """Products with the input and to the output: spans that are full and one that is not, one row ended in each."""
    _skip_without_compiler()
    torch.manual_seed(0)
    layer = ungated.RRU(5, 37, output_size=21, **options)
    torch.nn.init.uniform_(layer.get_parameter("cells.0.Z"), -0.1, 0.1)
    for steps in (4, 16, 39):
        noise, lengths = layer.noise(steps, batch), [steps, steps // 2, 1][:batch]
        x, state = torch.randn(steps, batch, 5), torch.randn(1, batch, 37)
        results = []
        for path in ("cpu", "reference"):
            with ungated.backend(path):
                output, last = layer(x, state, lengths, noise)
                gradients = torch.autograd.grad(output.sin().sum() + last.square().sum(), list(layer.parameters()))
                with torch.no_grad():
                    results.append([output, last, *gradients, *layer(x, state, lengths, noise)])
        for ours, reference in zip(*results, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 4])
@pytest.mark.parametrize("options", [{}, {"relu_layers": 2}, {"normalize": False}], ids=str)
def test_inference_of_a_few_rows_skips_what_relu_made_zero(rows: int, options: dict[str, Any]) -> None:
    _skip_without_compiler()
    torch.manual_seed(0)
    layer = ungated.RRU(5, 90, output_size=7, expansion=17.0, **options).eval()  # over a megabyte of weights
    torch.nn.init.normal_(layer.get_parameter("cells.0.Z"), std=0.1)
    x, state = torch.randn(19, rows, 5), torch.randn(1, rows, 90)
    lengths = list(range(19, 19 - 4 * rows, -4))
    with torch.no_grad():
        with ungated.backend("reference"):
            expected = layer.double()(x.double(), state.double(), lengths)
        with ungated.backend("cpu"):
            found = layer.float()(x, state, lengths)
    torch.testing.assert_close(found, tuple(part.float() for part in expected))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shift", [-9.0, -1.0, 9.0])
def test_rows_skip_what_is_zero_however_much_that_is(
    shift: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing, most and all of what ReLU gives is zero; units that are no whole block, rows that are."""
    _skip_without_compiler()
    torch.manual_seed(0)
    layer = ungated.RRU(5, 41, output_size=9, expansion=6.3)
    torch.nn.init.uniform_(layer.get_parameter("cells.0.Z"), -0.1, 0.1)
    torch.nn.init.constant_(layer.get_parameter("cells.0.b_j"), shift)
    x = torch.randn(6, 7, 5)
    results = []
    monkeypatch.setattr(library, "thread_count", lambda: threads)
    for path in ("cpu", "reference"):
        with ungated.backend(path):
            output, last = layer(x)
            results.append([output, *torch.autograd.grad(output.sin().sum() + last.sum(), list(layer.parameters()))])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 40, 70, 33), (70, 9, 300, 17), (5, 64, 129, 96)], ids=str)
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.25, 1.0])
def test_sums_skip_what_is_zero(shape: tuple[int, int, int, int], rectify: bool, kept: float) -> None:
    _skip_without_compiler()
    T, B, k, n = shape
    torch.manual_seed(0)
    left, right, scale = torch.randn(T, B, k), [torch.randn(T, B, n), torch.randn(T, B, 5)], torch.rand(T, B)
    mask = (torch.rand(1, B, k) < kept) * 4.0
    left[0, 0, 0], mask[0, 0, 0] = torch.nan, 1.0  # a NaN is not zero
    sums, expected = Sums(), Sums()
    for _ in range(2):
        sums.add([left], right, rectify=rectify, sparse=True, mask=mask, scale=scale)
        expected.add([left], right, rectify=rectify, mask=mask, scale=scale)
    torch.testing.assert_close(sums.products, expected.products, rtol=1e-4, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(sums.totals, expected.totals)

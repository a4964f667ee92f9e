"""What goes wrong with the compiled library costs speed and one line of warning, never a result."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ungated
from ungated.scan import choose, cpu
from ungated.scan.cpu import compiler
from ungated.scan.cpu.library import engine

Fault = Callable[[pytest.MonkeyPatch, Path], None]


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing looked for yet, and an empty cache."""
    monkeypatch.setenv("UNGATED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UNGATED_BACKEND", raising=False)
    monkeypatch.setattr(cpu, "_said", set())
    for found in (cpu._tried, engine):
        found.cache_clear()
    yield
    for found in (cpu._tried, engine):
        found.cache_clear()


def no_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)


def broken_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    script = folder / "broken"
    script.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'x.cpp: fatal error: no luck' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


def compiler_that_makes_nonsense(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    script = folder / "nonsense"
    script.write_text('#!/bin/sh\nwhile [ $# -gt 1 ]; do [ $1 = -o ] && echo nonsense > "$2"; shift; done\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


def no_place(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("UNGATED_CACHE", str(folder / "file" / "cache"))


def kept_nonsense(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Whole by its checksum, and no library."""
    content = b"nonsense"
    name = f"lib-{hashlib.sha256(content).hexdigest()[:20]}.so"
    (folder / "cache").mkdir()
    (folder / "cache" / name).write_bytes(content)
    monkeypatch.setattr(compiler, "_kept", lambda directory, stem: directory / name)


FAULTS: list[Fault] = [no_compiler, broken_compiler, compiler_that_makes_nonsense, no_place, kept_nonsense]


def trained(layer: ungated.RNN, x: Tensor) -> list[Tensor]:
    layer.zero_grad()
    output, last = layer(x)
    (output.sum() + last.sum()).backward()
    return [
        output.detach(),
        *(parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None),
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_one_line_and_right_results(
    fault: Fault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    layers, x = [ungated.GRU(3, 5), ungated.GRU(3, 6)], torch.randn(9, 2, 3)
    want = []
    for layer in layers:
        with ungated.backend("reference"):
            want.append(trained(layer, x))
    fault(monkeypatch, tmp_path)
    with caplog.at_level(logging.WARNING, "ungated"):
        for layer, expected in zip(layers, want, strict=True):
            torch.testing.assert_close(trained(layer, x), expected)
            torch.testing.assert_close(ungated.Stream(layer, 2)(x), expected[0])
    (record,) = caplog.records
    assert "slower path runs" in record.getMessage()
    assert "\n" not in record.getMessage()
    cell = layers[0].cells[0]
    choice = choose(cell, cell.project(x), cell.initial_state(2))  # type: ignore[operator, arg-type]
    assert choice.path == "torch"
    assert choice.passed_over["cpu"]


def test_a_reason_that_all_cells_share_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    no_compiler(monkeypatch, tmp_path)
    for layer in (ungated.GRU(3, 5), ungated.LSTM(3, 5), ungated.RRU(3, 5)):
        layer(torch.zeros(9, 2, 3))
    assert len(caplog.records) == 1


FULL_DISK = """
import resource, sys
import torch, ungated
torch.manual_seed(0)
layer, x = ungated.LSTM(3, 5), torch.randn(9, 2, 3)
with ungated.backend("reference"):
    want = layer(x)[0]
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
torch.testing.assert_close(layer(x)[0], want)
torch.testing.assert_close(layer(x)[0], want)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """No file may grow beyond 4 KiB: as if the disk filled up while the library is written."""
    pytest.importorskip("resource")
    if compiler.found_compiler() is None:
        pytest.skip("there is no C++ compiler")
    environment = {**os.environ, "UNGATED_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "slower path runs" in done.stderr
    assert not list((tmp_path / "cache").glob("*.so"))

"""The compiled engine on NEON: compiled for aarch64 and run by QEMU, where a cross compiler and QEMU are installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ungated.scan.cpu.library import Engine

from .aarch64 import emulated
from .equality_cases import Case
from .test_equality import REGISTERS, check

pytestmark = pytest.mark.skipif(bool(emulated.MISSING), reason=f"not installed: {', '.join(emulated.MISSING)}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("aarch64")


@pytest.mark.parametrize("case", REGISTERS[::2], ids=lambda case: f"{case.name}-{case.B}-{case.n}")
def test_as_right_as_the_reference(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / case.name
    if not program.exists():
        emulated.compile_runner(case.name, program)
    monkeypatch.setattr(Engine, "scan", emulated.scan_of(program, folder / "image", case.threads))
    check(case, "cpu")


def test_products_compile(folder: Path) -> None:
    source = emulated.SOURCE / "batched.cpp"
    command = [emulated.COMPILER, *emulated.FLAGS, "-c", str(source), "-o", str(folder / "batched.o")]
    subprocess.run(command, check=True)

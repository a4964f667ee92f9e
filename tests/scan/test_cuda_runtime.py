"""Compiling, keeping and loading GPU kernels: what may go wrong is a reason, never an error."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ungated
from ungated.cells import CELLS, LSTMCell
from ungated.scan import choose, cuda
from ungated.scan.cpu.compiler import Unavailable
from ungated.scan.cuda import cubins, driver, gru, kernel, lstm, mogrifier, nvrtc, rhn, rru
from ungated.scan.cuda.plan import Device, Work, plan

H200 = Device(132, 232_448, "sm_90a")
A100 = Device(108, 166_912, "sm_80")


@pytest.fixture
def compiler() -> nvrtc.NVRTC:
    try:
        return nvrtc.nvrtc()
    except Unavailable as error:
        pytest.skip(str(error))


# Sizes of the papers' music, pixel and word networks: no register may spill in the first, few in the others.
COMPILED: list[tuple[Work, str, int, Device]] = [
    (rru._work(1383, 2942, 0, True, True, False), "BF16", 16, H200),
    (rru._work(1383, 2942, 0, True, False, False, backward=True), "TF32", 16, A100),
    (rru._work(115, 232, 0, True, False, False), "BF16", 64, H200),
    (rru._work(77, 161, 2, True, True, True, backward=True), "FP32", 5, H200),
    (lstm._work(768, True, True), "FP16", 16, H200),
    (lstm._work(763, False, False, backward=True), "BF16", 16, A100),
    (gru._work(768, False, False, False), "FP32", 16, H200),
    (gru._work(37, False, True, True, backward=True), "TF32", 9, A100),
    (gru._work(768, True, False, False), "BF16", 16, H200),
    (gru._work(128, True, True, True, backward=True), "BF16", 64, H200),
    (rhn._work(830, 10, True, False), "BF16", 20, H200),
    (rhn._work(830, 10, True, False, backward=True), "BF16", 20, A100),
    (mogrifier._work(88, 472, 6, 58, True, False), "BF16", 16, H200),
    (mogrifier._work(88, 472, 6, 58, True, False, backward=True), "TF32", 16, A100),
    (gru._work(1014, True, True, False, backward=True), "TF32", 64, A100),  # with 16 warps it would spill
]


@pytest.mark.parametrize("case", COMPILED, ids=lambda case: f"{case[0].kernel}-{case[1]}-{case[3].arch}")
def test_compiles_without_a_gpu_into_the_registers_there_are(case: Any, compiler: nvrtc.NVRTC) -> None:
    work, mode, batch, device = case
    made = plan(work, mode, batch, device)
    assert made is not None
    code, report = compiler.compile(kernel.source(made), device.arch)
    assert code.startswith(b"\x7fELF")
    used = nvrtc.usage(report)
    assert 0 < used.registers * made.threads <= 65_536
    assert used.spilled_bytes <= 64, report


def test_a_mistake_is_told_with_its_line(compiler: nvrtc.NVRTC) -> None:
    with pytest.raises(Unavailable, match=r"NVRTC failed: ungated\.cu\(1\): error"):
        compiler.compile("no such thing;", "sm_90")


def test_an_unknown_architecture_is_told(compiler: nvrtc.NVRTC) -> None:
    with pytest.raises(Unavailable, match="does not compile for sm_20"):
        compiler.compile("", "sm_20")


def test_no_library_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter([Path("libno-such-nvrtc.so")]))
    nvrtc.nvrtc.cache_clear()
    try:
        with pytest.raises(Unavailable, match="no NVRTC library could be loaded"):
            nvrtc.nvrtc()
    finally:
        nvrtc.nvrtc.cache_clear()


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr(driver.ctypes, "CDLL", missing)
    driver.driver.cache_clear()
    try:
        with pytest.raises(Unavailable, match="there is no CUDA driver"):
            driver.driver()
    finally:
        driver.driver.cache_clear()


class Refusing:
    """A driver that knows one call, and refuses it."""

    def __getitem__(self, name: str) -> Any:
        if name != "cuModuleLoadData":
            raise AttributeError(name)
        return lambda *_: 222

    def cuGetErrorString(self, status: int, text: Any) -> None:
        text._obj.value = b"the provided PTX was compiled with an unsupported toolchain."


def test_an_old_driver_is_told_in_its_own_words() -> None:
    old: Any = driver.Driver(Refusing())  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match=r"cuModuleLoadData failed: the provided PTX .* \(222\)"):
        old.call("cuModuleLoadData", failure=Unavailable)
    with pytest.raises(Unavailable, match="too old: it has no cuLaunchKernelEx"):
        old.call("cuLaunchKernelEx", failure=Unavailable)


class Counting:
    """A compiler that counts."""

    version = (13, 0)

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        self.compiled.append(arch)
        return f"{source} for {arch}".encode(), ""


class TestKept:
    """Cubins on disk."""

    @pytest.fixture(autouse=True)
    def compiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counting:
        counting = Counting()
        monkeypatch.setenv("UNGATED_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(cubins, "nvrtc", lambda: counting)
        return counting

    def test_once_for_a_source_an_architecture_and_a_compiler(self, compiler: Counting) -> None:
        for _ in range(2):
            assert cubins.cubin("a", "sm_80") == b"a for sm_80"
            assert cubins.cubin("a", "sm_90") == b"a for sm_90"
        assert compiler.compiled == ["sm_80", "sm_90"]
        compiler.version = (13, 1)
        cubins.cubin("a", "sm_80")
        assert len(compiler.compiled) == 3

    def test_a_damaged_file_is_compiled_anew(self, compiler: Counting, tmp_path: Path) -> None:
        cubins.cubin("a", "sm_80")
        (file,) = (tmp_path / "cache").iterdir()
        for damage in (b"", file.read_bytes()[:-1], file.read_bytes() + b"x"):
            file.write_bytes(damage)
            assert cubins.cubin("a", "sm_80") == b"a for sm_80"
        assert len(compiler.compiled) == 4
        assert [found.name for found in (tmp_path / "cache").iterdir()] == [file.name]

    def test_a_disk_that_keeps_nothing(self, compiler: Counting, tmp_path: Path) -> None:
        (tmp_path / "cache").touch()
        for _ in range(2):
            assert cubins.cubin("a", "sm_80") == b"a for sm_80"
        assert len(compiler.compiled) == 2


@pytest.fixture
def forgetful() -> Iterator[None]:
    caches = (kernel._tried, kernel._prepared, kernel._function)
    for found in caches:
        found.cache_clear()
    yield
    for found in caches:
        found.cache_clear()


@pytest.mark.parametrize("B", [1, 64])
def test_blocks_that_the_gpu_cannot_hold_are_a_reason(monkeypatch: pytest.MonkeyPatch, B: int) -> None:
    made = plan(lstm._work(16 if B == 1 else 768, False, False), "BF16", B, H200)
    assert made is not None
    assert (made.ctas == 1) == (B == 1)
    monkeypatch.setattr(kernel.GPU, "device", lambda self, index: H200)
    monkeypatch.setattr(kernel, "cubin", lambda source, arch: b"")
    for resident in (made.ctas, made.ctas - 1):
        monkeypatch.setattr(kernel, "Function", lambda *_, held=resident: SimpleNamespace(resident=held))
        if resident == made.ctas:
            kernel.GPU().function(made, 0)
            continue
        with pytest.raises(Unavailable, match=f"of which the GPU holds {resident}"):
            kernel.GPU().function(made, 0)


class Without:
    """A GPU for which there are no kernels."""

    def device(self, index: int) -> Device:
        raise Unavailable("no luck")


def test_without_kernels_there_is_a_reason_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, forgetful: None
) -> None:
    monkeypatch.setattr(kernel, "_gpu", Without())
    monkeypatch.setattr(cuda, "_said", set())
    with caplog.at_level(logging.WARNING):
        for name in ("rru", "lstm"):
            cell = CELLS[name](2, 3)
            assert cuda.unavailable(cell, cell.project(torch.zeros(5, 1, 2)), None, None) == "no luck"
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == ["no luck"]


def test_on_the_cpu_it_is_not_taken_and_says_why() -> None:
    cell = LSTMCell(2, 3)
    drive, state = cell.project(torch.zeros(5, 1, 2)), cell.initial_state(1)
    assert choose(cell, drive, state, backend="auto").passed_over["cuda"] == "it runs on NVIDIA GPUs only"
    with pytest.raises(RuntimeError, match="'cuda' cannot run this call: it runs on NVIDIA GPUs only"):
        choose(cell, drive, state, backend="cuda")


def test_it_is_not_taken_by_itself_before_it_has_been_compared_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ungated.scan._CONDITIONS, "cuda", lambda *_: "")
    monkeypatch.setitem(ungated.scan._AVAILABILITY, "cuda", lambda *_: "")
    cell = LSTMCell(2, 3)
    drive, state = cell.project(torch.zeros(5, 1, 2)), cell.initial_state(1)
    choice = choose(cell, drive, state, backend="auto")
    assert choice.path != "cuda"
    assert choice.passed_over["cuda"] == ungated.scan.UNPROVEN["cuda"]
    assert choose(cell, drive, state, backend="cuda").path == "cuda"


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (CELLS["rru"](2, 3, output_relu=True), "ReLU over c"),  # type: ignore[call-arg]
        (CELLS["gru"](2, 3).double(), "float64"),
    ],
)
def test_what_it_does_not_run(cell: Any, reason: str) -> None:
    on_gpu: Any = type("OnGPU", (), {"device": torch.device("cuda", 0)})()
    known = type(cell)
    assert reason in cuda.why_not_cuda(cell, known, on_gpu, None)

"""The compiled engine against the reference in float64: no worse than four times the float32 reference's own error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ungated.cells import CELLS
from ungated.cells.cell import Cell, Noise, map_state
from ungated.scan import choose, cpu
from ungated.scan.cpu import library
from ungated.scan.cpu.compiler import Unavailable, library_file
from ungated.scan.reference import reference_scan

# name, input, hidden, options, T, B, masks, lengths: widths below, at and beside whole registers; rows likewise.
CASES: list[tuple[str, int, int, dict[str, Any], int, int, bool, bool]] = [
    ("rru", 3, 1, {}, 1, 1, False, False),
    ("rru", 3, 5, {}, 9, 7, True, False),
    ("rru", 2, 33, {"relu_layers": 2}, 6, 17, True, True),
    ("rru", 5, 50, {"relu_layers": 3, "expansion": 1.3}, 5, 70, True, False),
    ("rru", 8, 40, {"normalize": False}, 5, 33, True, True),
    ("rru", 8, 129, {"rezero": "scalar", "residual": "one"}, 12, 3, False, True),
    ("rru", 4, 300, {"expansion": 7.3}, 4, 16, False, False),
    ("lstm", 3, 1, {}, 1, 1, False, False),
    ("lstm", 3, 16, {"forget_bias": 0.5}, 7, 5, True, False),
    ("lstm", 4, 37, {}, 9, 15, True, True),
    ("lstm", 4, 150, {}, 6, 70, False, True),
    ("rhn", 3, 1, {"depth": 1}, 1, 1, False, False),
    ("rhn", 4, 37, {"depth": 3}, 5, 15, True, True),
    ("rhn", 4, 130, {"depth": 2}, 4, 70, False, True),
    ("mogrifier", 3, 6, {"rounds": 0}, 3, 20, True, False),
    ("mogrifier", 5, 37, {"rank": 3}, 7, 15, True, True),
    ("mogrifier", 40, 130, {"rounds": 2}, 4, 70, False, True),
    ("mogrifier", 19, 16, {"rounds": 1, "rank": 33}, 5, 9, False, False),
    ("gru", 3, 1, {}, 1, 1, False, False),
    ("gru", 4, 37, {}, 9, 15, True, True),
    ("gru", 4, 150, {}, 6, 70, False, True),
    ("gru", 3, 16, {"reset": "after"}, 7, 5, True, False),
    ("gru", 4, 99, {"reset": "after"}, 9, 35, True, True),
]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """What is never written is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(part) for part in case))
def test_equals_the_reference(case: Any, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "thread_count", lambda: threads)
    path, squares = _path(case[0]), {}  # of the path's error, of the reference's own, of the values
    for seed in range(4):  # one draw alone may find the reference lucky
        cell, drive, state, noise, lengths = _problem(case, seed)
        found = _everything(path, cell, drive, state, noise, lengths)
        single = _everything(reference_scan, cell, drive, state, noise, lengths)
        wide = None if noise is None else map_state(Tensor.double, noise)
        exact = _everything(
            reference_scan, cell.double(), drive.double(), map_state(Tensor.double, state), wide, lengths
        )
        assert found.keys() == exact.keys()
        for key, value in exact.items():
            parts = torch.stack([tensor.square().sum() for tensor in (found[key] - value, single[key] - value, value)])
            squares[key] = squares.get(key, 0.0) + parts
    for key, (error, own, size) in ((key, sums.sqrt()) for key, sums in squares.items()):
        assert error <= 4 * own + torch.finfo(torch.float32).eps * size, (
            f"{key}: {error:.1e}, the reference's {own:.1e}"
        )


@pytest.mark.parametrize("name", [case[0] for case in {case[0]: case for case in CASES}.values()])
def test_rows_do_not_depend_on_each_other(name: str) -> None:
    case = next(case for case in CASES if case[0] == name and case[5] > 1)
    cell, drive, state, noise, _ = _problem(case)
    before, _ = _path(name)(cell, drive, state, noise, None)
    changed = drive.clone()
    changed[:, 0] = float("nan")
    after, _ = _path(name)(cell, changed, state, noise, None)
    assert after[:, 0].isnan().any()
    assert torch.equal(before[:, 1:], after[:, 1:])


@pytest.mark.parametrize("name", [case[0] for case in {case[0]: case for case in CASES}.values()])
def test_without_gradients_it_is_the_same(name: str) -> None:
    for case in (case for case in CASES if case[0] == name):
        cell, drive, state, noise, lengths = _problem(case)
        kept = _path(name)(cell, drive, state, noise, lengths)
        with torch.no_grad():
            bare = _path(name)(cell, drive, state, noise, lengths)
        assert torch.equal(kept[0], bare[0])
        map_state(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0) or a, kept[1], bare[1])


def _path(name: str) -> Callable[..., Any]:
    cell = CELLS[name]
    if reason := cpu.unavailable(cell):
        pytest.skip(reason)
    return cpu.SCANS[cell]


def _problem(case: Any, seed: int = 0) -> tuple[Cell, Tensor, Any, Noise, Tensor | None]:
    name, m, n, options, T, B, masks, ragged = case
    generator = torch.manual_seed(seed)
    cell = CELLS[name](m, n, **options)  # type: ignore[call-arg]
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    drive = cell.project(torch.randn(T, B, m, generator=generator)).detach()
    state = map_state(lambda zeros: torch.randn(zeros.shape, generator=generator), cell.initial_state(B))
    noise: Noise = None
    if masks:
        for rate in ("recurrent_dropout", "state_dropout"):
            if hasattr(cell, rate):
                setattr(cell, rate, 0.4)
        noise = cell.noise(T, B)
    lengths = torch.randint(1, T + 1, (B,), generator=generator) if ragged else None
    return cell, drive, state, noise, lengths


def _everything(
    path: Callable[..., Any], cell: Cell, drive: Tensor, state: Any, noise: Noise, lengths: Tensor | None
) -> dict[str, Tensor]:
    """Features, last state and all gradients, of a loss that both reach."""
    drive, state = (map_state(lambda t: t.clone().requires_grad_(), s) for s in (drive, state))
    cell.zero_grad()
    features, last = path(cell, drive, state, noise, lengths)
    starts, lasts = ((s,) if isinstance(s, Tensor) else s for s in (state, last))
    loss = sum((torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t).sin() * t).sum() for t in (features, *lasts))
    loss.backward()  # type: ignore[union-attr]
    results = {"features": features, **{f"last {i}": t for i, t in enumerate(lasts)}, "gradient of drive": drive.grad}
    results |= {f"gradient of state {i}": t.grad for i, t in enumerate(starts)}
    results |= {f"gradient of {key}": p.grad for key, p in cell.named_parameters() if p.grad is not None}
    return {key: value.detach().double() for key, value in results.items()}


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


def test_without_a_library_a_slower_path_runs_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise Unavailable("no luck")

    monkeypatch.setattr(cpu, "engine", fail)
    monkeypatch.setattr(cpu, "_said", set())
    cpu._tried.cache_clear()
    try:
        for name in ("rru", "gru"):
            cell = CELLS[name](2, 3)
            choice = choose(cell, cell.project(torch.zeros(5, 1, 2)), cell.initial_state(1), backend="auto")
            assert choice.path == "torch"
            assert choice.passed_over["cpu"] == "no luck"
        assert [record.getMessage().partition(": ")[2] for record in caplog.records] == ["no luck"]
    finally:
        cpu._tried.cache_clear()

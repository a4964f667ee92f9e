"""The GPU kernels' own source run on the CPU, thread by thread, against the reference: forward, backward, failures."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ungated.cells import CELLS, RRUCell
from ungated.cells.cell import Cell, Noise, map_state
from ungated.scan.cuda import kernel
from ungated.scan.cuda.driver import LaunchError
from ungated.scan.cuda.gru import gru_scan
from ungated.scan.cuda.lstm import lstm_scan
from ungated.scan.cuda.mogrifier import mogrifier_scan
from ungated.scan.cuda.plan import Device, Plan, Work, _laid_out
from ungated.scan.cuda.rhn import rhn_scan
from ungated.scan.cuda.rru import rru_scan
from ungated.scan.reference import reference_scan

SHIM = Path(__file__).parent / "cuda_shim"
SCANS: dict[str, Callable[..., Any]] = {
    "rru": rru_scan,
    "lstm": lstm_scan,
    "gru": gru_scan,
    "rhn": rhn_scan,
    "mogrifier": mogrifier_scan,
}


class Compiled:
    """A plan's kernel as a library of the CPU."""

    def __init__(self, file: Path, made: Plan) -> None:
        self.run, self.made = ctypes.CDLL(str(file)).run, made
        self.seed = 0

    def launch(self, blocks: int, arguments: ctypes.Structure, *, cooperative: bool) -> None:
        assert cooperative or (self.made.ctas == 1 and not self.made.streamed)
        self.seed += 1
        status = self.run(ctypes.byref(arguments), blocks, self.made.threads, self.made.shared_bytes, self.seed)
        assert status == 0, "the grid could not go on"


class Virtual:
    """A GPU of any size, and the team that a test wants on it. other: it takes the other way where there is one."""

    def __init__(self, directory: Path, rows: int, ctas: int, warps: int, shared: int, other: bool) -> None:
        self.directory, self.team, self.made, self.other = directory, (rows, ctas, warps), [], other
        self._device = Device(max(2 * ctas, 4), shared, "sm_90")

    def device(self, index: int) -> Device:
        return self._device

    def plan(self, work: Work, mode: str, batch: int, device: Device) -> Plan | None:
        taken = work.other if self.other and work.other is not None else work
        made = _laid_out(taken, mode, batch, device, *self.team)
        self.made.append(made)
        return made

    def function(self, made: Plan, index: int) -> Compiled:
        text = kernel.source(made, SHIM / "shim.h") + (SHIM / "entry.h").read_text()
        stem = self.directory / hashlib.sha256(text.encode()).hexdigest()[:20]
        if not stem.with_suffix(".so").exists():
            stem.with_suffix(".cpp").write_text(text)
            command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"{stem}.cpp", "-o", f"{stem}.so"]
            subprocess.run(command, check=True)
        return Compiled(stem.with_suffix(".so"), made)

    def flag(self) -> Tensor:
        return torch.zeros(1, dtype=torch.int32)


@pytest.fixture
def virtual(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Virtual]]:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")

    def make(rows: int = 8, ctas: int = 1, warps: int = 4, shared: int = 232_448, other: bool = False) -> Virtual:
        gpu = Virtual(tmp_path_factory.getbasetemp(), rows, ctas, warps, shared, other)
        monkeypatch.setattr(kernel, "_gpu", gpu)
        monkeypatch.setattr(kernel, "plan", gpu.plan)
        clear()
        return gpu

    def clear() -> None:
        for found in (kernel._prepared, kernel._function, kernel._flag):
            found.cache_clear()

    yield make
    clear()


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """What is never written is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# name, input, hidden, options, T, B, masks and lengths; the team: rows, blocks, warps, shared memory.
EXACT: list[tuple[str, int, int, dict[str, Any], int, int, bool, dict[str, int]]] = [
    ("rru", 3, 1, {}, 1, 1, False, {}),
    ("rru", 3, 5, {}, 4, 7, True, {}),
    ("rru", 3, 21, {}, 4, 11, True, {"ctas": 3}),
    ("rru", 2, 20, {"relu_layers": 2}, 3, 5, True, {"ctas": 2, "warps": 8}),
    ("rru", 2, 20, {"relu_layers": 3}, 3, 19, True, {"rows": 16, "ctas": 2, "shared": 15_000}),
    ("rru", 8, 23, {"normalize": False, "rezero": "scalar", "residual": "one"}, 3, 3, False, {"ctas": 2}),
    ("lstm", 3, 1, {}, 1, 1, False, {}),
    ("lstm", 3, 19, {"forget_bias": 0.5}, 4, 11, True, {"ctas": 3, "warps": 8}),
    ("gru", 3, 1, {}, 1, 1, False, {}),
    ("gru", 3, 19, {}, 4, 19, True, {"rows": 16, "ctas": 3}),
    ("gru", 3, 19, {"reset": "after"}, 4, 3, True, {"ctas": 2}),
    ("gru", 3, 9, {"reset": "after"}, 3, 5, False, {}),
    ("rhn", 3, 1, {"depth": 1}, 1, 1, False, {}),
    ("rhn", 3, 19, {"depth": 3}, 3, 11, True, {"ctas": 3, "shared": 12_000}),
    ("rhn", 3, 9, {"depth": 2}, 3, 5, True, {}),
    ("mogrifier", 3, 19, {"rounds": 0}, 3, 9, True, {"ctas": 2}),
    ("mogrifier", 37, 9, {"rounds": 2, "rank": 5}, 3, 5, False, {"warps": 8}),
    ("mogrifier", 5, 19, {"rounds": 3, "rank": 7}, 3, 19, True, {"rows": 16, "ctas": 3, "shared": 15_000}),
    ("mogrifier", 5, 19, {"rounds": 4, "rank": 12}, 3, 8, True, {"other": True}),
    ("mogrifier", 35, 20, {"rounds": 1, "rank": 3}, 6, 5, True, {"ctas": 2, "other": True}),
]


@pytest.mark.parametrize("case", EXACT, ids=lambda case: "-".join(str(part) for part in case))
def test_in_float32_it_is_as_exact_as_the_reference(case: Any, virtual: Callable[..., Virtual]) -> None:
    virtual(**case[-1])
    cell, drive, state, noise, lengths = _problem(case)
    _assert_exact(*_three(SCANS[case[0]], cell, drive, state, noise, lengths))


def _assert_exact(found: dict[str, Tensor], single: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    for key, value in exact.items():
        error, own = (float((other[key] - value).norm()) for other in (found, single))
        assert error <= 4 * own + 4 * torch.finfo(torch.float32).eps * float(value.norm()), key


def test_the_gradient_of_a_tie_in_the_capped_gate_is_shared(virtual: Callable[..., Virtual]) -> None:
    case = next(case for case in EXACT if case[0] == "mogrifier" and case[-1].get("other"))
    virtual(**case[-1])
    cell, *given = _problem(case)
    with torch.no_grad():
        for name in ("W_x", "W_h", "b_f", "b_i"):
            getattr(cell, name).zero_()  # both gates 0.5
    _assert_exact(*_three(mogrifier_scan, cell, *given))


def _problem(case: Any) -> tuple[Cell, Tensor, Any, Noise, Tensor | None]:
    name, m, n, options, T, B, masks = case[:7]
    generator = torch.manual_seed(0)
    cell = CELLS[name](m, n, **options)  # type: ignore[call-arg]
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    drive = cell.project(torch.randn(T, B, m, generator=generator)).detach()
    drive = drive.transpose(0, 1).contiguous().transpose(0, 1)  # as of a layer with batch_first
    state = map_state(lambda zeros: torch.randn(zeros.shape, generator=generator), cell.initial_state(B))
    state = map_state(lambda s: s.t().contiguous().t(), state)
    noise: Noise = None
    if masks:
        for rate in ("recurrent_dropout", "state_dropout"):
            if hasattr(cell, rate):
                setattr(cell, rate, 0.4)
        noise = cell.noise(T, B)
    return cell, drive, state, noise, torch.randint(1, T + 1, (B,), generator=generator) if masks else None


def _three(
    path: Callable[..., Any], cell: Cell, drive: Tensor, state: Any, noise: Noise, lengths: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """All results by the path, by the reference, and by the reference in float64."""
    found = _everything(path, cell, drive, state, noise, lengths)
    single = _everything(reference_scan, cell, drive, state, noise, lengths)
    wide = None if noise is None else map_state(Tensor.double, noise)
    exact = _everything(reference_scan, cell.double(), drive.double(), map_state(Tensor.double, state), wide, lengths)
    assert found.keys() == exact.keys()
    return found, single, exact


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


# The largest error of any result, over its size, that rounding the factors of products may cause.
ROUGH = {"BF16": 3e-2, "FP16": 4e-3, "TF32": 4e-3}
EACH: list[Any] = [
    ("rru", 3, 37, {"relu_layers": 2}, 3, 11, True, {"rows": 16, "ctas": 2, "shared": 40_000}),
    ("lstm", 3, 37, {}, 3, 9, True, {"ctas": 3}),
    ("gru", 3, 37, {}, 3, 9, True, {}),
    ("gru", 3, 37, {"reset": "after"}, 3, 17, False, {"rows": 32, "ctas": 2, "warps": 8}),
    ("rhn", 3, 21, {"depth": 2}, 3, 9, True, {"ctas": 2}),
    ("mogrifier", 21, 19, {"rounds": 3, "rank": 9}, 3, 9, True, {"ctas": 2}),
]


@pytest.mark.parametrize("mode", ROUGH)
@pytest.mark.parametrize("case", EACH, ids=lambda case: f"{case[0]}{case[3] or ''}")
def test_with_rounded_factors_it_is_close(
    case: Any, mode: str, virtual: Callable[..., Virtual], monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual(**case[-1])
    monkeypatch.setattr(kernel, "mode_of", lambda reduced: mode)
    cell, drive, state, noise, lengths = _far_from_kinks(*_problem(case))
    found, _, exact = _three(SCANS[case[0]], cell, drive, state, noise, lengths)
    errors = {key: float((found[key] - value).norm() / value.norm()) for key, value in exact.items()}
    assert max(errors.values()) <= ROUGH[mode], errors
    assert max(errors.values()) >= ROUGH[mode] / 300, "nothing was rounded"


def test_half_precision_is_no_worse_than_the_reference_s(virtual: Callable[..., Virtual]) -> None:
    case = EACH[0]
    gpu = virtual(**case[-1])
    cell, drive, state, noise, lengths = (_halved(part) for part in _far_from_kinks(*_problem(case)))
    found, own, exact = _three(SCANS["rru"], cell, drive, state, noise, lengths)
    assert {made.mode for made in gpu.made} == {"BF16"}
    ours, theirs = (
        max(float((got[key] - value).norm() / value.norm()) for key, value in exact.items()) for got in (found, own)
    )
    assert ours <= theirs


def _far_from_kinks(cell: Any, drive: Tensor, *others: Any) -> tuple[Any, ...]:
    """The same problem, but no ReLU takes what rounding could bring to the other side of zero."""
    if isinstance(cell, RRUCell):
        drive = drive + 20.0 * torch.randn(drive.shape[-1]).sign()
        with torch.no_grad():
            for b in cell.b_k:
                b.add_(20.0 * torch.randn(b.shape).sign())
    return cell, drive, *others


def _halved(part: Any) -> Any:
    whole = part is None or (isinstance(part, Tensor) and not part.is_floating_point())
    return part if whole else part.to(torch.bfloat16)


@pytest.mark.parametrize("case", EACH, ids=lambda case: f"{case[0]}{case[3] or ''}")
def test_rows_do_not_depend_on_each_other_nor_results_on_the_order_of_threads(
    case: Any, virtual: Callable[..., Virtual]
) -> None:
    virtual(**case[-1])
    cell, drive, state, noise, _ = _problem(case)
    before, _ = SCANS[case[0]](cell, drive, state, noise, None)
    changed = drive.clone()
    changed[:, 0] = float("nan")
    after, _ = SCANS[case[0]](cell, changed, state, noise, None)
    assert after[:, 0].isnan().any()
    assert torch.equal(before[:, 1:], after[:, 1:])
    with torch.no_grad():
        bare, _ = SCANS[case[0]](cell, drive, state, noise, None)
    assert torch.equal(before, bare)


def test_a_batch_of_more_teams_than_the_gpu_holds_takes_several_launches(
    virtual: Callable[..., Virtual], monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual(ctas=3)  # of which the GPU holds two
    launches: list[int] = []
    launch = Compiled.launch

    def counted(self: Compiled, blocks: int, *args: Any, **options: Any) -> None:
        launches.append(blocks)
        launch(self, blocks, *args, **options)

    monkeypatch.setattr(Compiled, "launch", counted)
    cell, drive, state, noise, _ = _problem(("lstm", 3, 19, {}, 2, 19, False))
    with torch.no_grad():
        found, _ = lstm_scan(cell, drive, state, noise, None)  # type: ignore[arg-type]
    assert launches == [6, 3]
    torch.testing.assert_close(found, reference_scan(cell, drive, state)[0])


def test_a_block_that_never_comes_is_an_error_and_no_result(
    virtual: Callable[..., Virtual], monkeypatch: pytest.MonkeyPatch
) -> None:
    virtual(ctas=3)
    launch = Compiled.launch
    monkeypatch.setattr(Compiled, "launch", lambda self, blocks, x, **_: launch(self, blocks - 1, x, cooperative=True))
    monkeypatch.setattr(kernel, "PATIENCE", 5_000_000)
    cell, drive, state, noise, _ = _problem(("lstm", 3, 19, {}, 2, 5, False))
    with torch.no_grad():
        features, (h, c) = lstm_scan(cell, drive, state, noise, None)  # type: ignore[arg-type]
        assert all(tensor.isnan().any() for tensor in (features, h, c))
        with pytest.raises(LaunchError, match="waited too long"):
            lstm_scan(cell, drive, state, noise, None)  # type: ignore[arg-type]
        monkeypatch.undo()
    virtual(ctas=3)
    with torch.no_grad():
        found, _ = lstm_scan(cell, drive, state, noise, None)  # type: ignore[arg-type]
    torch.testing.assert_close(found, reference_scan(cell, drive, state)[0])

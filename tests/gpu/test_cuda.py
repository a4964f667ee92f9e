"""The GPU kernels on a GPU, against the reference in float64; and a launch that fails.

`backend("auto")` may take them once this has passed: then "cuda" leaves `ungated.scan.UNPROVEN`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ungated.cells import CELLS
from ungated.cells.cell import Cell, Noise, map_state
from ungated.scan import choose, scan
from ungated.scan.cuda import kernel, lstm, plan
from ungated.scan.cuda.driver import Function, LaunchError
from ungated.scan.cuda.plan import Device, Plan, Work

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

# cell, input, hidden, options, T, B, masks, lengths.
CASES: list[tuple[str, int, int, dict[str, Any], int, int, bool, bool]] = [
    ("rru", 3, 1, {}, 1, 1, False, False),
    ("rru", 5, 33, {"expansion": 7.3}, 50, 3, True, True),
    ("rru", 9, 129, {"relu_layers": 2}, 30, 17, True, False),
    ("rru", 9, 70, {"relu_layers": 3, "normalize": False}, 37, 130, False, True),
    ("rru", 88, 339, {"expansion": 7.3}, 40, 16, True, False),
    ("rru", 1, 115, {}, 100, 64, False, False),
    ("rru", 4, 50, {"rezero": "scalar", "residual": "one"}, 20, 5, True, True),
    ("rru", 64, 1626, {}, 6, 128, False, False),
    ("lstm", 3, 1, {}, 1, 1, False, False),
    ("lstm", 5, 37, {}, 50, 3, True, True),
    ("lstm", 5, 763, {"forget_bias": 0.5}, 30, 16, True, False),
    ("lstm", 5, 1024, {}, 10, 70, False, True),
    ("gru", 3, 1, {}, 1, 1, False, False),
    ("gru", 5, 37, {}, 50, 3, True, True),
    ("gru", 5, 513, {}, 20, 33, False, False),
    ("gru", 5, 129, {"reset": "after"}, 40, 33, True, True),
    ("gru", 5, 768, {"reset": "after"}, 20, 16, False, False),
    ("rhn", 3, 1, {"depth": 1}, 1, 1, False, False),
    ("rhn", 5, 37, {"depth": 3}, 30, 9, True, True),
    ("rhn", 5, 830, {"depth": 10}, 5, 20, True, False),
    ("mogrifier", 3, 1, {"rounds": 1, "rank": 1}, 1, 1, False, False),
    ("mogrifier", 40, 37, {"rounds": 0}, 30, 9, True, True),
    ("mogrifier", 19, 37, {"rounds": 2, "rank": 50}, 40, 3, True, True),
    ("mogrifier", 88, 472, {"rounds": 6, "rank": 58}, 20, 16, True, False),
    ("mogrifier", 1014, 1014, {}, 6, 70, False, True),
]
SMALL: list[Any] = [(name, 5, 24, {}, 21, 9, True, True) for name in CELLS]
# How many times the error of the reference in the same dtype may be reached. TF32: of a reference that uses it as well.
FACTORS = {"fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0}
EPS = {"fp32": 2.0**-23, "tf32": 2.0**-10, "bf16": 2.0**-7, "fp16": 2.0**-10}
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEAMS: dict[str, Callable[[Plan], bool]] = {
    "any team": lambda made: True,
    "one block": lambda made: made.ctas == 1,
    "several blocks": lambda made: made.ctas > 1,
    "two products a round": lambda made: made.work.other is not None,
    "one product a round": lambda made: made.work.kernel.startswith("mogrifier") and made.work.other is None,
}


def ids(case: Any) -> str:
    return "-".join(str(part) for part in case) if isinstance(case, tuple) else str(case)


@pytest.fixture(autouse=True)
def fresh_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh memory is not a number, kernels are planned anew, and no test may leave a stopped scan behind."""
    torch.manual_seed(0)
    torch.full((1 << 26,), float("nan"), device="cuda")
    forget()
    yield
    torch.cuda.synchronize()
    stopped = int(kernel._flag(0))
    forget()
    assert not stopped


def forget() -> None:
    for found in (kernel._tried, kernel._prepared, kernel._function, kernel._flag):
        found.cache_clear()


@pytest.fixture(params=FACTORS)
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    yield request.param
    torch.set_float32_matmul_precision(before)


def wanting(team: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the planner take the fastest of some plans; skips where there is none."""

    def planned(work: Work, mode: str, batch: int, device: Device) -> Plan | None:
        found = [made for made in plan._candidates(work, mode, batch, device) if made and TEAMS[team](made)]
        if not found:
            pytest.skip(f"no plan with {team} for these sizes")
        return min(found, key=lambda made: made.nanoseconds)

    monkeypatch.setattr(kernel, "plan", planned)


def problem(case: Any) -> tuple[Cell, Tensor, Any, Noise, Tensor | None]:
    """A cell off its initial values, drive, state, noise and lengths, in float64."""
    name, m, n, options, T, B, masks, ragged = case
    cell = CELLS[name](m, n, **options).double().cuda()  # type: ignore[call-arg]
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) / max(1.0, parameter.shape[0] ** 0.5 / 4))
    drive = cell.project(torch.randn(T, B, m, dtype=torch.float64, device="cuda")).detach()
    state = map_state(torch.randn_like, cell.initial_state(B))
    for rate in ("recurrent_dropout", "state_dropout") if masks else ():
        if hasattr(cell, rate):
            setattr(cell, rate, 0.4)
    lengths = torch.randint(1, T + 1, (B,), device="cuda") if ragged else None
    return cell, drive, state, cell.noise(T, B), lengths


def in_dtype(given: Any, dtype: torch.dtype) -> Any:
    """The same problem in another dtype; its values there are exact in float64."""
    if isinstance(given, tuple):
        return tuple(in_dtype(part, dtype) for part in given)
    return given.to(dtype) if isinstance(given, Tensor) and given.is_floating_point() else given


def everything(backend: str, cell: Cell, given: Any) -> dict[str, Tensor]:
    """Features, last state and all gradients, of a loss that all of them reach."""
    drive, state, noise, lengths = given
    drive, state = (map_state(lambda t: t.clone().requires_grad_(), s) for s in (drive, state))
    cell.zero_grad()
    features, last = scan(cell, drive, state, noise, lengths, backend)
    starts, lasts = ((s,) if isinstance(s, Tensor) else s for s in (state, last))
    weights = [
        torch.linspace(-1, 1, t.numel(), dtype=torch.float64).view(t.shape).mul(9.0).sin() for t in (features, *lasts)
    ]
    loss = sum((w.to(t) * t).double().sum() for w, t in zip(weights, (features, *lasts), strict=True))
    loss.backward()  # type: ignore[union-attr]
    results = {"features": features, **{f"last {i}": t for i, t in enumerate(lasts)}, "gradient of drive": drive.grad}
    results |= {f"gradient of state {i}": t.grad for i, t in enumerate(starts)}
    results |= {f"gradient of {key}": p.grad for key, p in cell.named_parameters() if p.grad is not None}
    return {key: value.detach().double() for key, value in results.items()}


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_equals_the_reference(case: Any, team: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanting(team, monkeypatch)
    cell, *given = problem(case)
    dtype = DTYPES[precision]
    rounded = in_dtype(tuple(given), dtype)
    cell.to(dtype)
    assert choose(cell, *rounded, backend="cuda").path == "cuda"
    ours, own = everything("cuda", cell, rounded), everything("reference", cell, rounded)
    exact = everything("reference", cell.double(), in_dtype(rounded, torch.float64))
    wrong = []
    for key, value in exact.items():
        size = float(value.norm())
        error, theirs = float((ours[key] - value).norm()), float((own[key] - value).norm())
        if not error <= FACTORS[precision] * theirs + EPS[precision] * size:
            wrong.append(f"{key}: {error / size:.1e}, the reference's {theirs / size:.1e}")
    assert not wrong, wrong


@pytest.mark.parametrize("case", SMALL, ids=ids)
@pytest.mark.parametrize("team", ["one block", "several blocks"])
def test_rows_and_repetitions(case: Any, team: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanting(team, monkeypatch)
    cell, *given = problem(case)
    drive, *rest = in_dtype(tuple(given), torch.float32)
    cell.float()
    with torch.no_grad():
        first, _ = scan(cell, drive, *rest, backend="cuda")
        for _ in range(20):
            assert torch.equal(scan(cell, drive, *rest, backend="cuda")[0], first)
        changed = drive.clone()
        changed[:, 0] = float("nan")
        after, _ = scan(cell, changed, *rest, backend="cuda")
    assert after[:, 0].isnan().any()
    assert torch.equal(after[:, 1:], first[:, 1:])


@pytest.mark.parametrize("case", SMALL, ids=ids)
def test_under_autocast_and_in_a_graph(case: Any) -> None:
    cell, *given = problem(case)
    rounded = in_dtype(tuple(given), torch.float32)
    cell.float()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        want = scan(cell, *rounded, backend="reference")[0]
        found = scan(cell, *rounded, backend="cuda")[0]
        torch.testing.assert_close(found, want.to(found.dtype), rtol=0.1, atol=0.1)
    with torch.no_grad():
        want = scan(cell, *rounded, backend="cuda")[0]
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = scan(cell, *rounded, backend="cuda")[0]
        for _ in range(3):
            found.zero_()
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(found, want)


def test_a_long_scan(precision: str) -> None:
    cell, *given = problem(("gru", 3, 200, {"reset": "after"}, 300, 16, False, False))
    rounded = in_dtype(tuple(given), DTYPES[precision])
    cell.to(DTYPES[precision])
    ours = everything("cuda", cell, rounded)
    exact = everything("reference", cell.double(), in_dtype(rounded, torch.float64))
    loosest = {"fp32": 1e-5, "tf32": 2e-2, "fp16": 2e-2, "bf16": 1e-1}[precision]
    for key, value in exact.items():
        assert float((ours[key] - value).norm() / value.norm()) < loosest, key


def test_a_block_that_never_comes_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    wanting("several blocks", monkeypatch)
    launch = Function.launch

    def one_too_few(self: Function, blocks: int, arguments: ctypes.Structure, **options: Any) -> None:
        launch(self, blocks - 1, arguments, **options)

    cell, *given = problem(("lstm", 3, 200, {}, 5, 8, False, False))
    rounded = in_dtype(tuple(given), torch.float32)
    cell.float()
    with torch.no_grad():
        want, _ = scan(cell, *rounded, backend="cuda")
        monkeypatch.setattr(Function, "launch", one_too_few)
        monkeypatch.setattr(kernel, "PATIENCE", 50_000_000)
        features, _ = scan(cell, *rounded, backend="cuda")
        torch.cuda.synchronize()
        assert features.isnan().any()
        monkeypatch.setattr(Function, "launch", launch)
        with pytest.raises(LaunchError, match="waited too long"):
            scan(cell, *rounded, backend="cuda")
        assert torch.equal(scan(cell, *rounded, backend="cuda")[0], want)


def test_more_blocks_than_fit_are_refused() -> None:
    cell, *given = problem(("lstm", 3, 64, {}, 5, 8, False, False))
    rounded = in_dtype(tuple(given), torch.float32)
    with torch.no_grad():
        scan(cell.float(), *rounded, backend="cuda")
    function = kernel._prepared(lstm._work(64, False, False), kernel.mode_of(None), 8, 0)[2]
    assert isinstance(function, Function)
    with pytest.raises(LaunchError, match="should run at once"):
        function.launch(10_000, ctypes.Structure(), cooperative=True)

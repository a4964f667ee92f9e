"""CUDA graphs and Triton's kernels on a GPU: against the reference in float64, and whatever could make graphs stale."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ungated.cells import CELLS
from ungated.cells.cell import Cell, Noise, map_state
from ungated.scan import choose, scan, triton
from ungated.scan.graphs import graphed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

# cell, input, hidden, options, T, B, masks, lengths: T of several chunks, with and without a rest.
CASES: list[tuple[str, int, int, dict[str, Any], int, int, bool, bool]] = [
    ("rru", 3, 1, {}, 1, 1, False, False),
    ("rru", 5, 33, {"expansion": 7.3}, 150, 3, True, True),
    ("rru", 9, 129, {"relu_layers": 2}, 64, 17, True, False),
    ("rru", 9, 70, {"relu_layers": 3, "normalize": False}, 37, 130, False, True),
    ("rru", 8, 339, {"expansion": 7.3}, 70, 16, False, False),
    ("rru", 4, 50, {"output_relu": True, "rezero": "scalar", "residual": "one"}, 20, 5, True, True),
    ("rhn", 3, 1, {"depth": 1}, 1, 1, False, False),
    ("rhn", 5, 37, {"depth": 3}, 75, 20, True, True),
    ("rhn", 5, 130, {"depth": 2, "tie_masks": False}, 35, 7, True, False),
    ("lstm", 5, 37, {}, 150, 3, True, True),
    ("lstm", 5, 763, {"forget_bias": 0.5}, 64, 16, False, False),
    ("gru", 5, 37, {}, 150, 3, True, True),
    ("gru", 5, 129, {"reset": "after"}, 70, 33, True, True),
    ("mogrifier", 19, 37, {"rank": 3}, 75, 15, True, True),
    ("mogrifier", 40, 130, {"rounds": 2}, 33, 70, False, False),
]
SMALL = [(name, 5, 24, {}, 21, 4, True, True) for name in CELLS]
PATHS = ("graph", "triton")


def ids(case: Any) -> str:
    return "-".join(str(part) for part in case) if isinstance(case, tuple) else str(case)


@pytest.fixture(autouse=True)
def nothing_said(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may pass because a slower loop stood in, which would be said, nor because fresh memory is zero."""
    torch.manual_seed(0)
    graphed._kept.clear()
    torch.full((1 << 26,), float("nan"), device="cuda")
    yield
    assert caplog.records == []
    assert triton._failed == []


def problem(case: Any, dtype: torch.dtype = torch.float32) -> tuple[Cell, Tensor, Any, Noise, Tensor | None]:
    """A cell off its initial values, drive, state, noise and lengths on the GPU."""
    name, m, n, options, T, B, masks, ragged = case
    cell = CELLS[name](m, n, **options)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    cell = cell.to("cuda", dtype)
    drive = cell.project(torch.randn(T, B, m, device="cuda").to(dtype)).detach()
    state = map_state(torch.randn_like, cell.initial_state(B))
    noise: Noise = None
    if masks:
        for rate in ("recurrent_dropout", "state_dropout"):
            if hasattr(cell, rate):
                setattr(cell, rate, 0.4)
        noise = cell.noise(T, B)
    lengths = torch.randint(1, T + 1, (B,), device="cuda") if ragged else None
    return cell, drive, state, noise, lengths


def everything(path: str, cell: Cell, drive: Tensor, state: Any, noise: Noise, lengths: Any) -> list[Tensor]:
    """Features, last state and all gradients, of a loss that both reach."""
    drive, state = (map_state(lambda t: t.detach().clone().requires_grad_(), s) for s in (drive, state))
    features, last = scan(cell, drive, state, noise, lengths, path)
    assert path not in PATHS or graphed._kept
    starts, results = row(state), [features, *row(last)]
    weights = [torch.linspace(-9, 9, t.numel(), dtype=torch.float64, device=t.device).view_as(t).sin() for t in results]
    loss = sum((result.double() * weight).mean() for result, weight in zip(results, weights, strict=True)) * 100
    inputs = [drive, *starts, *cell.parameters()]
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [*(result.detach() for result in results), *(g for g in gradients if g is not None)]


def row(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else state


def doubled(problem: tuple[Any, ...]) -> tuple[Any, ...]:
    cell, *tensors, lengths = problem
    wide = [None if t is None else map_state(Tensor.double, t) for t in tensors]
    return copy.deepcopy(cell).double(), *wide, lengths


def needs(path: str, given: tuple[Any, ...]) -> None:
    try:
        choose(*given, backend=path)
    except RuntimeError as error:
        pytest.skip(str(error))


def assert_close(got: list[Tensor], want: list[Tensor], unit: float) -> None:
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=unit, atol=unit * max(1.0, float(w.abs().max())))


def errors(
    path: str, case: Any, dtype: torch.dtype, other: str, autocast: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each result, over some draws: the path's error, that of another path, and the result's size."""
    squares: list[Tensor] = []
    for seed in range(4):  # one draw alone may find the other path lucky
        torch.manual_seed(seed)
        given = problem(case, torch.float32 if autocast else dtype)
        needs(path, given)
        with torch.autocast("cuda", dtype, enabled=autocast):
            found, own = everything(path, *given), everything(other, *given)
        exact = everything("reference", *doubled(given))
        assert [t.dtype for t in found] == [t.dtype for t in own]
        rows = zip(found, own, exact, strict=True)
        squares.append(torch.tensor([[float(t.norm()) ** 2 for t in (f - e, o - e, e)] for f, o, e in rows]))
    return torch.stack(squares).sum(0).sqrt().unbind(1)  # type: ignore[return-value]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_float32(case: Any, path: str) -> None:
    mine, own, size = errors(path, case, torch.float32, "reference")
    assert (mine <= 4 * own + torch.finfo(torch.float32).eps * size).all(), (
        f"{mine / size}, the reference's {own / size}"
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("kind", ["bfloat16", "float16", "autocast"])
def test_half_precision(case: Any, path: str, kind: str) -> None:
    dtype = torch.float16 if kind == "float16" else torch.bfloat16
    mine, own, size = errors(path, case, dtype, "reference", kind == "autocast")
    assert (mine <= 2 * own + torch.finfo(dtype).eps * size).all(), f"{mine / size}, the reference's {own / size}"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", [case for case in CASES if case[2] > 100], ids=ids)
def test_tf32_where_torch_allows_it(case: Any, path: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        mine, own, size = errors(path, case, torch.float32, "torch")
    finally:
        torch.set_float32_matmul_precision(before)
    assert (mine <= 4 * own + 2.0**-11 * size).all(), f"{mine / size}, in torch {own / size}"


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_graphs_in_float64(case: Any) -> None:
    given = problem(case, torch.float64)
    assert_close(everything("graph", *given), everything("reference", *given), 1e-10)


@pytest.fixture(params=[(path, case) for path in PATHS for case in SMALL], ids=lambda p: f"{p[0]}-{p[1][0]}")
def small(request: pytest.FixtureRequest) -> tuple[str, Any]:
    path, case = request.param
    needs(path, problem(case))
    return path, case


def test_weights_changed_replaced_and_of_another_layer(small: tuple[str, Any]) -> None:
    path, case = small
    cell, *given = problem(case)
    other = problem(case)[0]
    for change in (
        lambda: None,
        lambda: [parameter.mul_(1.2) for parameter in cell.parameters()],
        lambda: cell.load_state_dict(copy.deepcopy(other.state_dict()), assign=True),
        lambda: cell.load_state_dict({key: 0.5 * value for key, value in other.state_dict().items()}),
    ):
        with torch.no_grad():
            change()
        for each in (cell, other):
            assert_close(everything(path, each, *given), everything("reference", each, *given), 1e-4)
    assert len(graphed._kept) == 1


def test_lengths_of_time_in_turn(small: tuple[str, Any]) -> None:
    path, case = small
    for T in (21, 64, 5, 200, 21, 1, 130):
        given = problem((*case[:4], T, *case[5:]))
        assert_close(everything(path, *given), everything("reference", *given), 1e-3)
    assert len(graphed._kept) <= 2  # in one step, a mask for it and one for all steps are not told apart


def test_training_is_that_of_the_loop_in_torch(small: tuple[str, Any]) -> None:
    path, case = small
    cell, *given = problem(case)
    found = []
    for name in (path, "torch"):
        ours = copy.deepcopy(cell)
        optimiser = torch.optim.SGD(ours.parameters(), 0.05, momentum=0.9)
        for _ in range(10):
            optimiser.zero_grad()
            features, last = scan(ours, *given, name)
            (features.square().mean() + sum(part.square().mean() for part in row(last))).backward()
            optimiser.step()
        found.append([parameter.detach() for parameter in ours.parameters()])
    assert_close(*found, 1e-4)
    assert any(not torch.equal(p, q) for p, q in zip(found[0], cell.parameters(), strict=True))


def test_other_streams_and_threads(small: tuple[str, Any]) -> None:
    path, case = small
    givens = [problem(case) for _ in range(4)]
    wants = [everything("reference", *given) for given in givens]
    founds: dict[int, list[list[Tensor]]] = {}
    torch.cuda.synchronize()

    def run(k: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            founds[k] = [everything(path, *givens[k]) for _ in range(5)]
        stream.synchronize()

    in_threads([lambda k=k: run(k) for k in range(4)])  # type: ignore[misc]
    for k, want in enumerate(wants):
        for found in founds[k]:
            assert_close(found, want, 1e-4)


def in_threads(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_inside_a_graph_of_the_user_s(small: tuple[str, Any]) -> None:
    path, case = small
    cell, drive, state, noise, lengths = given = problem(case)
    want = everything(path, *given)  # warms up, too
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        everything(path, *given)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        found = everything(path, cell, drive, state, noise, lengths)
    graph.replay()
    assert_close(found, want, 1e-4)
    drive.mul_(0.5)
    graph.replay()
    assert_close(found, everything("reference", *given), 1e-4)


def test_first_call_in_inference_mode(small: tuple[str, Any]) -> None:
    path, case = small
    given = problem(case)
    with torch.inference_mode():
        features, last = scan(*given, path)
    with torch.no_grad():
        again, last_again = scan(*given, path)
        want, want_last = scan(*given, "reference")
    assert torch.equal(features, again)
    assert_close([again, *row(last_again)], [want, *row(want_last)], 1e-4)
    assert_close([*row(last)], [*row(want_last)], 1e-4)


def test_more_kinds_of_calls_than_are_kept() -> None:
    case = next(case for case in SMALL if case[0] == "gru")
    held = []
    for rounds in range(2):
        for B in range(1, graphed._KINDS + 5):
            given = problem((*case[:5], B, *case[6:]))
            assert_close(everything("graph", *given), everything("reference", *given), 1e-4)
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
        assert len(graphed._kept) == graphed._KINDS, rounds
    assert held[1] <= 1.1 * held[0]


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_compiled_programs_take_another_path() -> None:
    cell, drive, state, *_ = problem(SMALL[0])
    scan(cell, drive, state, backend="graph")

    def run(drive: Tensor) -> Tensor:
        return scan(cell, drive, state)[0]

    torch.testing.assert_close(torch.compile(run, backend="cudagraphs")(drive), run(drive))

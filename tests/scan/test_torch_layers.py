"""Whole layers by operators in plain torch, from input to output: what the paths along time have no part in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import ungated
from ungated.cells import RRUCell
from ungated.cells.cell import Cell, Noise, State
from ungated.scan import LAYERS, rru_layer_torch, scan_layer

from .test_torch_paths import Case, Recorder, as_state, assert_close, random_noise, random_state, row

CASES = [
    Case("rru"),
    Case("rru", {"relu_layers": 2, "output_size": 3}),
    Case("rru", {"relu_layers": 3, "rezero": "scalar", "residual": "one"}),
    Case("rru", {"normalize": False, "residual": 0.9, "expansion": 0.7}),
    Case("rru", {"normalize": False, "relu_layers": 2}),
    Case("rru", {"output_relu": True}),
]
KEPT = ["all", "output", "state"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=str)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def spans_of_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rru_layer_torch, "_SPAN_ENTRIES", 1)
    monkeypatch.setattr(rru_layer_torch, "_FEWEST_ROWS", 6)
    monkeypatch.setattr(rru_layer_torch, "_FEWEST_ROWS_BACK", 9)


def run(path: str, cell: Cell, x: Tensor, state: State, noise: Noise, lengths: Tensor | None) -> list[Tensor]:
    with ungated.backend(path):
        output, last = scan_layer(cell, x, state, noise, lengths)
    return [output, *row(last)]


@pytest.mark.parametrize("part", KEPT)
@pytest.mark.parametrize("ragged", [False, True], ids=["", "ragged"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_output_state_and_every_gradient(
    case: Case, masked: bool, ragged: bool, part: str, spans_of_few_steps: None
) -> None:
    cell, x = case.cell(), torch.randn(7, 3, 3, dtype=torch.float64)
    noise = random_noise(cell, 7, 3) if masked else None
    state, lengths = random_state(cell, 3), torch.tensor([2, 7, 5]) if ragged else None
    weights = [torch.randn_like(result) for result in run("reference", cell, x, state, noise, lengths)]
    chosen = {"all": slice(None), "output": slice(1), "state": slice(1, None)}[part]
    found = []
    for path in ("torch", "reference"):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, *row(state))]
        results = run(path, cell, inputs[0], as_state(tuple(inputs[1:])), noise, lengths)
        loss = sum((r * w).sum() for r, w in zip(results[chosen], weights[chosen], strict=True))
        wanted = [*inputs, *cell.parameters()]
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        with torch.inference_mode():
            bare = run(path, cell, x, state, noise, lengths)
        found.append([*results, *gradients, *bare])
    assert_close(*found)


def test_each_argument_alone_may_want_a_gradient() -> None:
    cell, x, h = Case("rru").cell(), torch.randn(6, 3, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    tensors = [x, h, *cell.parameters()]
    for tensor in tensors:
        tensor.requires_grad_(False)
    for tensor in tensors:
        tensor.requires_grad_()
        found = []
        for path in ("torch", "reference"):
            output, last = run(path, cell, x, h, None, None)
            found.append(list(torch.autograd.grad(output.square().sum() + last.sin().sum(), tensor)))
        assert_close(*found)
        tensor.requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_large_and_packed_products(rows: int) -> None:
    cell, x, h = RRUCell(3, 200, expansion=9.0), torch.randn(100, rows, 3), torch.randn(rows, 200)
    torch.nn.init.normal_(cell.Z)
    found = []
    for path, dtype in (("torch", torch.float32), ("reference", torch.float32), ("reference", torch.float64)):
        one = copy.deepcopy(cell).to(dtype)
        results = run(path, one, x.to(dtype), h.to(dtype), None, None)
        gradients = torch.autograd.grad(sum(result.sum() for result in results), list(one.parameters()))
        found.append([tensor.detach().double() for tensor in (*results, *gradients)])
    assert error(found[0], found[2]) <= 2 * error(found[1], found[2])


def error(got: list[Tensor], want: list[Tensor]) -> float:
    """Sum of the tensors' relative errors."""
    return sum(float((g - w).norm() / w.norm()) for g, w in zip(got, want, strict=True))


def operators(recorder: Recorder) -> list[str]:
    return [str(operator) for operator, _ in recorder.calls]


def test_which_operator_runs() -> None:
    class Doubled(RRUCell):
        def project(self, x: Tensor, noise: Noise = None) -> Tensor:
            return 2 * super().project(x, noise)

    x, h = torch.randn(6, 2, 3), torch.randn(2, 4)
    for cell, name in (
        (RRUCell(3, 4), "rru_layer"),
        (Doubled(3, 4), "rru"),
        (RRUCell(3, 4, output_relu=True), "rru"),
    ):
        with Recorder() as recorder:
            run("torch", cell, x, h, None, None)
        assert operators(recorder) == [f"ungated.{name}.default"]


def test_function_transforms_run_on_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("the operator has no rule for this")

    cell, x, h = RRUCell(3, 4), torch.randn(6, 2, 3), torch.randn(2, 4)
    want = run("reference", cell, x, h, None, None)[0]
    for runs in LAYERS.values():
        monkeypatch.setitem(runs, RRUCell, never)
    with pytest.raises(AssertionError, match="no rule"):
        scan_layer(cell, x, h)
    torch.testing.assert_close(torch.func.vmap(lambda x: scan_layer(cell, x, h)[0])(x[None])[0], want)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's own tracers
def test_operators_keep_torch_s_rules() -> None:
    cell, x = CASES[1].cell(), torch.randn(6, 3, 3, dtype=torch.float64, requires_grad=True)
    noise, lengths = random_noise(cell, 6, 3), torch.tensor([2, 6, 5])
    with Recorder() as recorder:
        output, _ = run("torch", cell, x, random_state(cell, 3), noise, lengths)
        output.sum().backward()
    (forward, given), (backward, given_back) = recorder.calls

    def fresh(value: Any) -> Any:
        if isinstance(value, list):
            return [fresh(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        return value.detach().clone().requires_grad_(value.is_floating_point() and value is not noise)

    torch.library.opcheck(forward, tuple(map(fresh, given)))
    frozen = [value.detach() if isinstance(value, Tensor) else value for value in map(fresh, given_back)]
    torch.library.opcheck(backward, tuple(frozen), test_utils=("test_schema", "test_faketensor"))


def test_second_derivatives() -> None:
    cell = Case("rru", {"relu_layers": 2}).cell(2, 2)
    noise, lengths = random_noise(cell, 3, 2), torch.tensor([3, 2])
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2, 2), (2, 2))]

    def results(x: Tensor, h: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(run("torch", cell, x, h, noise, lengths))

    # The parameters are read through the cell: the check changes them in place.
    assert torch.autograd.gradcheck(results, (*inputs, *cell.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(results, (*inputs, *cell.parameters()), fast_mode=True)


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_whole(compiler: None) -> None:
    layer, names, sizes = ungated.RRU(3, 4, num_layers=2, output_size=3).double(), [], []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        names.extend(str(node.target) for node in graph.graph.nodes)
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    with ungated.backend("torch"):
        for time in (20, 40):
            torch.compiler.reset()
            torch.compile(layer, fullgraph=True, backend=count)(torch.randn(time, 2, 3, dtype=torch.float64))
        assert sizes[0] == sizes[1]
        assert names.count("ungated.rru_layer.default") == 4
        torch.compiler.reset()
        x, found = torch.randn(9, 2, 3, dtype=torch.float64, requires_grad=True), []
        for function in (torch.compile(layer, fullgraph=True, backend="aot_eager"), layer):
            output, last = function(x)
            found.append(list(torch.autograd.grad(output.sin().sum() + last.sum(), [x, *layer.parameters()])))
    assert_close(*found)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
def test_half_precision(half: torch.dtype, autocast: bool) -> None:
    cell, x, h = RRUCell(16, 24, relu_layers=2), torch.randn(12, 8, 16), torch.randn(8, 24)
    torch.nn.init.normal_(cell.Z)
    exact = [r.detach() for r in run("reference", copy.deepcopy(cell).double(), x.double(), h.double(), None, None)]
    if not autocast:
        cell, x, h = cell.to(half), x.to(half), h.to(half)
    errors, dtypes = [], []
    for path in ("torch", "reference"):
        with torch.autocast("cpu", dtype=half, enabled=autocast):
            results = run(path, cell, x, h, None, None)
        gradients = torch.autograd.grad(sum(result.float().sum() for result in results), list(cell.parameters()))
        dtypes.append([tensor.dtype for tensor in (*results, *gradients)])
        errors.append(error([result.detach().double() for result in results], exact))
    assert errors[0] <= 2 * errors[1]
    assert dtypes[0] == dtypes[1]

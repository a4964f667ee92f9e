"""The hand-derived operators in plain torch against the reference, forward and backward."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ungated
from ungated.cells import CELLS, GRUCell, RRUCell
from ungated.cells.cell import Cell, Noise, State
from ungated.scan import choose, products, scan


@dataclass(frozen=True)
class Case:
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def cell(self, m: int = 3, n: int = 4, dtype: torch.dtype = torch.float64) -> Cell:
        """Off its initial values: RRU starts with Z = 0, biases with 0."""
        cell = CELLS[self.name](m, n, **self.options).to(dtype)
        with torch.no_grad():
            for parameter in cell.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return cell

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


CASES = [
    Case("rru"),
    Case("rru", {"relu_layers": 2, "output_size": 3}),
    Case("rru", {"relu_layers": 3, "rezero": "scalar", "residual": "one"}),
    Case("rru", {"normalize": False, "residual": 0.9, "expansion": 0.7}),
    Case("rru", {"output_relu": True, "rezero": "scalar"}),
    Case("rhn", {"depth": 1, "init_scale": 0.3}),
    Case("rhn", {"depth": 3, "init_scale": 0.3}),
    Case("rhn", {"depth": 2, "init_scale": 0.3, "tie_masks": False}),
    Case("gru"),
    Case("gru", {"reset": "after"}),
    Case("lstm"),
    Case("mogrifier"),
    Case("mogrifier", {"rounds": 0}),
    Case("mogrifier", {"rounds": 1, "rank": 1}),
    Case("mogrifier", {"rounds": 4, "rank": 2}),
]
ONE_OF_EACH = [
    Case("rru", {"relu_layers": 2}),
    Case("rhn", {"depth": 2, "init_scale": 0.3}),
    Case("gru"),
    Case("gru", {"reset": "after"}),
    Case("lstm"),
    Case("mogrifier", {"rounds": 3, "rank": 2}),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=str)
    if "each" in metafunc.fixturenames:
        metafunc.parametrize("each", ONE_OF_EACH, ids=str)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def row(state: State) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else state


def as_state(tensors: tuple[Tensor, ...]) -> State:
    return tensors[0] if len(tensors) == 1 else tensors


def random_state(cell: Cell, batch: int) -> State:
    return as_state(tuple(torch.randn_like(part) for part in row(cell.initial_state(batch))))


def random_noise(cell: Cell, time: int, batch: int) -> Noise:
    """Masks as the cell draws them, at a rate of its dropouts of 0.4."""
    rates = [name for name in vars(cell) if name.endswith("dropout")]
    for name in rates:
        setattr(cell, name, 0.4)
    noise = cell.noise(time, batch)
    for name in rates:
        setattr(cell, name, 0.0)
    return noise


def converted(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(converted(part, dtype) for part in value)
    return value.detach().to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@dataclass
class Call:
    """One scan from x on, and everything that can be asked of it."""

    cell: Cell
    x: Tensor
    state: State
    noise: Noise = None
    lengths: Tensor | None = None
    weights: tuple[Tensor, ...] = ()

    def to(self, dtype: torch.dtype) -> Call:
        given = (converted(value, dtype) for value in (self.x, self.state, self.noise, self.lengths, self.weights))
        return Call(copy.deepcopy(self.cell).to(dtype), *given)

    def results(self, backend: str) -> list[Tensor]:
        """Features, last state, and where the loss reaches them the gradients of x, state and parameters."""
        x, state = self.x.detach().requires_grad_(), [part.detach().requires_grad_() for part in row(self.state)]
        drive = self.cell.project(x, self.noise)
        features, last = scan(self.cell, drive, as_state(tuple(state)), self.noise, self.lengths, backend)
        outputs = [features, *row(last)]
        weights = self.weights or tuple(torch.ones_like(output) for output in outputs)
        loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
        inputs = [x, *state, *self.cell.parameters()]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        return [*(o.detach() for o in outputs), *(g for g in gradients if g is not None)]

    def values(self, backend: str) -> list[Tensor]:
        drive = self.cell.project(self.x, self.noise)
        features, last = scan(self.cell, drive, self.state, self.noise, self.lengths, backend)
        return [features, *row(last)]


def call(
    case: Case, T: int = 6, B: int = 3, m: int = 3, n: int = 4, *, masked: bool = False, ragged: bool = False
) -> Call:
    cell = case.cell(m, n)
    lengths = torch.arange(B) * 7 % T + 1 if ragged else None
    noise = random_noise(cell, T, B) if masked else None
    one = Call(cell, torch.randn(T, B, m, dtype=torch.float64), random_state(cell, B), noise, lengths)
    with torch.no_grad():
        one.weights = tuple(torch.randn_like(output) for output in one.values("reference"))
    return one


def assert_close(got: list[Tensor], want: list[Tensor], unit: float = 1e-10) -> None:
    for g, w in zip(got, want, strict=True):
        g, w = g.detach(), w.detach()
        torch.testing.assert_close(g, w, rtol=unit, atol=unit * max(1.0, float(w.abs().max())))


@pytest.mark.parametrize("ragged", [False, True], ids=["", "ragged"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_outputs_state_and_every_gradient(case: Case, masked: bool, ragged: bool) -> None:
    one = call(case, masked=masked, ragged=ragged)
    assert choose(one.cell, one.cell.project(one.x, one.noise), one.state, one.noise, one.lengths).path == "torch"
    assert_close(one.results("torch"), one.results("reference"))
    with torch.no_grad():
        assert_close(one.values("torch"), one.values("reference"))
    with torch.inference_mode():
        assert_close(one.values("torch"), one.values("reference"))


@pytest.mark.parametrize("part", ["features", "h", "c", "state"])
def test_loss_on_some_results_only(case: Case, part: str) -> None:
    one = call(case, ragged=True, masked=True)
    chosen = {"features": [0], "h": [1], "c": [2], "state": [1, 2]}[part]
    if not any(k < len(one.weights) for k in chosen):
        pytest.skip("this cell has no c")
    found = []
    for name in ("torch", "reference"):
        x, state = one.x.clone().requires_grad_(), tuple(s.clone().requires_grad_() for s in row(one.state))
        features, last = scan(one.cell, one.cell.project(x, one.noise), as_state(state), one.noise, one.lengths, name)
        outputs = list(enumerate([features, *row(last)]))
        loss = sum((output * one.weights[k]).sum() for k, output in outputs if k in chosen)
        inputs = [x, *state, *reached(one.cell)]
        found.append(list(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)))
    assert_close(*found)


@pytest.mark.parametrize("layout", ["transposed", "expanded", "sliced"])
def test_layouts_of_inputs_and_gradients(each: Case, layout: str) -> None:
    def laid_out(tensor: Tensor) -> Tensor:
        if layout == "transposed":
            return tensor.transpose(0, 1).contiguous().transpose(0, 1)
        if layout == "expanded":
            return tensor[:, :1].expand_as(tensor)
        return torch.stack([tensor, tensor + 1.0], -1)[..., 0]

    one = call(each, masked=True)
    x, state, weights = (
        laid_out(one.x),
        as_state(tuple(map(laid_out, row(one.state)))),
        tuple(map(laid_out, one.weights)),
    )
    strange = Call(one.cell, x, state, one.noise, None, weights)
    plain = Call(
        one.cell, x.contiguous(), as_state(tuple(s.contiguous() for s in row(state))), one.noise, None, weights
    )
    assert_close(strange.results("torch"), plain.results("reference"))
    drive = laid_out(one.cell.project(one.x, one.noise))
    got = scan(one.cell, drive, state, one.noise, backend="torch")
    want = scan(one.cell, drive.contiguous(), state, one.noise, backend="torch")
    assert_close([got[0], *row(got[1])], [want[0], *row(want[1])], 0.0)


def test_one_mask_for_all_steps(each: Case) -> None:
    one = call(each)
    one.noise = random_noise(one.cell, 1, 3)
    assert_close(one.results("torch"), one.results("reference"))


def test_negative_masks(each: Case) -> None:
    one = call(each, masked=True)
    one.noise = (
        torch.randn_like(one.noise) if isinstance(one.noise, Tensor) else tuple(map(torch.randn_like, one.noise or ()))
    )
    assert_close(one.results("torch"), one.results("reference"))


def test_a_tie_in_the_mogrifier_s_capped_gate() -> None:
    # All zeros: i = 1 - f = 1/2, and the minimum shares its gradient.
    cell = CELLS["mogrifier"](3, 4).double()
    one = Call(cell, torch.zeros(5, 2, 3, dtype=torch.float64), cell.initial_state(2))
    one.state = (one.state[0], torch.ones(2, 4, dtype=torch.float64))
    assert_close(one.results("torch"), one.results("reference"))


def reached(cell: Cell) -> list[torch.nn.Parameter]:
    """The parameters that a scan reaches: all but the readout's."""
    return [parameter for name, parameter in cell.named_parameters() if name not in ("W_o", "b_o")]


@pytest.mark.parametrize("ragged", [False, True], ids=["", "ragged"])
def test_second_derivatives(each: Case, ragged: bool) -> None:
    one = call(each, T=3, B=2, m=2, n=2, ragged=ragged, masked=True)
    inputs = [t.detach().clone().requires_grad_() for t in (one.x, *row(one.state))]

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        state = as_state(rest[: len(row(one.state))])
        features, last = scan(one.cell, one.cell.project(x, one.noise), state, one.noise, one.lengths, "torch")
        return (features, *row(last))

    # The parameters are read through the cell: the check changes them in place.
    assert torch.autograd.gradcheck(run, (*inputs, *reached(one.cell)), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (*inputs, *reached(one.cell)), fast_mode=True)


def test_gradient_penalty_over_two_layers_that_share_a_cell(each: Case) -> None:
    # What a first scan gives depends on the same weights as the second: each must get its own share only.
    cell = each.cell(4, 4)
    if cell.output_size != 4:
        pytest.skip("a layer of it cannot follow on itself")
    x, found = torch.randn(5, 2, 4, dtype=torch.float64), []
    for name in ("torch", "reference"):
        with ungated.backend(name):
            y = x.clone().requires_grad_()
            middle, _ = scan(cell, cell.project(y), cell.initial_state(2))
            output, _ = scan(cell, cell.project(cell.readout(middle)), cell.initial_state(2))
            (gradient,) = torch.autograd.grad(output.sum(), y, create_graph=True)
            found.append(torch.autograd.grad(gradient.square().sum(), list(cell.parameters())))
    assert_close(*found)


def test_backward_twice_over_one_graph(each: Case) -> None:
    one = call(each)
    x = one.x.clone().requires_grad_()
    features, last = scan(one.cell, one.cell.project(x), one.state, backend="torch")
    loss = features.square().sum() + sum(part.sum() for part in row(last))
    first = torch.autograd.grad(loss, [x, *reached(one.cell)], retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, [x, *reached(one.cell)])))


def test_each_argument_alone_may_want_a_gradient(each: Case) -> None:
    one = call(each, masked=True)
    x, state = one.x.clone(), tuple(part.clone() for part in row(one.state))
    tensors = [x, *state, *reached(one.cell)]
    for tensor in tensors:
        tensor.requires_grad_(False)
    for tensor in tensors:
        tensor.requires_grad_()
        found = []
        for name in ("torch", "reference"):
            features, last = scan(one.cell, one.cell.project(x, one.noise), as_state(state), one.noise, backend=name)
            loss = features.square().sum() + sum(part.sin().sum() for part in row(last))
            found.append(list(torch.autograd.grad(loss, tensor)))
        assert_close(*found)
        tensor.requires_grad_(False)


def test_a_change_in_place_before_backward_is_noticed(each: Case) -> None:
    one = call(each)
    features, _ = scan(one.cell, one.cell.project(one.x), one.state, backend="torch")
    with torch.no_grad():
        for parameter in reached(one.cell):
            parameter.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        features.sum().backward()


class Recorder(TorchDispatchMode):
    """The calls of the operators of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "ungated":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ragged", [False, True], ids=["", "ragged"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's own tracers
def test_operators_keep_torch_s_rules(case: Case, ragged: bool) -> None:
    one = call(case, masked=ragged, ragged=ragged)
    with Recorder() as recorder:
        one.results("torch")
    (forward, given), (backward, given_back) = recorder.calls
    noise = {id(mask) for mask in (one.noise if isinstance(one.noise, tuple) else (one.noise,))}

    def fresh(value: Any) -> Any:
        if isinstance(value, list):
            return [fresh(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        wanted = value.is_floating_point() and id(value) not in noise
        return value.detach().clone().requires_grad_(wanted)

    torch.library.opcheck(forward, tuple(map(fresh, given)))
    frozen = [value.detach() if isinstance(value, Tensor) else value for value in map(fresh, given_back)]
    torch.library.opcheck(backward, tuple(frozen), test_utils=("test_schema", "test_faketensor"))


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_whole_and_not_unrolled(each: Case, compiler: None) -> None:
    cell, state, seen = each.cell(), each.cell().initial_state(2), []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.append(len(graph.graph.nodes))
        return graph.forward

    def run(x: Tensor) -> Tensor:
        features, last = scan(cell, cell.project(x), state)
        return features.sin().sum() + sum(part.sum() for part in row(last))

    for time in (20, 40):
        torch.compiler.reset()
        x = torch.randn(time, 2, 3, dtype=torch.float64, requires_grad=True)
        torch.compile(run, fullgraph=True, backend=count)(x)
    assert seen[0] == seen[1]
    assert len(seen) == 2
    torch.compiler.reset()
    found = []
    for function in (torch.compile(run, fullgraph=True, backend="aot_eager"), run):
        found.append(list(torch.autograd.grad(function(x), [x, *reached(cell)])))
    assert_close(*found)


# Which side of a kink a value falls on is luck: the middle one of several draws tells.
HALF_DRAWS = 9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_reference_s_dtypes_and_no_larger_error(case: Case, dtype: torch.dtype) -> None:
    ratios = []
    for _ in range(HALF_DRAWS):
        one = call(case, 12, 8, 16, 24).to(torch.float32)
        with torch.autocast("cpu", dtype=dtype):
            ours, reference = one.results("torch"), one.results("reference")
        assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in reference]
        ratios.append(error(ours, one) / error(reference, one))
    assert sorted(ratios)[HALF_DRAWS // 2] <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision(case: Case, dtype: torch.dtype) -> None:
    ratios = []
    for _ in range(HALF_DRAWS):
        one = call(case, 12, 8, 16, 24).to(dtype)
        ours, reference = one.results("torch"), one.results("reference")
        assert {tensor.dtype for tensor in ours} == {dtype}
        ratios.append(error(ours, one) / error(reference, one))
    assert sorted(ratios)[HALF_DRAWS // 2] <= 2


def error(got: list[Tensor], one: Call) -> float:
    """Sum of the tensors' relative errors."""
    want = one.to(torch.float64).results("reference")
    return sum(float((g.double() - w).norm() / w.norm()) for g, w in zip(got, want, strict=True))


# Which path, and why not a faster one


def reason(cell: Cell, T: int = 6, noise: Noise = None, drive: Tensor | None = None) -> str:
    state = cell.initial_state(2)
    drive = cell.project(torch.randn(T, 2, 3, dtype=cell.weight().dtype)) if drive is None else drive
    choice = choose(cell, drive, state, noise)
    assert choice.path == "reference"
    with pytest.raises(RuntimeError, match="backend 'torch' cannot run this call: "):
        scan(cell, drive, state, noise, backend="torch")
    return choice.passed_over["torch"]


def test_few_steps_run_on_the_reference_unless_forced() -> None:
    cell = Case("rru").cell()
    drive, state = cell.project(torch.randn(1, 2, 3, dtype=torch.float64)), cell.initial_state(2)
    choice = choose(cell, drive, state)
    assert choice.path == "reference"
    assert "few time steps" in choice.passed_over["torch"]
    want = scan(cell, drive, state)
    assert_close([*scan(cell, drive, state, backend="torch")], [*want])


def test_a_step_of_one_s_own() -> None:
    class Halved(GRUCell):
        def step(self, drive: Any, state: Any, noise: Any = None) -> tuple[Tensor, Any]:
            h, _ = super().step(drive, state, noise)
            return h / 2, h / 2

    assert "Halved has a step of its own" in reason(Halved(3, 4))
    patched = GRUCell(3, 4)
    patched.step = lambda drive, state, noise=None: (state, state)  # type: ignore[method-assign]
    assert "a step of its own" in reason(patched)


def test_other_stages_of_one_s_own_are_no_hindrance() -> None:
    class Doubled(RRUCell):
        def project(self, x: Tensor, noise: Noise = None) -> Tensor:
            return 2 * super().project(x, noise)

    cell = Doubled(3, 4).double()
    drive = cell.project(torch.randn(6, 2, 3, dtype=torch.float64))
    assert choose(cell, drive, cell.initial_state(2)).path == "torch"


def test_parametrized_weights_stay_so() -> None:
    cell = Case("lstm").cell()
    torch.nn.utils.parametrizations.weight_norm(cell, "W_h")
    x, found = torch.randn(6, 2, 3, dtype=torch.float64), []
    for name in ("torch", "reference"):
        features, _ = scan(cell, cell.project(x), cell.initial_state(2), backend=name)
        found.append([features, *torch.autograd.grad(features.sum(), list(cell.parameters()))])
    assert_close(*found)


def test_noise_that_wants_a_gradient() -> None:
    cell = Case("lstm").cell()
    assert "noise" in reason(cell, noise=torch.ones(6, 2, 4, dtype=torch.float64, requires_grad=True))


def test_mixed_dtypes() -> None:
    cell = Case("lstm").cell()
    cell.W_h.data = cell.W_h.data.float()
    with pytest.raises(RuntimeError):
        scan(cell, torch.randn(6, 2, 16, dtype=torch.float64), cell.initial_state(2))
    choice = choose(cell, torch.randn(6, 2, 16, dtype=torch.float64), cell.initial_state(2))
    assert "dtypes are mixed" in choice.passed_over["torch"]


def test_an_empty_batch() -> None:
    cell = Case("rru").cell()
    choice = choose(cell, cell.project(torch.randn(6, 0, 3, dtype=torch.float64)), cell.initial_state(0))
    assert "nothing" in choice.passed_over["torch"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # inside torch's own tracers
def test_function_transforms_run_on_the_reference(each: Case) -> None:
    cell, state = each.cell(), each.cell().initial_state(2)
    x, paths = torch.randn(6, 2, 3, dtype=torch.float64), []

    def run(x: Tensor) -> Tensor:
        paths.append(choose(cell, cell.project(x), state))
        return scan(cell, cell.project(x), state)[0]

    want = run(x)
    tangent = torch.func.jvp(run, (x,), (torch.ones_like(x),))[1]
    torch.func.vmap(run)(x[None])
    torch.func.vjp(run, x)[1](want)
    with torch.autograd.forward_ad.dual_level():
        dual = run(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)
    assert [choice.path for choice in paths] == ["torch", *["reference"] * 4]
    assert "torch.func" in paths[1].passed_over["torch"]
    assert "forward-mode" in paths[-1].passed_over["torch"]


# Products


@pytest.mark.parametrize("rows", [8, 16])
def test_large_products_are_packed_and_right(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    W, x, base = torch.randn(600, 2001), torch.randn(rows, 600), torch.randn(rows, 2001)
    exact, out = base.double() + x.double() @ W.double(), torch.empty(rows, 2001)
    for works in (True, False):
        monkeypatch.setattr(products, "_packing_works", lambda works=works: works)
        got = products.product(W, rows, 100)(base, x, out)
        assert float((got - exact).abs().max()) < 1e-3
        got = products.product(W.t(), rows, 100)(None, base, torch.empty(rows, 600))
        assert float((got - base.double() @ W.double().t()).abs().max()) < 2e-3


def test_torch_without_its_private_packed_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise AttributeError("no such operator")

    products._packing_works.cache_clear()
    monkeypatch.setattr(products, "_packed", missing)
    assert not products._packing_works()
    monkeypatch.undo()
    products._packing_works.cache_clear()

"""Every path of every cell against the reference in float64: no worse than a few times the reference's own error.

Outputs, last state, and the gradient of every input, parameter and initial state, with gradients flowing into all
outputs and the last state. Shapes are drawn by Hypothesis; UNGATED_EQUALITY=full draws them from the whole ranges,
larger ones and fresh ones each time, UNGATED_DRAWS many a cell.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from torch import Tensor

from ungated.cells import CELLS
from ungated.cells.cell import Cell, Noise, State, map_state
from ungated.scan import LAYERS, PATHS, choose
from ungated.scan.cpu import library
from ungated.scan.reference import reference_scan

from .equality_cases import FULL, Case, cases

draws = hypothesis.settings(
    deadline=None,
    derandomize=not FULL,
    max_examples=int(os.environ.get("UNGATED_DRAWS") or (200 if FULL else 25)),
    suppress_health_check=list(hypothesis.HealthCheck),
    database=None,
)

#: What is compared: the paths along time, and those from a layer's input to its output.
WAYS = (*PATHS, *(f"{path} layer" for path in LAYERS))

#: How often a case is tried again with other numbers before the medians are judged: small tensors, kinks and the
#: rounding of bfloat16 are a matter of luck.
DRAWS = 9
# A tensor of so few numbers may be all cancellation, to which the order of a sum matters.
FEW = 8
# Units of which one may have its sign turned by rounding, at which ReLU's gradient jumps, from about this many on.
KINKS = 100_000


@dataclass
class Problem:
    """The numbers of a case."""

    cell: Cell
    x: Tensor
    state: State
    noise: Noise
    lengths: Tensor | None
    weights: list[Tensor] = field(default_factory=list)  # of the outputs and last states in the loss

    def to(self, dtype: torch.dtype) -> Problem:
        import copy

        def convert(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return type(value)(map(convert, value))
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        given = (convert(value) for value in (self.x, self.state, self.noise, self.lengths, self.weights))
        return Problem(copy.deepcopy(self.cell).to(dtype), *given)


def row(state: State) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else state


def problem(case: Case, seed: int) -> Problem:
    generator = torch.manual_seed(seed)
    options = dict(case.options)
    if case.name == "rhn":
        options["init_scale"] = min(0.3, case.n**-0.5)
    cell = CELLS[case.name](case.m, case.n, **options)
    with torch.no_grad():
        for parameter in cell.parameters():
            if parameter.dim() == 1:  # biases start at 0, the RRU's Z too
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    x = torch.randn(case.T, case.B, case.m, generator=generator)
    state = map_state(lambda zeros: torch.randn(zeros.shape, generator=generator), cell.initial_state(case.B))
    noise: Noise = None
    if case.masks:
        for rate in [name for name in vars(cell) if name.endswith("dropout")]:
            setattr(cell, rate, case.masks)
        noise = cell.noise(case.T, case.B)
    lengths = torch.randint(1, case.T + 1, (case.B,), generator=generator) if case.ragged else None
    shapes = [(case.T, case.B, cell.output_size), *(part.shape for part in row(state))]
    return Problem(cell, x, state, noise, lengths, [torch.randn(shape, generator=generator) for shape in shapes])


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same numbers, elsewhere in memory."""
    if layout == "transposed":
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    return torch.stack([tensor, tensor], -1)[..., 0] if layout == "sliced" else tensor


def values(run: Callable[..., Any], one: Problem, layout: str, autocast: bool) -> dict[str, Tensor]:
    """Output and last state."""
    x, *parts = (laid_out(tensor, layout) for tensor in (one.x, *row(one.state)))
    state = parts[0] if isinstance(one.state, Tensor) else tuple(parts)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        if any(run in written.values() for written in LAYERS.values()):
            output, last = run(one.cell, x, state, one.noise, one.lengths)
        else:
            drive = laid_out(one.cell.project(x, one.noise), layout)
            features, last = run(one.cell, drive, state, one.noise, one.lengths)
            output = one.cell.readout(features)
        outputs = [output, *row(last)]
    return {("output" if i == 0 else f"last state {i - 1}"): tensor for i, tensor in enumerate(outputs)}


def everything(
    run: Callable[..., Any], one: Problem, layout: str = "plain", autocast: bool = False
) -> dict[str, Tensor]:
    """Output, last state and all gradients, in float64."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (one.x, *row(one.state))]
    x, *parts = inputs
    state = parts[0] if isinstance(one.state, Tensor) else tuple(parts)
    found = values(run, replace(one, x=x, state=state), layout, autocast)
    pairs = zip(found.values(), one.weights, strict=True)
    loss = sum((output.to(weight.dtype) * weight).sum() for output, weight in pairs)
    named = dict(one.cell.named_parameters())
    names = ["x", *(f"state {i}" for i in range(len(parts))), *named]
    gradients = torch.autograd.grad(loss, [*inputs, *named.values()], allow_unused=True)
    found |= {f"gradient of {n}": g for n, g in zip(names, gradients, strict=True) if g is not None}
    return {name: tensor.detach().double() for name, tensor in found.items()}


@dataclass
class Errors:
    """Of each tensor in each draw: the path's error and the reference's own, both relative to the exact values."""

    found: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    few: dict[str, bool] = field(default_factory=dict)

    def add(self, ours: dict[str, Tensor], single: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
        assert ours.keys() == single.keys() == exact.keys()
        for key, value in exact.items():
            size = max(float(value.norm()), 1e-30)  # zeros, where a mask drops everything
            pair = (float((found[key] - value).norm()) / size for found in (ours, single))
            self.found.setdefault(key, []).append(tuple(pair))  # type: ignore[arg-type]
            self.few[key] = value.numel() < FEW

    def too_large(self, limit: float, epsilon: float, slack: Callable[[str], float]) -> dict[str, str]:
        """The tensors whose median error is larger than `limit` times the reference's own, beyond rounding once."""
        return {
            key: f"error {error:.2e}, the reference's own {own:.2e}"
            for key, (error, own) in self.medians().items()
            if not error <= limit * own + epsilon * (16 if self.few[key] else 1) + slack(key)  # nor NaN
        }

    def too_large_together(self, limit: float, epsilon: float) -> dict[str, str]:
        """The same of all tensors' errors in sum, in which luck evens out."""
        ours, theirs = (sum(errors) for errors in zip(*self.medians().values(), strict=True))
        return (
            {} if ours <= limit * theirs + epsilon else {"all": f"error {ours:.2e}, the reference's own {theirs:.2e}"}
        )

    def medians(self) -> dict[str, tuple[float, float]]:
        return {key: tuple(torch.tensor(pairs).median(0).values.tolist()) for key, pairs in self.found.items()}  # type: ignore[misc]


def slack_of(case: Case) -> Callable[[str], float]:
    """Where a kink has so many arguments that rounding moves one over it, gradients may differ by a unit's share."""
    units = case.T * case.B * (case.m + case.n) * case.options.get("expansion", 2.0)
    many = case.name in ("rru", "mogrifier") and units > KINKS
    return lambda key: 1e-3 if many and "gradient" in key else 0.0


def run_of(case: Case, way: str) -> Callable[..., Any] | None:
    path, _, layer = way.partition(" ")
    return (LAYERS if layer else PATHS)[path].get(CELLS[case.name])


def device_of(case: Case, way: str) -> torch.device | str:
    """Where it runs the case; else the reason why not, in words."""
    if run_of(case, way) is None:
        return f"{way} is not written for {case.name}"
    path, reason = way.partition(" ")[0], ""
    for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        try:
            choose_on(case, path, torch.device(kind))
        except RuntimeError as error:
            reason = str(error)
        else:
            return torch.device(kind)
    return reason


def choose_on(case: Case, path: str, device: torch.device) -> Any:
    dtype = torch.bfloat16 if case.dtype == "bfloat16" else torch.float32
    one = problem(replace(case, T=min(case.T, 4), B=1, m=1, n=1), 0).to(dtype)
    cell, noise = one.cell.to(device), on_device(one.noise, device)
    state = map_state(lambda part: part.to(device), one.state)
    with torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == "autocast"):
        return choose(cell, cell.project(one.x.to(device), noise), state, noise, backend=path)


def on_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(on_device(part, device) for part in value)
    return value.to(device) if isinstance(value, (Tensor, torch.nn.Module)) else value


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """What is never written is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def check(case: Case, way: str) -> None:
    """That it is as right as the reference on this case. A second look at several draws if one is unlucky."""
    device, run = device_of(case, way), run_of(case, way)
    if isinstance(device, str) or run is None:
        return
    half, autocast = case.dtype == "bfloat16", case.dtype == "autocast"
    errors = Errors()
    wrong: dict[str, str] = {}
    for seed in range(DRAWS):
        one = problem(case, seed).to(torch.bfloat16 if half else torch.float32)
        one = Problem(*(on_device(value, device) for value in vars(one).values()))
        ours = everything(run, one, case.layout, autocast)
        if seed == 0:
            again = everything(run, one, case.layout, autocast)
            assert all(torch.equal(ours[key], again[key]) for key in ours), "the same call gives other numbers"
        single = everything(reference_scan, one, autocast=autocast)
        exact = everything(reference_scan, one.to(torch.float64))
        with torch.no_grad():
            bare = values(run, one, case.layout, autocast)
        for key, value in bare.items():
            unrecorded = f"{key} without gradients"
            ours[unrecorded], single[unrecorded], exact[unrecorded] = value.double(), single[key], exact[key]
        errors.add(ours, single, exact)
        if seed in (0, DRAWS - 1):
            if half or autocast:
                wrong = errors.too_large_together(2.0, torch.finfo(torch.bfloat16).eps)
            else:
                wrong = errors.too_large(4.0, torch.finfo().eps, slack_of(case))
            if not wrong:
                return
    raise AssertionError(f"{case}, {way} beside the reference: {wrong}")


def example_test(name: str) -> Callable[..., None]:
    """The test of one cell, as Hypothesis wants it: a function of a way and a case."""

    @draws
    @given(case=cases(name))
    def test(way: str, case: Case) -> None:
        before = library.thread_count
        library.thread_count = lambda: case.threads
        try:
            check(case, way)
        finally:
            library.thread_count = before

    return test


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CELLS)
def test_as_right_as_the_reference(name: str, way: str) -> None:
    where = device_of(Case(name, 4, 1, 1, 1), way)
    if isinstance(where, str):
        pytest.skip(where)
    example_test(name)(way)


# Widths and rows at and beside whole registers of the CPU's vector units.
REGISTERS = [
    Case("rru", 9, 7, 3, 5, masks=0.4),
    Case("rru", 6, 17, 2, 33, {"relu_layers": 2}, masks=0.4, ragged=True, threads=2),
    Case("rru", 5, 70, 5, 50, {"relu_layers": 3, "expansion": 1.3}, masks=0.4, threads=3),
    Case("rru", 5, 33, 8, 40, {"normalize": False}, masks=0.4, ragged=True),
    Case("rru", 9, 7, 3, 5, {"output_size": 3}, masks=0.8),
    Case("rru", 5, 16, 8, 70, {"expansion": 7.3, "output_size": 9}, masks=0.8, ragged=True, threads=2),
    Case("rru", 4, 70, 8, 33, {"normalize": False, "output_size": 20}, masks=0.8, threads=3),
    Case("rru", 12, 3, 8, 129, {"rezero": "scalar", "residual": "one"}, ragged=True, threads=2),
    Case("rru", 4, 16, 4, 300, {"expansion": 7.3}, threads=3),
    # More threads than there is work for.
    Case("rru", 6, 20, 3, 50, {"expansion": 1.0, "output_size": 90}, threads=20),
    Case("rru", 5, 7, 2, 15, {"relu_layers": 2}, masks=0.4, ragged=True, threads=20),
    Case("rru", 5, 3, 60, 9, {"expansion": 0.6}, masks=0.4, threads=20),
    Case("lstm", 5, 3, 40, 7, threads=20),
    Case("rhn", 5, 3, 4, 17, {"depth": 2}, threads=20),
    Case("gru", 5, 3, 40, 7, threads=20),
    Case("mogrifier", 5, 3, 40, 7, {"rounds": 3, "rank": 3}, threads=20),
    Case("lstm", 7, 5, 3, 16, {"forget_bias": 0.5}, masks=0.4),
    Case("lstm", 9, 15, 4, 37, masks=0.4, ragged=True, threads=2),
    Case("lstm", 6, 70, 4, 150, ragged=True, threads=3),
    Case("rhn", 5, 15, 4, 37, {"depth": 3}, masks=0.4, ragged=True, threads=2),
    Case("rhn", 4, 70, 4, 130, {"depth": 2}, ragged=True, threads=3),
    Case("mogrifier", 3, 20, 3, 6, {"rounds": 0, "rank": 40}, masks=0.4),
    Case("mogrifier", 7, 15, 5, 37, {"rounds": 5, "rank": 3}, masks=0.4, ragged=True, threads=2),
    Case("mogrifier", 4, 70, 40, 130, {"rounds": 2, "rank": 40}, ragged=True, threads=3),
    Case("mogrifier", 5, 9, 19, 16, {"rounds": 1, "rank": 33}),
    Case("gru", 9, 15, 4, 37, masks=0.4, ragged=True, threads=2),
    Case("gru", 6, 70, 4, 150, ragged=True, threads=3),
    Case("gru", 7, 5, 3, 16, {"reset": "after"}, masks=0.4),
    Case("gru", 9, 35, 4, 99, {"reset": "after"}, masks=0.4, ragged=True, threads=2),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", REGISTERS, ids=lambda case: f"{case.name}-{case.B}-{case.n}")
def test_beside_whole_registers(case: Case, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(where := device_of(case, way), str):
        pytest.skip(where)
    monkeypatch.setattr(library, "thread_count", lambda: case.threads)
    check(case, way)


ONE_OF_EACH = [
    Case("rru", 6, 4, 5, 33, {"relu_layers": 2}),
    Case("rhn", 5, 4, 5, 19, {"depth": 3}),
    Case("gru", 6, 4, 5, 33),
    Case("lstm", 6, 4, 5, 33),
    Case("mogrifier", 6, 4, 5, 33, {"rounds": 3, "rank": 7}),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
def test_rows_do_not_depend_on_each_other(case: Case, way: str) -> None:
    device, run = device_of(case, way), run_of(case, way)
    if isinstance(device, str) or run is None:
        pytest.skip(str(device))
    one = problem(replace(case, masks=0.8), 0)
    one = Problem(*(on_device(value, device) for value in vars(one).values()))
    whole = everything(run, one)
    for spoiled in (one.x, *row(one.state), *one.weights):
        spoiled[..., 1, :] = float("nan")
    alone = everything(run, one)
    for key in ("output", "gradient of x", *(k for k in whole if "state" in k)):
        assert alone[key][..., 1, :].isnan().any()
        assert torch.equal(alone[key][..., [0, 2, 3], :], whole[key][..., [0, 2, 3], :]), key


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
def test_the_check_can_fail(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    run = PATHS["torch"][CELLS[case.name]]

    def wrong(cell: Cell, drive: Tensor, state: State, noise: Noise, lengths: Tensor | None) -> Any:
        features, last = run(cell, drive, state, noise, lengths)
        return features + 1e-5 * (features - features.detach()), last

    monkeypatch.setitem(PATHS["torch"], CELLS[case.name], wrong)
    with pytest.raises(AssertionError, match="beside the reference"):
        check(case, "torch")

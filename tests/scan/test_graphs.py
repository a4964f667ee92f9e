"""Graphs of chunks of time, with a recorder that stands in for CUDA graphs: the same calls on the same memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import ungated.scan
from ungated.cells import LSTMCell
from ungated.scan import choose, graphs, gru_torch, lstm_torch, mogrifier_torch, rhn_torch, rru_torch, scan
from ungated.scan.graphs import graphed, recorder

from .recorded import Tape
from .test_torch_paths import CASES, ONE_OF_EACH, Call, Case, Recorder, as_state, assert_close, call, row

# Chunks of 4, 2 and 1 steps.
T = 11


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=str)
    if "each" in metafunc.fixturenames:
        metafunc.parametrize("each", ONE_OF_EACH, ids=str)


def ended_rows_as_on_a_gpu(lengths: Tensor | None, steps: int) -> tuple[int, Tensor | None]:
    """Without a look at their values."""
    return (steps, None) if lengths is None else (0, (lengths <= torch.arange(steps)[:, None]).unsqueeze(-1))


@pytest.fixture(autouse=True)
def tape(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tape]:
    torch.manual_seed(0)
    tape = Tape()
    monkeypatch.setattr(recorder, "recorder_of", lambda device: tape)
    monkeypatch.setitem(ungated.scan._CONDITIONS, "graph", lambda *_: "")
    for name, value in {"_FEWEST": 2, "_MOST": 4, "_said": set()}.items():
        monkeypatch.setattr(graphed, name, value)
    for module in (gru_torch, lstm_torch, mogrifier_torch, rhn_torch, rru_torch):
        monkeypatch.setattr(module, "ended_rows", ended_rows_as_on_a_gpu)
    graphed._kept.clear()
    yield tape
    graphed._kept.clear()


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """What is never written is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("ragged", [False, True], ids=["", "ragged"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_outputs_state_and_every_gradient(case: Case, masked: bool, ragged: bool, tape: Tape) -> None:
    for steps in (T, 5):  # recorded first, then replayed only
        one = call(case, steps, masked=masked, ragged=ragged)
        before = tape.recorded
        assert_close(one.results("graph"), one.results("reference"))
    assert before == tape.recorded == 6
    with torch.no_grad():
        assert_close(one.values("graph"), one.values("reference"))
    assert tape.recorded == 8


def test_first_needed_in_inference_mode(each: Case) -> None:
    one = call(each, T)
    with torch.inference_mode():
        assert_close(one.values("graph"), one.values("reference"))
    with torch.no_grad():
        assert_close(one.values("graph"), one.values("reference"))


@pytest.mark.parametrize("part", [0, 1, -1])
def test_loss_on_some_results_only(each: Case, part: int) -> None:
    one, found = call(each, T, ragged=True), []
    for name in ("graph", "reference"):
        x, state = one.x.clone().requires_grad_(), tuple(s.clone().requires_grad_() for s in row(one.state))
        features, last = scan(one.cell, one.cell.project(x), as_state(state), None, one.lengths, name)
        loss = ([features, *row(last)][part] * one.weights[part]).sum()
        inputs = [x, *state, *one.cell.parameters()]
        found.append(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))
    assert_close(*(list(gradients) for gradients in found))


def test_weights_replaced_changed_in_place_and_of_another_layer(each: Case, tape: Tape) -> None:
    one = call(each, T)
    one.results("graph")
    recorded = tape.recorded
    other = Call(each.cell(), *(getattr(one, name) for name in ("x", "state", "noise", "lengths", "weights")))
    assert_close(other.results("graph"), other.results("reference"))
    with torch.no_grad():
        for parameter in one.cell.parameters():
            parameter.mul_(1.5)
    assert_close(one.results("graph"), one.results("reference"))
    one.cell.load_state_dict(copy.deepcopy(other.cell.state_dict()), assign=True)
    assert_close(one.results("graph"), other.results("reference"))
    assert tape.recorded == recorded


def test_two_layers_forward_before_either_goes_back(each: Case) -> None:
    ones = [call(each, T), call(each, T)]
    found: dict[str, list[Tensor]] = {}
    for name in ("graph", "reference"):
        features = [scan(one.cell, one.cell.project(one.x), one.state, backend=name)[0] for one in ones]
        gradients = [
            torch.autograd.grad(f.square().sum(), list(row_of(one))) for f, one in zip(features, ones, strict=True)
        ]
        found[name] = [*features, *(g for gradient in gradients for g in gradient)]
    assert_close(found["graph"], found["reference"])


def row_of(one: Call) -> list[Tensor]:
    """The parameters that a loss on features reaches."""
    drop = "W_o", "b_o"
    return [parameter for name, parameter in one.cell.named_parameters() if name not in drop]


def test_training(each: Case) -> None:
    one, found = call(each, T), []
    for name in ("graph", "reference"):
        cell = copy.deepcopy(one.cell)
        optimiser = torch.optim.SGD(cell.parameters(), 0.01)
        for _ in range(10):
            optimiser.zero_grad()
            scan(cell, cell.project(one.x), one.state, backend=name)[0].square().mean().backward()
            optimiser.step()
        found.append([parameter.detach() for parameter in cell.parameters()])
    assert_close(*found)
    assert any(not torch.equal(p, q) for p, q in zip(found[0], one.cell.parameters(), strict=True))


def test_every_other_kind_of_call_has_graphs_of_its_own(tape: Tape) -> None:
    case = Case("gru")
    for B, dtype, masked in [(3, torch.float64, False), (2, torch.float64, False), (3, torch.float32, False)]:
        one = call(case, T, B, masked=masked).to(dtype)
        before = tape.recorded
        assert_close(one.results("graph"), one.results("reference"), 1e-10 if dtype == torch.float64 else 1e-4)
        assert tape.recorded == before + 6
    precision = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        before = tape.recorded
        one.results("graph")
        assert tape.recorded == before + 6
    finally:
        torch.backends.cuda.matmul.fp32_precision = precision


def test_one_mask_for_all_steps(tape: Tape) -> None:
    one = call(Case("lstm"), T, masked=True)
    one.noise = one.noise[:1]
    assert_close(one.results("graph"), one.results("reference"))
    one.noise = one.noise.flip(1)
    assert_close(one.results("graph"), one.results("reference"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_as_in_torch(each: Case, dtype: torch.dtype) -> None:
    one = call(each, T, 4, 8, 16).to(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        assert_close(one.results("graph"), one.results("torch"), 1e-2)
    one = one.to(dtype)
    results = one.results("graph")
    assert {result.dtype for result in results} == {dtype}
    assert_close([r.double() for r in results], [r.double() for r in one.results("torch")], 3e-2)


def test_second_derivatives(each: Case) -> None:
    one, found = call(each, 5), []
    for name in ("graph", "reference"):
        x = one.x.clone().requires_grad_()
        features, _ = scan(one.cell, one.cell.project(x), one.state, backend=name)
        (gradient,) = torch.autograd.grad(features.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), row_of(one)))
    assert_close(*(list(gradients) for gradients in found))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's own tracers
def test_operators_keep_torch_s_rules(each: Case) -> None:
    one = call(each, T, masked=True)
    with Recorder() as calls:
        one.results("graph")
    for operator, given in calls.calls:
        plain = [
            [x.detach() for x in a] if isinstance(a, list) and a and isinstance(a[0], Tensor) else a for a in given
        ]
        fixed = tuple(a.detach() if isinstance(a, Tensor) else a for a in plain)
        torch.library.opcheck(operator, fixed, test_utils=("test_schema", "test_faketensor"))
    assert len(calls.calls) == 2


def test_inside_somebody_else_s_recording_the_loop_in_torch_runs(each: Case, tape: Tape) -> None:
    one = call(each, T, ragged=True)
    x = one.x.clone().requires_grad_()
    for forward_inside, backward_inside in [(True, True), (True, False), (False, True)]:
        found = []
        for name in ("graph", "reference"):
            tape.recording = forward_inside
            features, last = scan(one.cell, one.cell.project(x), one.state, None, one.lengths, name)
            tape.recording = backward_inside
            loss = features.square().sum() + sum(part.sin().sum() for part in row(last))
            found.append([features, *row(last), *torch.autograd.grad(loss, [x, *row_of(one)])])
        assert_close(*found)


def test_what_cannot_be_recorded_runs_in_torch_and_one_line_says_so(
    each: Case, tape: Tape, caplog: pytest.LogCaptureFixture
) -> None:
    one, tape.fails = call(each, T), True
    for _ in range(2):
        assert_close(one.results("graph"), one.results("reference"))
    tape.fails = False
    assert_close(one.results("graph"), one.results("reference"))  # not tried again
    assert (tape.recorded, tape.replayed) == (0, 0)
    message = "a CUDA graph could not be recorded, a slower loop runs instead: no luck"
    assert [record.getMessage() for record in caplog.records] == [message]


def test_failing_on_the_way_back_only(each: Case, tape: Tape, caplog: pytest.LogCaptureFixture) -> None:
    one = call(each, T)
    x, found = one.x.clone().requires_grad_(), []
    for name in ("graph", "reference"):
        tape.fails = False
        features, _ = scan(one.cell, one.cell.project(x), one.state, backend=name)
        tape.fails = True
        found.append([features, *torch.autograd.grad(features.square().sum(), [x, *row_of(one)])])
    assert_close(*found)
    assert len(caplog.records) == 1


def test_the_oldest_graphs_go(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "_KINDS", 2)
    ones = [call(Case("gru"), 4, B) for B in (1, 2, 3)]
    for one in ones:
        one.results("graph")
    assert (len(graphed._kept), tape.waited, tape.recorded) == (2, 1, 6)
    ones[2].results("graph")
    assert tape.recorded == 6
    assert_close(ones[0].results("graph"), ones[0].results("reference"))
    assert (len(graphed._kept), tape.waited, tape.recorded) == (2, 2, 8)
    monkeypatch.setattr(graphed, "_BYTES", 0)
    assert_close(ones[1].results("graph"), ones[1].results("reference"))
    assert len(graphed._kept) == 1


def test_threads_take_turns(tape: Tape) -> None:
    ones = [call(Case("lstm"), T) for _ in range(4)]
    want, found = [one.results("reference") for one in ones], {}

    def run(k: int) -> None:
        found[k] = [ones[k].results("graph") for _ in range(5)]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        for results in found[k]:
            assert_close(results, want[k])
    assert tape.recorded == 6


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 64, 1000])
def test_chunks_cover_all_steps_with_few_sizes(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = graphed._chunks(torch.empty(steps, 16, 3117, device="meta"))
    assert [start for start, _ in found] == [sum(s for _, s in found[:k]) for k in range(len(found))]
    assert sum(s for _, s in found) == steps
    assert {s for _, s in found} <= {1, 2, 4, 8, 16, 32}


def test_the_tape_notices_a_look_at_values(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert recorder.recorder_of(torch.device("cpu")) is None
    with tape.in_turn(), pytest.raises(RuntimeError, match="a value was asked for"):
        tape.record(lambda: print(torch.ones(1).item()))


def test_only_on_cuda_and_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = LSTMCell(2, 3)
    drive, state = cell.project(torch.zeros(5, 1, 2)), cell.initial_state(1)
    choice = choose(cell, drive, state, backend="auto")
    assert choice.path != "graph"
    assert choice.passed_over["graph"] == ungated.scan.UNPROVEN["graph"]
    assert choose(cell, drive, state, backend="graph").path == "graph"
    monkeypatch.undo()
    assert choose(cell, drive, state, backend="auto").passed_over["graph"] == "it runs on CUDA devices only"
    on_cuda: Any = SimpleNamespace(device=torch.device("cuda", 0))
    assert graphs.why_not_graph(cell, LSTMCell, on_cuda, None) == ""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "compiled program" in graphs.why_not_graph(cell, LSTMCell, on_cuda, None)

"""The RRU's Triton kernels by Triton's interpreter, against the loop in torch.

Triton is interpreted or compiled as a whole, by what TRITON_INTERPRET says when it is imported: so test_triton.py runs
these tests in a process of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ungated.scan
from ungated.cells import RRUCell
from ungated.scan import rru_torch
from ungated.scan.graphs import graphed, recorder
from ungated.scan.triton import rru

from .recorded import Tape
from .test_graphs import ended_rows_as_on_a_gpu
from .test_torch_paths import Case, assert_close, call

# input, hidden, options, T, B: tiles of 16 to 64 with something left over, and less than one.
SHAPES: list[tuple[int, int, dict[str, Any], int, int]] = [
    (3, 1, {}, 1, 1),
    (3, 20, {}, 4, 5),
    (2, 17, {"relu_layers": 2}, 3, 17),
    (3, 19, {"relu_layers": 3, "normalize": False}, 4, 3),
    (3, 33, {"expansion": 2.5, "rezero": "scalar", "residual": "one"}, 3, 34),
    (2, 70, {"expansion": 1.0}, 3, 65),
]


def arguments(
    shape: tuple[int, int, dict[str, Any], int, int], masked: bool = False, ragged: bool = False, **changes: Any
) -> Any:
    m, n, options, T, B = shape
    torch.manual_seed(0)
    cell = RRUCell(m, n, **options)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        drive, h0 = cell.project(torch.randn(T, B, m)), torch.randn(B, n)
        noise = (torch.rand(T, B, cell.middle_size) > 0.4).float() / 0.6 if masked else None
        lengths = torch.arange(B) * 7 % T + 1 if ragged else None
        return rru_torch.arguments_of(cell, drive, h0, noise, lengths)._replace(**{"save": True, **changes})


def everything(forward: Callable[..., Any], backward: Callable[..., Any], a: Any, given: list[bool]) -> list[Tensor]:
    """What is made, where memory was NaN before, and all gradients."""
    with torch.no_grad():
        made = rru_torch._Made(*(tensor.fill_(float("nan")) for tensor in rru_torch._allocate(a)))
        forward(made, a)
        if not a.save:
            return [made.d, made.last]
        torch.manual_seed(1)
        gradients = [torch.randn_like(t) if is_given else None for t, is_given in zip(made[:2], given, strict=True)]
        results = [*made, *(gradient() for gradient in backward(gradients, made, a) if gradient is not None)]
        return [result for result in results if result.numel()]


OURS, IN_TORCH = (rru.forward, rru.backward), (rru_torch._forward, rru_torch._backward)


@pytest.mark.parametrize(("masked", "ragged"), [(False, False), (True, True)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equal_to_the_loop_in_torch(shape: Any, masked: bool, ragged: bool) -> None:
    a = arguments(shape, masked, ragged)
    assert_close(everything(*OURS, a, [True, True]), everything(*IN_TORCH, a, [True, True]), 1e-5)


def test_without_a_backward_pass_and_with_some_gradients_only() -> None:
    for shape in SHAPES[1:4]:
        for changes, given in (({"save": False}, []), ({}, [True, False]), ({}, [False, True])):
            a = arguments(shape, True, True, **changes)
            assert_close(everything(*OURS, a, given), everything(*IN_TORCH, a, given), 1e-5)


def test_one_mask_for_all_steps_and_strided_arguments() -> None:
    a = arguments(SHAPES[1], masked=True)
    strided = {"noise": a.noise[:1], "drive": a.drive.mT.contiguous().mT, "W_h": a.W_h.t().contiguous().t()}
    a = a._replace(**strided)
    assert_close(everything(*OURS, a, [True, True]), everything(*IN_TORCH, a, [True, True]), 1e-5)


def test_whole_inside_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the path's name to the weights' gradients; kernels cannot be replayed here, so each graph runs them anew."""
    tape = Tape()
    monkeypatch.setattr(tape, "record", lambda work: work)
    monkeypatch.setattr(recorder, "recorder_of", lambda device: tape)
    monkeypatch.setattr(rru, "ended_rows", ended_rows_as_on_a_gpu)
    monkeypatch.setattr(graphed, "_MOST", 2)
    monkeypatch.setattr(graphed, "_FEWEST", 2)
    monkeypatch.setitem(ungated.scan._CONDITIONS, "triton", lambda *_: "")
    graphed._kept.clear()
    one = call(Case("rru", {"relu_layers": 2}), 5, masked=True, ragged=True).to(torch.float32)
    assert_close(one.results("triton"), one.results("reference"), 1e-4)
    assert len(graphed._kept) == 1
    graphed._kept.clear()

"""Wrong use ends in one sentence that names the argument, what it is and what it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ungated.cells.cell import State, map_state
from ungated.rnn import RNN

from .entries import Entry, random_state

# I = 3, n = 4, two layers of one direction, B = 2, T = 5.
DOUBLE = torch.float64


def x_of(*shape: int, dtype: torch.dtype = DOUBLE, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def wrong_state(change: Callable[[Tensor], Tensor]) -> Callable[[RNN], Any]:
    return lambda layer: layer(x_of(5, 2, 3), map_state(change, layer.initial_state(2)))


@dataclass(frozen=True)
class Misuse:
    call: Callable[[RNN], Any]
    error: type[Exception]
    message: str


CALLS: dict[str, Misuse] = {
    "x of rank 1": Misuse(lambda rnn: rnn(x_of(3)), ValueError, r"x should be .*time.*got shape \(3,\)"),
    "x of rank 4": Misuse(lambda rnn: rnn(x_of(1, 5, 2, 3)), ValueError, r"x should be .*got shape \(1, 5, 2, 3\)"),
    "x a scalar": Misuse(lambda rnn: rnn(x_of()), ValueError, r"x should be .*got shape \(\)"),
    "x with 4 features": Misuse(lambda rnn: rnn(x_of(5, 2, 4)), ValueError, r"x should have 3 features.*got 4"),
    "x unbatched, 2 features": Misuse(lambda rnn: rnn(x_of(5, 2)), ValueError, r"x should have 3 features.*got 2"),
    "x without features": Misuse(lambda rnn: rnn(x_of(5, 2, 0)), ValueError, r"x should have 3 features.*got 0"),
    "x without time": Misuse(lambda rnn: rnn(x_of(0, 2, 3)), ValueError, r"x .*at least one time step.*\(0, 2, 3\)"),
    "x float32": Misuse(lambda rnn: rnn(x_of(5, 2, 3, dtype=torch.float32)), TypeError, r"x .*float64.*got .*float32"),
    "x int64": Misuse(lambda rnn: rnn(x_of(5, 2, 3, dtype=torch.int64)), TypeError, r"x .*float64.*got .*int64"),
    "x complex": Misuse(lambda rnn: rnn(x_of(5, 2, 3).to(torch.complex64)), TypeError, r"x .*float64.*got .*complex64"),
    "x on meta": Misuse(lambda rnn: rnn(x_of(5, 2, 3, device="meta")), ValueError, r"x is on meta .*layer is on cpu"),
    "x a list": Misuse(lambda rnn: rnn([[0.0] * 3] * 5), TypeError, r"x should be a tensor.*got list"),
    "x an array": Misuse(lambda rnn: rnn(np.zeros((5, 2, 3))), TypeError, r"x should be a tensor.*got ndarray"),
    "x None": Misuse(lambda rnn: rnn(None), TypeError, r"x should be a tensor.*got NoneType"),
    "state of 1 layer": Misuse(wrong_state(lambda s: s[:1]), ValueError, r"state .*\(2, 2, 4\).*got \(1, 2, 4\)"),
    "state of 3 rows": Misuse(
        lambda rnn: rnn(x_of(5, 2, 3), rnn.initial_state(3)), ValueError, r"state .*\(2, 2, 4\).*got \(2, 3, 4\)"
    ),
    "state of 5 units": Misuse(
        wrong_state(lambda s: s.new_zeros(2, 2, 5)), ValueError, r"state .*\(2, 2, 4\).*got \(2, 2, 5\)"
    ),
    "state that would broadcast": Misuse(
        wrong_state(lambda s: s[:, :1]), ValueError, r"state .*\(2, 2, 4\).*got \(2, 1, 4\)"
    ),
    "state of rank 2": Misuse(wrong_state(lambda s: s[0]), ValueError, r"state .*\(2, 2, 4\).*got \(2, 4\)"),
    "state float32": Misuse(wrong_state(lambda s: s.float()), TypeError, r"state .*float64.*got .*float32"),
    "state int64": Misuse(wrong_state(lambda s: s.long()), TypeError, r"state .*float64.*got .*int64"),
    "state on meta": Misuse(wrong_state(lambda s: s.to("meta")), ValueError, r"state is on meta .*layer is on cpu"),
    "state a number": Misuse(lambda rnn: rnn(x_of(5, 2, 3), 0.0), TypeError, r"state should be a t.*got float"),
    "state a dict": Misuse(lambda rnn: rnn(x_of(5, 2, 3), {}), TypeError, r"state should be a t.*got dict"),
    "state of three tensors": Misuse(
        lambda rnn: rnn(x_of(5, 2, 3), (x_of(2, 2, 4),) * 3), (TypeError, ValueError), r"state should .*got (3|tuple)"
    ),
    "state of no tensors": Misuse(
        lambda rnn: rnn(x_of(5, 2, 3), ()), (TypeError, ValueError), r"state should .*got (0|tuple)"
    ),
    "state of numbers": Misuse(
        lambda rnn: rnn(x_of(5, 2, 3), (0.0, 0.0)),
        TypeError,
        r"state should (be a tensor|hold tensors), got (tuple|float)",
    ),
    "unbatched x, batched state": Misuse(
        lambda rnn: rnn(x_of(5, 3), rnn.initial_state(1)), ValueError, r"state .*\(2, 4\).*unbatched.*got \(2, 1, 4\)"
    ),
    "unbatched x, state a number": Misuse(lambda rnn: rnn(x_of(5, 3), 0.0), TypeError, r"state should be a t.*float"),
    "unbatched x, state of rank 1": Misuse(
        lambda rnn: rnn(x_of(5, 3), map_state(lambda s: s[0, 0], rnn.initial_state(1))),
        ValueError,
        r"state .*\(2, 4\).*got \(4,\)",
    ),
    "batched x, unbatched state": Misuse(
        wrong_state(lambda s: s[:, 0]), ValueError, r"state .*\(2, 2, 4\).*got \(2, 4\)"
    ),
    "step with a time dimension": Misuse(lambda rnn: rnn.step(x_of(5, 2, 3)), ValueError, r"x .*batch, 3.*\(5, 2, 3\)"),
    "step on one row": Misuse(lambda rnn: rnn.step(x_of(3)), ValueError, r"x should be \(batch, 3\).*got shape \(3,\)"),
    "step with 4 features": Misuse(lambda rnn: rnn.step(x_of(2, 4)), ValueError, r"x .* 3 .*got .*4"),
    "step with state of 3 rows": Misuse(
        lambda rnn: rnn.step(x_of(2, 3), rnn.initial_state(3)), ValueError, r"state .*\(2, 2, 4\).*got \(2, 3, 4\)"
    ),
    "step with x a list": Misuse(lambda rnn: rnn.step([0.0] * 3), TypeError, r"x should be a tensor.*got list"),
    "noise of one layer": Misuse(
        lambda rnn: rnn(x_of(5, 2, 3), noise=[None]), ValueError, r"noise should have 2 entries.*got 1"
    ),
    "lengths a string": Misuse(lambda rnn: rnn(x_of(5, 2, 3), lengths="52"), TypeError, r"lengths should .*got str"),
}


@pytest.mark.parametrize("name", CALLS)
def test_call(entry: Entry, name: str) -> None:
    misuse = CALLS[name]
    layer = entry.layer(3, 4, 2)
    with pytest.raises(misuse.error, match=misuse.message) as caught:
        misuse.call(layer)
    assert str(caught.value).startswith("RNN: ")
    assert "\n" not in str(caught.value)


CONSTRUCTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    f"{name}={value!r}": ({name: value}, error, rf"{name} should be .*got .*{shown}")
    for name in ("input_size", "hidden_size", "num_layers")
    for value, error, shown in [
        (0, ValueError, "0"),
        (-1, ValueError, "-1"),
        (4.0, TypeError, r"float 4\.0"),
        (True, TypeError, "bool True"),
        ("4", TypeError, "str '4'"),
        (None, TypeError, "NoneType None"),
    ]
} | {
    "dropout=1.0": ({"dropout": 1.0}, ValueError, r"dropout .*\[0, 1\).*got 1\.0"),
    "dropout=-0.1": ({"dropout": -0.1}, ValueError, r"dropout .*\[0, 1\).*got -0\.1"),
    "dropout=nan": ({"dropout": float("nan")}, ValueError, r"dropout .*\[0, 1\).*got nan"),
    "dropout=True": ({"dropout": True}, TypeError, r"dropout should be a number, got bool True"),
    "dropout='0.5'": ({"dropout": "0.5"}, TypeError, r"dropout should be a number, got str '0\.5'"),
    "unknown option": ({"forget_biass": 1.0}, TypeError, r"forget_biass"),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_construction(entry: Entry, name: str) -> None:
    options, error, message = CONSTRUCTIONS[name]
    arguments = {"input_size": 3, "hidden_size": 4, **entry.options, **options}
    with pytest.raises(error, match=message):
        RNN(entry.cell, **arguments)


def test_the_cell_s_rates_are_checked(entry: Entry) -> None:
    for name in entry.dropouts():
        for value, error in ((1.0, ValueError), (-0.1, ValueError), (True, TypeError), ("a", TypeError)):
            with pytest.raises(error, match=name):
                RNN(entry.cell, 3, 4, **{**entry.options, name: value})


def test_a_bidirectional_layer_does_not_stream(entry: Entry) -> None:
    with pytest.raises(ValueError, match="bidirectional"):
        entry.layer(bidirectional=True).step(x_of(2, 3))


def test_a_cell_refuses_a_wrong_step(entry: Entry) -> None:
    cell = entry.layer().cells[0]
    for x in (x_of(3), x_of(2, 4), x_of(5, 2, 3)):
        with pytest.raises(ValueError, match=r"x should have shape \(batch, 3\), got"):
            cell(x)


def test_a_list_will_do_for_a_tuple_of_states(entry: Entry) -> None:
    layer = entry.layer()
    state: State = random_state(layer)
    if isinstance(state, Tensor):
        pytest.skip("this cell's state is one tensor")
    x = torch.randn(5, 2, 3, dtype=DOUBLE)
    torch.testing.assert_close(layer(x, list(state)), layer(x, state), rtol=0, atol=0)

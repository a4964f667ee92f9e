"""The contract's own small parts, and its documented example."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ungated import CELLS, RNN, Cell
from ungated.cells.cell import check_rate, check_size, map_state, noise_at


def elman() -> type[Cell]:
    """The class written out in the docstring of Cell."""
    lines = inspect.getdoc(Cell).splitlines()
    first = next(k for k, line in enumerate(lines) if line.lstrip().startswith("class Elman(Cell):"))
    last = next(k for k, line in enumerate(lines) if "is a layer of it" in line)
    source = textwrap.dedent("\n".join(lines[first:last])).strip()
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    names: dict[str, Any] = {"Cell": Cell, "nn": nn, "torch": torch}
    exec(compile(source, "docstring of Cell", "exec"), names)  # the documented text itself is under test
    return names["Elman"]


def test_the_documented_cell_runs_as_documented() -> None:
    layer = RNN(elman(), 10, 20, num_layers=2, bidirectional=True)
    y, state = layer(torch.randn(7, 3, 10))
    assert y.shape == (7, 3, 40)
    assert state.shape == (4, 3, 20)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_a_cell_has_to_define_its_step() -> None:
    class Nothing(Cell):
        def __init__(self) -> None:
            super().__init__(2, 3)
            self.w = nn.Parameter(torch.zeros(1))

    with pytest.raises(TypeError, match=r"Nothing has no step\(drive, state, noise\)"):
        Nothing()(torch.zeros(1, 2))


def test_a_cell_without_parameters_runs() -> None:
    class Sum(Cell):
        def step(self, drive: Tensor, state: Tensor, noise: Any = None) -> tuple[Tensor, Tensor]:
            return drive + state, drive + state

    layer = RNN(Sum, 3, 3)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(layer(x)[0], x.cumsum(0))


def test_defaults_of_the_stages() -> None:
    cell = Cell(2, 3)
    assert (cell.input_size, cell.hidden_size, cell.output_size) == (2, 3, 3)
    assert Cell(2, 3, 5).output_size == 5
    x = torch.randn(4, 1, 2)
    assert cell.project(x) is x
    assert cell.readout(x) is x
    assert cell.noise(4, 1) is None
    assert torch.equal(cell.initial_state(6), torch.zeros(6, 3))


@pytest.mark.parametrize("name", CELLS)
def test_forward_is_one_step_of_a_layer(name: str) -> None:
    torch.manual_seed(0)
    cell = CELLS[name](3, 4)
    layer = RNN(lambda *_: cell, 3, 4)
    x = torch.randn(5, 2, 3)
    state = None
    for t in range(5):
        y, state = cell(x[t], state)
    y_layer, last = layer(x)
    torch.testing.assert_close(y, y_layer[-1])
    torch.testing.assert_close(map_state(lambda part: part[None], state), last)


@pytest.mark.parametrize("name", CELLS)
def test_repr_tells_the_sizes(name: str) -> None:
    assert "(3, 4)" in repr(CELLS[name](3, 4)) or "3, 4\n" in repr(CELLS[name](3, 4))
    assert "output_size=7" in repr(CELLS["rru"](3, 4, output_size=7))


def test_map_state() -> None:
    a, b = torch.ones(2), torch.zeros(2)
    assert torch.equal(map_state(torch.add, a, a), 2 * a)
    first, second = map_state(torch.add, (a, b), (b, b))
    assert torch.equal(first, a)
    assert torch.equal(second, b)
    with pytest.raises(ValueError, match="shorter"):
        map_state(torch.add, (a, b), (a,))


def test_noise_of_a_time_step() -> None:
    fresh, held = torch.arange(6.0).view(3, 2), torch.ones(1, 2)
    assert noise_at(None, 2) is None
    assert torch.equal(noise_at(fresh, 2), fresh[2])
    assert torch.equal(noise_at(held, 2), held[0])
    first, second = noise_at((fresh, held), 1)
    assert torch.equal(first, fresh[1])
    assert torch.equal(second, held[0])


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-3, ValueError), (1.0, TypeError), (True, TypeError)])
def test_sizes_are_checked(value: Any, error: type[Exception]) -> None:
    assert check_size("width", 7) == 7
    with pytest.raises(error, match=rf"width should be .*{value}"):
        check_size("width", value)


@pytest.mark.parametrize(
    ("value", "error"), [(1.0, ValueError), (-0.1, ValueError), (float("nan"), ValueError), (True, TypeError)]
)
def test_rates_are_checked(value: Any, error: type[Exception]) -> None:
    assert check_rate("rate", 0) == 0.0
    assert check_rate("rate", 0.99) == 0.99
    with pytest.raises(error, match=rf"rate .*{value}"):
        check_rate("rate", value)

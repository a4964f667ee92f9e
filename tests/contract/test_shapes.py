"""Layouts and edges: what goes in, what comes out, and how it may lie in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ungated.cells.cell import Cell, map_state

from .entries import Entry, assert_close, assert_equal, gradients, parts, random_state


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("shape", [(5, 2), (1, 2), (5, 1), (1, 1), (5, 0)], ids=str)
def test_shapes_are_those_of_torch(
    entry: Entry, shape: tuple[int, int], batch_first: bool, bidirectional: bool, layers: int
) -> None:
    T, B = shape
    options = {"batch_first": batch_first, "bidirectional": bidirectional}
    layer = entry.layer(3, 4, layers, **options)
    x = torch.randn(T, B, 3, dtype=torch.float64)
    like_x = x.transpose(0, 1) if batch_first else x
    peer = nn.LSTM(3, 4, layers, **options).double()
    y_peer, (h_peer, _) = peer(like_x)
    y, state = layer(like_x)
    assert y.shape[:2] == y_peer.shape[:2]
    assert y.shape[-1] == layer.output_size == layer.cells[-1].output_size * (2 if bidirectional else 1)
    assert all(part.shape == h_peer.shape for part in parts(state))
    assert all(part.shape == h_peer.shape for part in parts(layer.initial_state(B)))
    for gradient in gradients(layer, y.sum(), *(part.sum() for part in parts(state))):
        assert gradient.isfinite().all()
    y_again, state_again = layer(like_x, layer.initial_state(B))
    assert_equal((y_again, state_again), (y, state))


@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (4, 1)], ids=str)
def test_sizes_of_one(entry: Entry, sizes: tuple[int, int]) -> None:
    layer = entry.layer(*sizes, num_layers=2)
    y, _ = layer(torch.randn(3, 2, sizes[0], dtype=torch.float64))
    y.sum().backward()
    assert y.shape == (3, 2, layer.output_size)


def test_batch_first_is_a_transposition(entry: Entry) -> None:
    time_first, batch_first = (entry.layer(num_layers=2, bidirectional=True, batch_first=flag) for flag in (0, 1))
    x, state = torch.randn(5, 3, 3, dtype=torch.float64), random_state(time_first, 3)
    lengths = [2, 5, 1]
    y, last = time_first(x, state, lengths)
    y_batch, last_batch = batch_first(x.transpose(0, 1).contiguous(), state, lengths)
    assert_equal(y_batch.transpose(0, 1), y)
    assert_equal(last_batch, last)


def test_output_ends_with_the_state_where_they_are_the_same(entry: Entry) -> None:
    """As with torch.nn: the last output of a cell without a readout is h."""
    layer = entry.layer()
    if type(layer.cells[0]).readout is not Cell.readout:
        pytest.skip("this cell has a readout of its own")
    y, last = layer(torch.randn(5, 2, 3, dtype=torch.float64))
    assert_equal(parts(last)[0][0], y[-1])


def test_step_takes_the_layout_of_one_time_step(entry: Entry) -> None:
    layer = entry.layer(num_layers=2, batch_first=True)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    y, last = layer(x)
    state = layer.initial_state(2)
    for t in range(4):
        y_t, state = layer.step(x[:, t], state)
        assert_close(y_t, y[:, t])
    assert_close(state, last)


MEMORY: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "features first": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "sliced": lambda x: torch.cat([x, x + 1.0], dim=-1)[..., : x.shape[-1]],
    "every second": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "offset": lambda x: torch.cat([x[:1], x])[1:],
    "reversed twice": lambda x: x.flip(0).flip(0),
}


@pytest.mark.parametrize("memory", MEMORY)
def test_memory_layout_changes_nothing(entry: Entry, memory: str) -> None:
    layer = entry.layer(num_layers=2)
    x, state, upstream = torch.randn(4, 2, 3, dtype=torch.float64), random_state(layer), None
    results = []
    for lay in (torch.clone, MEMORY[memory]):
        x_laid = lay(x).requires_grad_()
        y, last = layer(x_laid, map_state(lay, state))
        upstream = torch.randn_like(y) if upstream is None else upstream
        loss_gradients = [lay(upstream), *(lay(part.detach()) for part in parts(last))]
        targets = [x_laid, *layer.parameters()]
        found = torch.autograd.grad([y, *parts(last)], targets, loss_gradients)
        results.append([y, *parts(last), *found])
    assert_close(results[1], results[0])


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_expanded_input_equals_its_copy(entry: Entry, dim: int) -> None:
    layer = entry.layer()
    shape = [4, 2, 3]
    shape[dim] = 1
    x = torch.randn(shape, dtype=torch.float64).expand(4, 2, 3)
    state = map_state(lambda part: part[:, :1].expand(-1, 2, -1), random_state(layer))
    got, want = layer(x, state), layer(x.clone(), map_state(torch.clone, state))
    assert_close(got, want)


def test_inputs_are_not_written_to(entry: Entry) -> None:
    layer = entry.layer(num_layers=2, bidirectional=True, dropped=True, dropout=0.5)
    x, state = torch.randn(4, 2, 3, dtype=torch.float64), random_state(layer)
    before = [x.clone(), *(part.clone() for part in parts(state))]
    layer(x, state, torch.tensor([4, 1]))
    assert_equal([x, *parts(state)], before)
    _, first = layer(x)
    kept = map_state(torch.clone, first)
    layer(x, first)
    assert_equal(first, kept)


def test_meta_tensors_give_shapes_without_memory(entry: Entry) -> None:
    layer = entry.layer(3, 5, 2, bidirectional=True, device="meta", dtype=torch.float32)
    y, last = layer(torch.empty(7, 2, 3, device="meta"))
    assert y.is_meta
    assert y.shape == (7, 2, layer.output_size)
    assert all(part.is_meta and part.shape == (4, 2, 5) for part in parts(last))
    with pytest.raises(TypeError, match=r"x should have the layer's dtype torch\.float32, got torch\.float64"):
        layer(torch.empty(7, 2, 3, device="meta", dtype=torch.float64))

"""A stream gives what the layer gives step by step, whatever runs it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ungated import RRU, Stream, backend
from ungated.cells.cell import State, map_state
from ungated.scan.cpu.library import Engine, Scan

from .conftest import fast_paths_of
from .entries import Entry, random_state

DTYPES = [torch.float32, torch.float64]


def assert_close(got: State, want: State) -> None:
    def check(a: Tensor, b: Tensor) -> Tensor:
        torch.testing.assert_close(a, b)
        return a

    map_state(check, got, want)


def clones(state: State) -> State:
    return map_state(torch.clone, state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_steps_and_several_at_once(entry: Entry, dtype: torch.dtype, batch: int) -> None:
    layer = entry.layer(3, 20, 2, dtype=dtype, dropped=True)
    stream, x = Stream(layer, batch), torch.randn(13, batch, 3, dtype=dtype)
    want, last = layer.eval()(x)
    state = clones(random_state(layer, batch))
    stream.state = state
    assert_close(stream.state, state)
    stream.reset()
    got = torch.cat([stream(x[:5]), *(stream(x[t])[None] for t in range(5, 9)), stream(x[9:])])
    torch.testing.assert_close(got, want)
    assert_close(stream.state, last)
    stream.state = state
    torch.testing.assert_close(stream(x[0]), layer.step(x[0], state)[0])
    assert not got.requires_grad


@pytest.mark.parametrize("batch", [1, 4, 5])
def test_weights_larger_than_a_core_s_cache(batch: int) -> None:
    torch.manual_seed(0)
    layer, x = RRU(88, 352, output_size=64, expansion=7.3), torch.randn(11, batch, 88)
    torch.nn.init.uniform_(layer.cells[0].Z, -0.1, 0.1)
    with backend("reference"), torch.no_grad():
        want = layer(x)[0]
    stream = Stream(layer, batch)
    torch.testing.assert_close(torch.cat([stream(x[:4]), *(stream(x_t)[None] for x_t in x[4:])]), want)


def test_outputs_and_states_that_were_given_out_stay_as_they_are(entry: Entry) -> None:
    layer = entry.layer(dtype=torch.float32)
    stream, x = Stream(layer, 2), torch.randn(2, 2, 3)
    output, state = stream(x[0]), stream.state
    kept, before = output.clone(), clones(state)
    given = clones(state)
    stream.state = given
    stream(x[1])
    torch.testing.assert_close(output, kept, rtol=0, atol=0)
    for left, right in ((state, before), (given, before)):
        assert_close(left, right)


def test_it_keeps_the_weights_that_the_layer_had(entry: Entry) -> None:
    layer = entry.layer(dtype=torch.float32)
    stream, x = Stream(layer, 2), torch.randn(4, 2, 3)
    with torch.no_grad():
        want = layer(x)[0]
        for parameter in layer.parameters():
            parameter.data.mul_(2.0)
    torch.testing.assert_close(torch.stack([stream(x_t) for x_t in x]), want)


def test_batch_first_and_memory_in_another_order(entry: Entry) -> None:
    layer = entry.layer(dtype=torch.float32, batch_first=True)
    x = torch.randn(3, 5, 2).transpose(0, 2)
    with torch.no_grad():
        torch.testing.assert_close(Stream(layer, 2)(x), layer(x)[0])
        torch.testing.assert_close(Stream(layer, 2)(x[:, 0]), layer.step(x[:, 0])[0])


def test_the_backend_in_force_when_it_is_made_is_heeded(entry: Entry) -> None:
    layer, x = entry.layer(dtype=torch.float32), torch.randn(6, 2, 3)
    with backend("reference"), torch.no_grad():
        stream = Stream(layer, 2)
        torch.testing.assert_close(stream(x), layer(x)[0], rtol=0, atol=0)


def test_a_step_packs_no_weights(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    real = Engine.scan

    def scan(self: Engine, **arguments: Any) -> Scan:
        packed.append(arguments["packed"])
        return real(self, **arguments)

    monkeypatch.setattr(Engine, "scan", scan)
    stream, x = Stream(entry.layer(dtype=torch.float32), 2), torch.randn(6, 2, 3)
    if not packed:
        assert entry.name == "own-cell" or fast_paths_of(entry) != ["cpu", "torch"]
        pytest.skip("the engine cannot run this cell here")
    for x_t in x:
        stream(x_t)
    assert packed == [None]
    stream(x)
    assert len(packed) == 2 and packed[1] is not None


def test_under_autocast_as_exact_as_the_input(entry: Entry) -> None:
    layer = entry.layer(dtype=torch.float32)
    stream, x = Stream(layer, 2), torch.randn(6, 2, 3).bfloat16()
    with torch.no_grad():
        want = layer(x.float())[0]
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.cat([stream(x[0])[None], stream(x[1:])])
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)


def test_what_does_not_fit(entry: Entry) -> None:
    layer = entry.layer(dtype=torch.float32)
    with pytest.raises(ValueError, match="bidirectional"):
        Stream(entry.layer(bidirectional=True))
    for batch, error in ((0, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="batch_size"):
            Stream(layer, batch)
    stream = Stream(layer, 2)
    before = stream.state
    with pytest.raises(TypeError, match="x should be a tensor"):
        stream([1.0])
    for shape, message in (
        ((3,), r"\(batch, input\)"),
        ((2, 4), "3 features"),
        ((3, 3), "the stream's 2 sequences"),
        ((4, 1, 3), "the stream's 2 sequences"),
        ((0, 2, 3), "at least one time step"),
    ):
        with pytest.raises(ValueError, match=message):
            stream(torch.randn(shape))
    with pytest.raises(TypeError, match="dtype"):
        stream(torch.randn(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="state should have shape"):
        stream.state = random_state(layer, 3)
    assert_close(stream.state, before)

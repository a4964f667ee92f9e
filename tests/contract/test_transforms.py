"""Compilation, export and function transforms give what the layer gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from ungated.rnn import RNN

from .conftest import fast_paths_of
from .entries import STEPS, Entry, assert_close, assert_equal, gradients, parts, random_state

# Seen inside torch's own tracers; nothing a layer could do about them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def example(entry: Entry, layers: int = 1, **options: Any) -> tuple[RNN, Tensor]:
    return entry.layer(3, 4, layers, **options), torch.randn(steps_of(entry), 2, 3, dtype=torch.float64)


def steps_of(entry: Entry) -> int:
    """Two are enough for a tracer, which unrolls the reference's loop; a fast path is not taken for so few."""
    return STEPS if fast_paths_of(entry) else 2


def test_compile_without_a_graph_break(entry: Entry) -> None:
    layer, x = example(entry, bidirectional=True)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert_close(compiled(x), layer(x))


def test_compile_with_state_and_lengths(entry: Entry) -> None:
    layer, x = example(entry)
    state, lengths = random_state(layer), torch.tensor([1, len(x)])
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert_close(compiled(x, state, lengths), layer(x, state, lengths))
    lengths = torch.tensor([len(x), 1])
    assert_close(compiled(x, state, lengths), layer(x, state, lengths))


def test_compile_backward(entry: Entry) -> None:
    layer, x = example(entry)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got = gradients(layer, compiled(x)[0].square().sum())
    assert_close(got, gradients(layer, layer(x)[0].square().sum()))


def test_compile_training_with_dropout(entry: Entry) -> None:
    layer, x = example(entry, 2, dropped=True, dropout=0.5)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.manual_seed(5)
    want = layer(x)
    torch.manual_seed(5)
    assert_close(compiled(x), want)


def test_compile_with_another_batch_size(entry: Entry) -> None:
    layer, x = entry.layer(), torch.randn(steps_of(entry), 7, 3, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
    assert_close(compiled(x[:, :5]), layer(x[:, :5]))
    assert_close(compiled(x), layer(x))


class Classifier(nn.Module):
    """A layer inside somebody's model, as it is exported."""

    def __init__(self, rnn: RNN) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.output_size, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][-1])


def test_export(entry: Entry) -> None:
    layer, x = entry.layer(), torch.randn(2, 2, 3, dtype=torch.float64)
    model = Classifier(layer).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({1: batch},))
    assert_close(program.module()(x), model(x))
    wider = torch.randn(2, 5, 3, dtype=torch.float64)
    assert_close(program.module()(wider), model(wider))


def test_export_of_a_streaming_step(entry: Entry) -> None:
    layer, _ = example(entry, 2)

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer

        def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            y, after = self.rnn.step(x, state if len(state) > 1 else state[0])
            return (y, *parts(after))

    x, state = torch.randn(2, 3, dtype=torch.float64), parts(random_state(layer))
    stream = Stream().eval()
    program = torch.export.export(stream, (x, *state))
    assert_close(program.module()(x, *state), stream(x, *state))


def test_vmap_over_an_ensemble_of_weights(entry: Entry) -> None:
    layers = [entry.layer() for _ in range(3)]
    with torch.no_grad():
        for k, layer in enumerate(layers):
            for parameter in layer.parameters():
                parameter.add_(0.1 * k)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    parameters, buffers = stack_module_state(layers)

    def run(weights: dict[str, Tensor], others: dict[str, Tensor]) -> tuple[Tensor, ...]:
        y, last = functional_call(layers[0], (weights, others), (x,))
        return (y, *parts(last))

    stacked = vmap(run)(parameters, buffers)
    for k, layer in enumerate(layers):
        y, last = layer(x)
        assert_close([tensor[k] for tensor in stacked], [y, *parts(last)])


def test_per_sample_gradients(entry: Entry) -> None:
    layer = entry.layer()
    weights = {name: value.detach() for name, value in layer.named_parameters()}
    x = torch.randn(3, 4, 3, dtype=torch.float64)  # three unbatched sequences

    def loss(weights: dict[str, Tensor], sequence: Tensor) -> Tensor:
        return functional_call(layer, weights, (sequence,))[0].square().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    for k in range(3):
        want = gradients(layer, layer(x[k])[0].square().sum())
        assert_close([per_sample[name][k] for name in weights], want)


def test_functional_call_leaves_the_module_alone(entry: Entry) -> None:
    layer, x = example(entry)
    want = layer(x)
    zeros = {name: torch.zeros_like(value) for name, value in layer.named_parameters()}
    other = functional_call(layer, zeros, (x,))
    assert not torch.allclose(other[0], want[0])
    assert_equal(layer(x), want)

"""A layer is a torch module like any other: copied, saved, moved, hooked, tied, re-parametrised."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from ungated.cells.cell import map_state
from ungated.rnn import RNN

from .entries import Entry, assert_close, assert_equal, gradients, parts, random_state


def example(entry: Entry, **options: Any) -> tuple[RNN, Tensor]:
    return entry.layer(3, 4, 2, bidirectional=True, **options), torch.randn(4, 2, 3, dtype=torch.float64)


def test_deepcopy(entry: Entry) -> None:
    layer, x = example(entry)
    twin = copy.deepcopy(layer)
    assert_equal(twin(x), layer(x))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert not torch.allclose(twin(x)[0], layer(x)[0])


def test_pickle(entry: Entry) -> None:
    layer, x = example(entry)
    assert_equal(pickle.loads(pickle.dumps(layer))(x), layer(x))  # noqa: S301 -- our own bytes


def test_state_dict_round_trip(entry: Entry) -> None:
    layer, x = example(entry)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other, _ = example(entry)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert_equal(other(x), layer(x))


def test_state_dict_holds_the_parameters_and_nothing_else(entry: Entry) -> None:
    layer, _ = example(entry)
    parameters = dict(layer.named_parameters())
    assert set(layer.state_dict()) == set(parameters)
    own = [name for name, _ in layer.cells[0].named_parameters()]
    assert list(parameters) == [f"cells.{k}.{name}" for k in range(4) for name in own]


def test_state_dict_mismatch_is_named(entry: Entry) -> None:
    layer, _ = example(entry)
    state = layer.state_dict()
    first = next(iter(state))
    del state[first]
    with pytest.raises(RuntimeError, match=first.replace(".", r"\.")):
        layer.load_state_dict(state)


def test_load_into_a_layer_on_meta_by_assignment(entry: Entry) -> None:
    layer, x = example(entry)
    empty = entry.layer(3, 4, 2, bidirectional=True, device="meta")
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert_equal(empty(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_to_dtype(entry: Entry, dtype: torch.dtype) -> None:
    layer, x = example(entry)
    y, _ = layer(x)
    layer.to(dtype)
    y_low, last_low = layer(x.to(dtype))
    assert all(tensor.dtype == dtype for tensor in (y_low, *parts(last_low), *parts(layer.initial_state(2))))
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.15, torch.float16: 0.02}[dtype]
    torch.testing.assert_close(y_low.double(), y, rtol=tolerance, atol=tolerance)
    y_low.sum().backward()
    assert all(parameter.grad is None or parameter.grad.dtype == dtype for parameter in layer.parameters())


def test_dtype_and_device_arguments(entry: Entry) -> None:
    layer = entry.layer(dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
    default = entry.layer(dtype=None)
    assert {parameter.dtype for parameter in default.parameters()} == {torch.float32}


def test_forward_and_backward_hooks(entry: Entry) -> None:
    layer, x = example(entry)
    x.requires_grad_()
    calls: list[str] = []
    layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    layer.register_forward_hook(lambda module, args, output: (output[0] + 1.0, output[1]))
    layer.register_full_backward_hook(lambda *_: calls.append("backward"))
    y, _ = layer(x)
    y.register_hook(lambda gradient: 2.0 * gradient)
    y.sum().backward()
    assert calls == ["before", "backward"]
    plain, _ = example(entry)
    x_plain = x.detach().clone().requires_grad_()
    y_plain, _ = plain(x_plain)
    y_plain.sum().backward()
    assert_close(y, y_plain + 1.0)
    assert_close(x.grad, 2.0 * x_plain.grad)


def test_tensor_hook_on_a_parameter(entry: Entry) -> None:
    layer, x = example(entry)
    parameter = next(layer.parameters())
    seen = []
    parameter.register_hook(lambda gradient: seen.append(gradient) or torch.zeros_like(gradient))
    layer(x)[0].sum().backward()
    assert len(seen) == 1
    assert torch.count_nonzero(parameter.grad) == 0


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2.0 * weight


def matrices(cell: nn.Module) -> list[tuple[nn.Module, str]]:
    owned = [(module, name) for module in cell.modules() for name, _ in module.named_parameters(recurse=False)]
    return [(module, name) for module, name in owned if getattr(module, name).dim() == 2 and not name.isdigit()]


def test_parametrize_is_honoured(entry: Entry) -> None:
    layer, x = example(entry)
    plain, _ = example(entry)
    for cell, plain_cell in zip(layer.cells, plain.cells, strict=True):
        for (module, name), (plain_module, _) in zip(matrices(cell), matrices(plain_cell), strict=True):
            parametrize.register_parametrization(module, name, Doubled())
            with torch.no_grad():
                getattr(plain_module, name).mul_(2.0)
    assert_equal(layer(x), plain(x))
    with parametrize.cached():
        assert_equal(layer(x), plain(x))
    layer(x)[0].sum().backward()
    originals = [p for name, p in layer.named_parameters() if name.endswith("original")]
    assert originals
    assert any(torch.count_nonzero(p.grad) > 0 for p in originals if p.grad is not None)


def test_weight_norm_keeps_the_function_and_trains(entry: Entry) -> None:
    layer, x = example(entry)
    want = layer(x)
    module, name = matrices(layer.cells[0])[0]
    weight_norm(module, name)
    assert_close(layer(x), want)
    layer(x)[0].square().sum().backward()
    assert all(p.grad is not None for p in module.parametrizations[name].parameters())


def test_frozen_parameters_stay(entry: Entry) -> None:
    layer, x = example(entry)
    frozen = next(layer.parameters()).requires_grad_(False)
    before = frozen.clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(x)[0].square().sum().backward()
    optimizer.step()
    assert frozen.grad is None
    assert_equal(frozen, before)


def test_tied_layers_share_and_add_their_gradients(entry: Entry) -> None:
    """Two layers with one cell: the gradient is the sum of what two separate copies get."""
    size = 4
    options = {"output_size": size} if "output_size" in entry.options else {}
    separate = RNN(entry.cell, size, size, 2, dtype=torch.float64, **{**entry.options, **options})
    separate.cells[1].load_state_dict(separate.cells[0].state_dict())
    tied = copy.deepcopy(separate)
    tied.cells[1] = tied.cells[0]
    x = torch.randn(3, 2, size, dtype=torch.float64)
    assert_equal(tied(x), separate(x))
    got = gradients(tied, tied(x)[0].square().sum())
    apart = gradients(separate, separate(x)[0].square().sum())
    half = len(apart) // 2
    assert len(got) == half
    assert_close(got, [a + b for a, b in zip(apart[:half], apart[half:], strict=True)])


def test_a_learned_initial_state(entry: Entry) -> None:
    layer, x = example(entry)
    values = random_state(layer)
    learned = map_state(nn.Parameter, values)
    y, last = layer(x, learned)
    assert_equal((y, last), layer(x, values))
    y.square().sum().backward()
    assert all(torch.count_nonzero(part.grad) > 0 for part in parts(learned))


def test_share_memory(entry: Entry) -> None:
    layer, x = example(entry)
    want = layer(x)
    layer.share_memory()
    assert all(parameter.is_shared() for parameter in layer.parameters())
    assert_equal(layer(x), want)


def test_trains(entry: Entry) -> None:
    layer = entry.layer(2, 8)
    torch.manual_seed(0)
    x = torch.randn(6, 16, 2, dtype=torch.float64)
    target = x.cumsum(0)[..., :1].tanh()
    head = nn.Linear(layer.output_size, 1).double()
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.03)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (head(layer(x)[0]) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_repr_names_the_sizes(entry: Entry) -> None:
    layer, _ = example(entry, dropout=0.25)
    assert "3, 4, num_layers=2, bidirectional=True, dropout=0.25" in repr(layer)


def test_two_copies_in_one_model_do_not_interfere(entry: Entry) -> None:
    layer, x = example(entry)
    want = layer(x)
    state = map_state(torch.clone, want[1])
    layer(-x, random_state(layer))
    assert_equal(layer(x), want)
    assert_equal(want[1], state)

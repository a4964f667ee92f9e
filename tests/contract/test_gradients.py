"""Gradients against finite differences in float64, first and second order, and every way of asking for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call

from ungated.cells.cell import map_state
from ungated.rnn import RNN

from .entries import STEPS, Entry, assert_close, assert_equal, gradients, parts, random_state, rebuilt

T, B = STEPS, 2
VARIANTS: dict[str, dict[str, Any]] = {
    "one-layer": {},
    "two-layers-bidirectional": {"num_layers": 2, "bidirectional": True, "hidden_size": 2},
    "ragged": {"lengths": [2, STEPS]},
    "dropped": {"dropped": True},
}


def function_of(layer: RNN, lengths: list[int] | None, dropped: bool) -> tuple[Any, list[Tensor]]:
    """The layer as a function of x, each state tensor and each parameter; outputs: y and each last state."""
    names = [name for name, _ in layer.named_parameters()]
    state = random_state(layer, B)
    noise = layer.noise(T, B) if dropped else None  # the same masks in every evaluation

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        state_in, parameters = rest[: len(parts(state))], rest[len(parts(state)) :]
        arguments = (x, rebuilt(state_in), lengths, noise)
        y, last = functional_call(layer, dict(zip(names, parameters, strict=True)), arguments)
        return (y, *parts(last))

    x = torch.randn(T, B, layer.input_size, dtype=torch.float64)
    inputs = [x, *parts(state), *(parameter.detach() for parameter in layer.parameters())]
    return run, [tensor.clone().requires_grad_() for tensor in inputs]


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_order(entry: Entry, variant: str) -> None:
    options = {"input_size": 2, "hidden_size": 3, **VARIANTS[variant]}
    lengths = options.pop("lengths", None)
    layer = entry.layer(**options)
    run, inputs = function_of(layer, lengths, "dropped" in options)
    assert gradcheck(run, inputs, fast_mode=variant != "one-layer")


def test_second_order(entry: Entry) -> None:
    run, inputs = function_of(entry.layer(2, 2), None, False)
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_gradient_penalty_reaches_every_parameter(entry: Entry) -> None:
    layer = entry.layer()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    y, last = layer(x)
    (g,) = torch.autograd.grad((y.square().sum() + sum(p.square().sum() for p in parts(last))), x, create_graph=True)
    g.square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inside torch, on first use of forward mode
def test_forward_mode(entry: Entry) -> None:
    run, inputs = function_of(entry.layer(), None, False)
    tangents = [torch.randn_like(tensor) for tensor in inputs]
    with forward_ad.dual_level():
        outputs = run(*(forward_ad.make_dual(i.detach(), t) for i, t in zip(inputs, tangents, strict=True)))
        jvp = [forward_ad.unpack_dual(output).tangent for output in outputs]
    outputs = run(*inputs)
    cotangents = [torch.randn_like(output) for output in outputs]
    vjp = torch.autograd.grad(outputs, inputs, cotangents)
    left = sum((j * c).sum() for j, c in zip(jvp, cotangents, strict=True))
    right = sum((v * t).sum() for v, t in zip(vjp, tangents, strict=True))
    torch.testing.assert_close(left, right)


def test_every_parameter_and_the_input_are_reached(entry: Entry) -> None:
    layer = entry.layer(3, 6, 2, bidirectional=True)
    x = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)
    state = map_state(lambda part: part.requires_grad_(), random_state(layer, 4))
    y, last = layer(x, state)
    loss = y.square().sum() + sum(part.square().sum() for part in parts(last))
    for gradient in gradients(layer, loss, also=(x, *parts(state))):
        assert gradient.isfinite().all()
        assert torch.count_nonzero(gradient) > 0


@pytest.mark.parametrize("wanted", ["x", "state", "parameters", "one parameter"])
def test_only_some_inputs_need_gradients(entry: Entry, wanted: str) -> None:
    layer = entry.layer()
    x, state = torch.randn(4, 2, 3, dtype=torch.float64), random_state(layer)

    def run() -> dict[str, Tensor]:
        y, last = layer(x, state)
        (y.square().sum() + sum(part.square().sum() for part in parts(last))).backward()
        tensors = {"x": x, **{f"state {k}": p for k, p in enumerate(parts(state))}, **dict(layer.named_parameters())}
        found = {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}
        for tensor in tensors.values():
            tensor.grad = None
        return found

    for tensor in (x, *parts(state)):
        tensor.requires_grad_()
    everything = run()
    for tensor in (x, *parts(state), *layer.parameters()):
        tensor.requires_grad_(False)
    names = [name for name, _ in layer.named_parameters()]
    chosen = {
        "x": ["x"],
        "state": [name for name in everything if name.startswith("state")],
        "parameters": names,
        "one parameter": names[:1],
    }[wanted]
    tensors = {"x": x, **{f"state {k}": p for k, p in enumerate(parts(state))}, **dict(layer.named_parameters())}
    for name in chosen:
        tensors[name].requires_grad_()
    found = run()
    assert set(found) == set(chosen)
    for name in chosen:
        assert_equal(found[name], everything[name])


def test_backward_in_eval_equals_backward_in_training(entry: Entry) -> None:
    layer = entry.layer(num_layers=2)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    in_training = gradients(layer, layer(x)[0].square().sum())
    assert_equal(gradients(layer, layer.eval()(x)[0].square().sum()), in_training)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(entry: Entry, mode: Any) -> None:
    layer = entry.layer(num_layers=2, bidirectional=True)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    y, last = layer(x, None, [4, 2])
    with mode():
        y_without, last_without = layer(x, None, [4, 2])
    assert y.requires_grad
    assert not y_without.requires_grad
    assert_equal(y_without, y)
    assert_equal(last_without, last)


def test_two_backward_passes_accumulate(entry: Entry) -> None:
    layer = entry.layer()
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    layer(x)[0].square().sum().backward()
    once = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    loss = layer(x)[0].square().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    thrice = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    assert_close(thrice, [3 * g for g in once])


@pytest.mark.parametrize("victim", ["x", "weights", "output"])
def test_a_change_in_place_before_backward_never_gives_a_wrong_gradient(entry: Entry, victim: str) -> None:
    layer = entry.layer()
    x = torch.randn(4, 2, 3, dtype=torch.float64)

    def loss_of(y: Tensor) -> Tensor:
        return (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()

    right = gradients(layer, loss_of(layer(x)[0]))
    y, _ = layer(x)
    loss = loss_of(y)
    with torch.no_grad():
        if victim == "x":
            x.mul_(2.0)
        elif victim == "output":
            y.mul_(2.0)
        else:
            for parameter in layer.parameters():
                parameter.mul_(2.0)
    try:
        found = gradients(layer, loss)
    except RuntimeError as error:
        assert "inplace operation" in str(error)
    else:
        assert_equal(found, right)


def test_truncated_backpropagation_through_a_carried_state(entry: Entry) -> None:
    layer = entry.layer()
    x = torch.randn(2 * STEPS, 2, 3, dtype=torch.float64)
    _, state = layer(x[:STEPS])
    detached = map_state(lambda part: part.detach(), state)
    y, _ = layer(x[STEPS:], detached)
    through, _ = layer(x[STEPS:], state)
    short, long = gradients(layer, y.square().sum()), gradients(layer, through.square().sum())
    assert_equal(y, through)
    assert not all(torch.allclose(a, b) for a, b in zip(short, long, strict=True))

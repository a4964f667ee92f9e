"""What the hand-derived paths share: a scan as two torch operators, forward and backward, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import Any, get_type_hints

import torch
from torch import Tensor

from ungated.pages import fresh, on_huge_pages
from ungated.scan.conditions import HALF, autocast_dtype

#: Computes the gradient of one argument; called if that is wanted.
Gradient = Callable[[], Tensor]

_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    list[Tensor]: "Tensor[]",
    torch.dtype | None: "ScalarType?",
    bool: "bool",
    int: "int",
    float: "float",
}


def scan_op(
    name: str,
    arguments: type[Any],
    made: type[Any],
    *,
    results: int,
    allocate: Callable[[Any], Sequence[Tensor]],
    forward: Callable[[Any, Any], None],
    backward: Callable[..., Sequence[Gradient | None]],
    reference: Callable[[Any], Sequence[Tensor]],
    selective: bool = False,
) -> Callable[[Any], tuple[Tensor, ...]]:
    """Define the operator `torch.ops.ungated.name`, and return the function that calls it: arguments -> results.

    arguments: a NamedTuple of what it takes, first the drive and the state; the last two are left to this function:
    `reduced`, the dtype in which products take their factors (None: that of the tensors, which is float32 or float64
    inside), and `save`, whether a backward pass may follow.
    made: a NamedTuple of the tensors it makes. The first `results` of them are what the scan is for (features, last
    state); the others are kept for the backward pass and carry no gradient.
    allocate(arguments) makes them all, fresh, and must not look at values: the compiler learns the shapes from it.
    forward(made, arguments) fills them. backward(gradients of the results (None: zero), made, arguments) gives a
    function for every tensor argument in order, lists flattened, that computes its gradient; None where it has none.
    selective: backward also takes, at its end, which of these gradients are wanted, and may give None for the others.
    reference(arguments) computes the results by differentiable operations, for second derivatives.
    """
    hints, total = get_type_hints(arguments), len(made._fields)
    schema = ", ".join(f"{_SCHEMA_TYPES[hint]} {field}" for field, hint in hints.items())
    given = [f"Tensor? gradient_{i}" for i in range(results)] + [f"Tensor made_{i}" for i in range(total)]
    operator = _define(name, f"({schema}) -> ({', '.join(['Tensor'] * total)})")
    backward_operator = _define(f"{name}_backward", f"(bool[] wanted, {', '.join(given)}, {schema}) -> Tensor[]")

    def run(*args: Any) -> tuple[Tensor, ...]:
        given = arguments(*args)
        empty = made(*allocate(given))
        on_huge_pages(*empty[:results])
        if given.save:
            empty = made(*empty[:results], *(fresh(tensor, *tensor.shape) for tensor in empty[results:]))
        with _without_autocast(args[0]):
            forward(empty, given)
        return tuple(empty)

    def run_backward(wanted: list[bool], *args: Any) -> list[Tensor]:
        gradients, kept, given = args[:results], args[results : results + total], args[results + total :]
        with _without_autocast(given[0]):
            found = backward(gradients, made(*kept), arguments(*given), *([wanted] if selective else []))
            return [gradient() for gradient, want in zip(found, wanted, strict=True) if want and gradient is not None]

    def shapes(*args: Any) -> tuple[Tensor, ...]:
        return tuple(allocate(arguments(*args)))

    def shapes_backward(wanted: list[bool], *args: Any) -> list[Tensor]:
        tensors = _tensors(args[results + total :])
        return [tensor.new_empty(tensor.shape) for tensor, want in zip(tensors, wanted, strict=True) if want]

    def keep(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[results:])
        ctx.save_for_backward(*output, *_tensors(inputs))
        ctx.places = _refilled(inputs, repeat(...))

    def differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        kept, tensors, gradients = ctx.saved_tensors[:total], ctx.saved_tensors[total:], gradients[:results]
        needs = zip(ctx.places, ctx.needs_input_grad, strict=True)
        wanted = [bool(n) for place, need in needs if _is_place(place) for n in (need if place is not ... else [need])]
        found: Iterator[Tensor | None]
        if all(gradient is None for gradient in gradients):
            wanted, found = [False] * len(wanted), iter(())
        elif torch.is_grad_enabled():  # in a backward pass: create_graph=True was asked for
            views, args = _views(ctx.places, tensors, wanted)
            found = iter(_grad(reference(arguments(*args)), gradients, views))
        else:
            found = iter(backward_operator(wanted, *gradients, *kept, *_refilled(ctx.places, iter(tensors))))
        each = iter([next(found) if want else None for want in wanted])
        return tuple(_refilled([place if _is_place(place) else None for place in ctx.places], each))

    torch.library.impl(f"ungated::{name}", "default", run)
    torch.library.impl(f"ungated::{name}_backward", "default", run_backward)
    torch.library.register_fake(f"ungated::{name}", shapes)
    torch.library.register_fake(f"ungated::{name}_backward", shapes_backward)
    torch.library.register_autograd(f"ungated::{name}", differentiate, setup_context=keep)

    def call(given: Any) -> tuple[Tensor, ...]:
        tensors, dtype, reduced = _tensors(given), given[1].dtype, None
        if dtype in HALF:
            # The state is carried in float32 through the scan: at least as exact as a loop that rounds it at each step.
            reduced = dtype
            widened = (tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors)
            given = arguments(*_refilled(given, widened))
        elif dtype == torch.float32:
            reduced = autocast_dtype(given[1].device.type)
            given = arguments(given[0].to(dtype), *given[1:])  # a drive without a bias comes in autocast's dtype
        save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        found = operator(*given._replace(reduced=reduced, save=save))[:results]
        return tuple(result.to(dtype) for result in found)

    return call


def _define(name: str, schema: str) -> Any:
    # torch.library.custom_op would do the same, but imports the compiler (over a second) at the first call.
    torch.library.define(f"ungated::{name}", schema, tags=torch.Tag.pt2_compliant_tag)
    return getattr(torch.ops.ungated, name).default


def _views(places: Sequence[Any], tensors: Sequence[Tensor], wanted: list[bool]) -> tuple[list[Tensor], list[Any]]:
    """Views of the wanted tensors, and the arguments with them in their places.

    Views, since a tensor that was computed from another of them must not hand its share on to that one here.
    """
    views = [tensor.view_as(tensor) if want else tensor for tensor, want in zip(tensors, wanted, strict=True)]
    return [view for view, want in zip(views, wanted, strict=True) if want], _refilled(places, iter(views))


def _grad(
    results: Sequence[Tensor], gradients: Sequence[Tensor | None], inputs: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    pairs = [(r, g) for r, g in zip(results, gradients, strict=True) if g is not None and r.requires_grad]
    reached, their_gradients = [r for r, _ in pairs], [g for _, g in pairs]
    return torch.autograd.grad(reached, inputs, their_gradients, create_graph=True, allow_unused=True)


def _is_place(item: Any) -> bool:
    return item is ... or isinstance(item, (Tensor, list))


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    """The tensors among the arguments and in their lists, in order."""
    return [t for arg in args if _is_place(arg) for t in (arg if isinstance(arg, list) else [arg])]


def _refilled(args: Sequence[Any], values: Iterator[Any]) -> list[Any]:
    """The arguments with their tensors (or `...` in their places), also those in lists, replaced by the next values."""
    return [
        [next(values) for _ in arg] if isinstance(arg, list) else next(values) if _is_place(arg) else arg
        for arg in args
    ]


def _without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """The scan decides itself what is computed in which dtype: autocast, which is still on inside, must not."""
    device = tensor.device.type
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device, enabled=False)

"""A fast path is as right as the reference: its error against float64 is at most a few times the reference's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ungated.rnn import RNN
from ungated.scan import backend, choose

from .conftest import fast_paths_of
from .entries import STEPS, Entry, gradients, parts, random_state

T, B, I, H = 16, 6, 9, 20
VARIANTS = {"plain": {}, "ragged": {"lengths": [16, 3, 11, 1, 16, 8]}, "dropped": {"dropped": True}}


def everything(layer: RNN, x: Tensor, state: list[Tensor], noise: object, lengths: object) -> list[Tensor]:
    """Output, last state, and all gradients with some flowing into the last state too."""
    x, state = x.clone().requires_grad_(), [part.clone().requires_grad_() for part in state]
    y, last = layer(x, state[0] if len(state) == 1 else tuple(state), lengths, noise)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    losses = ((y * weights).sum(), *(part.square().sum() for part in parts(last)))
    return [y, *parts(last), *gradients(layer, *losses, also=(x, *state))]


def test_auto_takes_a_fast_path_at_the_sizes_of_these_tests(entry: Entry) -> None:
    if not fast_paths_of(entry):
        pytest.skip("this cell has no path beside the reference")
    for dtype in (torch.float32, torch.float64):
        cell = entry.layer(dtype=dtype).cells[0]
        drive = cell.project(torch.zeros(STEPS, 2, 3, dtype=dtype))
        assert choose(cell, drive, cell.initial_state(2)).path != "reference"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_against_float64(entry: Entry, variant: str, dtype: torch.dtype) -> None:
    options = dict(VARIANTS[variant])
    lengths = options.pop("lengths", None)
    layer = entry.layer(I, H, dtype=dtype, **options)
    exact_layer = entry.layer(I, H, **options)
    exact_layer.load_state_dict(layer.state_dict())
    fast_paths = fast_paths_of(entry, dtype)
    if not fast_paths:
        pytest.skip("this cell has no path beside the reference")
    limit = 4.0 if dtype == torch.float32 else 2.0
    errors: dict[str, list[list[float]]] = {name: [] for name in ("reference", *fast_paths)}
    sizes = []
    for _ in range(6):  # one draw alone may find the reference lucky
        x, state = torch.randn(T, B, I).to(dtype), parts(random_state(layer, B))
        noise = layer.noise(T, B)
        with backend("reference"):
            exact = everything(exact_layer, double(x), double(state), double(noise), lengths)
        sizes.append([float(tensor.detach().norm()) for tensor in exact])
        for name, found in errors.items():
            with backend(name):
                got = everything(layer, x, state, noise, lengths)
            assert all(tensor.dtype == dtype for tensor in got)
            found.append([float((g - e).detach().norm()) for g, e in zip(got, exact, strict=True)])
    unit = torch.finfo(dtype).eps * torch.tensor(sizes).square().mean(0).sqrt()
    reference = torch.tensor(errors["reference"]).square().mean(0).sqrt()
    for name in fast_paths:
        assert (torch.tensor(errors[name]).square().mean(0).sqrt() <= limit * reference + unit).all()


def double(value: object) -> object:
    if isinstance(value, Tensor):
        return value.double()
    return [double(item) for item in value] if isinstance(value, (list, tuple)) else value

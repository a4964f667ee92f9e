"""Mixed precision: bfloat16 products inside, float32 state and float32 gradients."""

from __future__ import annotations

import pytest
import torch

from .entries import Entry, gradients, parts, random_state


def autocast(dtype: torch.dtype = torch.bfloat16) -> torch.autocast:
    return torch.autocast("cpu", dtype=dtype)


def test_bfloat16_is_near_float32(entry: Entry) -> None:
    layer = entry.layer(8, 16, 2, bidirectional=True, dtype=torch.float32)
    x, state = torch.randn(12, 4, 8), random_state(layer, 4)
    want, want_last = layer(x, state, [12, 3, 7, 1])
    with autocast():
        y, last = layer(x, state, [12, 3, 7, 1])
    assert not torch.equal(y.float(), want)
    for got, exact in zip((y, *parts(last)), (want, *parts(want_last)), strict=True):
        assert (got.float() - exact).norm() < 0.05 * exact.norm()


def test_the_state_stays_float32(entry: Entry) -> None:
    layer = entry.layer(dtype=torch.float32)
    with autocast():
        _, last = layer(torch.randn(5, 2, 3))
        _, again = layer(torch.randn(5, 2, 3), last)
        _, stepped = layer.step(torch.randn(2, 3), again)
    assert all(part.dtype == torch.float32 for part in (*parts(last), *parts(again), *parts(stepped)))


def test_gradients_are_float32_and_near(entry: Entry) -> None:
    layer = entry.layer(8, 16, dtype=torch.float32)
    x = torch.randn(6, 4, 8, requires_grad=True)
    want = gradients(layer, layer(x)[0].square().mean(), also=(x,))
    with autocast():
        loss = layer(x)[0].float().square().mean()
    got = gradients(layer, loss, also=(x,))
    for low, exact in zip(got, want, strict=True):
        assert low.dtype == torch.float32
        assert (low - exact).norm() <= 0.1 * exact.norm() + 1e-6


def test_low_precision_input_and_state_are_taken_under_autocast(entry: Entry) -> None:
    layer = entry.layer(dtype=torch.float32)
    with autocast():
        y, _ = layer(torch.randn(5, 2, 3).bfloat16())
    assert y.isfinite().all()


def test_an_island_without_autocast_is_exact(entry: Entry) -> None:
    layer = entry.layer(dtype=torch.float32)
    x = torch.randn(5, 2, 3)
    want = layer(x)
    with autocast(), torch.autocast("cpu", enabled=False):
        torch.testing.assert_close(layer(x), want, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dropout_under_autocast(entry: Entry, dtype: torch.dtype) -> None:
    layer = entry.layer(8, 16, 2, dropped=True, dropout=0.2, dtype=torch.float32)
    with autocast(dtype):
        y, _ = layer(torch.randn(6, 4, 8))
    y.float().sum().backward()
    assert y.isfinite().all()

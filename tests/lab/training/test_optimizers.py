"""The optimisers against independent transcriptions of their published formulas."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from ungated.cells.cell import Cell
from ungated.lab.training.optimizers import (
    OPTIMIZERS,
    RectifiedLaProp,
    learning_rate,
    rectification,
    set_learning_rate,
)

BETA1, BETA2, EPS = 0.9, 0.999, 1e-7


class Transcription:
    """One tensor, stored as the authors' code stores it, in NumPy: RAdam.py of the RRU code, line by line."""

    def __init__(self, value: np.ndarray, lr: float, multiplier: float, lookup: bool = False) -> None:
        self.theta = value.astype(np.float64).copy()
        self.lr, self.multiplier, self.lookup = lr, multiplier, lookup
        self.m, self.v, self.t = np.zeros_like(self.theta), np.zeros_like(self.theta), 0

    def step(self, gradient: np.ndarray) -> float:
        self.t += 1
        t = self.t
        bound = self.multiplier * math.sqrt(self.v.sum() / (1 - BETA2**t)) + 0.01
        norm = math.sqrt((gradient**2).sum())
        g = gradient * min(1.0, bound / norm) if norm > 0 else gradient
        self.v = BETA2 * self.v + (1 - BETA2) * g**2
        normaliser = np.sqrt(self.v / (1 - BETA2**t)) + EPS
        self.m = BETA1 * self.m + (1 - BETA1) * (g if self.lookup else g / normaliser)
        m_hat = self.m / (1 - BETA1**t)
        rho_inf = 2 / (1 - BETA2) - 1
        rho = rho_inf - 2 * t * BETA2**t / (1 - BETA2**t)
        r = 1.0
        if rho >= 5:
            r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            if self.lookup:
                m_hat = m_hat / normaliser
        self.theta = self.theta - self.lr * r * m_hat
        return bound


class TwoTensors(Cell):
    """A cell whose first two parameters are stored together."""

    stored_together = (("W_x", "W_h"),)

    def __init__(self, m: int, n: int) -> None:
        super().__init__(m, n)
        self.b = nn.Parameter(torch.randn(n))
        self.W_h = nn.Parameter(torch.randn(n, n))
        self.W_x = nn.Parameter(torch.randn(m, n))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.cell = TwoTensors(3, 4)
        self.head = nn.Linear(4, 6)


def build(model: nn.Module, name: str = "rectified-laprop", **settings: object) -> torch.optim.Optimizer:
    kind = OPTIMIZERS[name]
    return kind.build(model, kind.Settings(**settings))


@pytest.mark.parametrize("multiplier", [1.5, 10.0])
def test_equals_the_transcription_step_by_step(multiplier):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Model().double()
    optimizer = build(model, learning_rate=0.01, clip_multiplier=multiplier)
    cell = model.cell
    stored = np.concatenate([cell.W_x.detach(), cell.W_h.detach()])
    expected = {
        "kernel": Transcription(stored, 0.01, multiplier),
        "b": Transcription(cell.b.detach().numpy(), 0.01, multiplier),
        "head": Transcription(model.head.weight.detach().numpy(), 0.01, multiplier),
        "table": Transcription(model.embedding.weight.detach().numpy(), 0.01, multiplier, lookup=True),
    }
    for _ in range(50):
        gradients = {name: rng.normal(size=tensor.theta.shape) * 3 for name, tensor in expected.items()}
        # Two rows are in the batch at first, then never again: they go on moving all the same.
        rows = [0, 1] if expected["table"].t < 20 else [2, 4, 5]
        gradients["table"][[row for row in range(6) if row not in rows]] = 0.0
        cell.W_x.grad = torch.from_numpy(gradients["kernel"][:3])
        cell.W_h.grad = torch.from_numpy(gradients["kernel"][3:])
        cell.b.grad = torch.from_numpy(gradients["b"])
        model.head.weight.grad = torch.from_numpy(gradients["head"])
        model.embedding.weight.grad = torch.from_numpy(gradients["table"])
        optimizer.step()
        for name, tensor in expected.items():
            tensor.step(gradients[name])
        kernel = expected["kernel"].theta
        close = {"rtol": 1e-10, "atol": 1e-12}
        np.testing.assert_allclose(cell.W_x.detach(), kernel[:3], **close)
        np.testing.assert_allclose(cell.W_h.detach(), kernel[3:], **close)
        np.testing.assert_allclose(cell.b.detach(), expected["b"].theta, **close)
        np.testing.assert_allclose(model.head.weight.detach(), expected["head"].theta, **close)
        np.testing.assert_allclose(model.embedding.weight.detach(), expected["table"].theta, **close)


def test_rows_outside_the_batch_keep_moving():
    table = nn.Embedding(2, 3)
    optimizer = build(table)
    for step in range(8):
        table.weight.grad = torch.zeros(2, 3)
        table.weight.grad[0 if step == 0 else 1] = 1.0
        before = table.weight[0].detach().clone()
        optimizer.step()
        assert not torch.equal(table.weight[0], before)


def test_first_five_steps_are_normalised_for_dense_and_raw_for_lookup():
    dense, table = nn.Linear(2, 2, bias=False), nn.Embedding(2, 2)
    for module in (dense, table):
        optimizer = build(module, learning_rate=0.1)
        before = module.weight.detach().clone()
        module.weight.grad = torch.full((2, 2), 0.001)
        optimizer.step()
        moved = (before - module.weight).abs()
        # |g| = 0.002 is below the bound 0.01, so nothing is clipped.
        expected = 0.1 if module is dense else 0.1 * 0.001
        torch.testing.assert_close(moved, torch.full((2, 2), expected), rtol=1e-2, atol=0.0)


def test_clip_bounds_of_the_published_multiplier():
    # Raw norms above the bound let the bound itself grow; for 1.5: 0.021, 0.046, ... at t = 2, 5, ....
    published = {1: 0.01, 2: 0.021, 5: 0.046, 10: 0.079, 50: 0.25, 100: 0.41, 500: 1.3, 1000: 2.4}
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RectifiedLaProp([parameter], clip_multiplier=1.5)
    v = 0.0
    for t in range(1, 1001):
        parameter.grad = torch.full((1,), 1e3, dtype=torch.float64)
        optimizer.step()
        v_new = float(optimizer.state[parameter]["v"])
        clipped = math.sqrt((v_new - BETA2 * v) / (1 - BETA2))
        v = v_new
        if t in published:
            assert clipped == pytest.approx(published[t], rel=0.05)
    assert parameter.grad == 1e3, "the gradient itself is left alone"


@pytest.mark.parametrize(
    ("step", "value"),
    [(6, 0.026), (10, 0.049), (20, 0.085), (50, 0.148), (100, 0.215), (500, 0.476), (1000, 0.645), (2000, 0.828)],
)
def test_rectification_has_the_published_values(step, value):
    assert rectification(step, 0.999) == pytest.approx(value, abs=6e-4)


def test_rectification_starts_at_step_six():
    assert [rectification(step, 0.999) for step in range(1, 6)] == [None] * 5
    assert rectification(6, 0.999) is not None


def test_groups_follow_the_stored_tensors():
    model = Model()
    optimizer = build(model)
    dense, lookup = optimizer.param_groups
    assert dense["tensors"] == [2, 1, 1, 1]
    assert dense["params"][0] is model.cell.W_x
    assert dense["params"][1] is model.cell.W_h
    assert lookup["lookup"] and lookup["params"][0] is model.embedding.weight


def test_tied_table_is_dense():
    model = Model()
    model.embedding = nn.Embedding(6, 4)
    model.head.weight = model.embedding.weight
    assert all(not group["lookup"] for group in build(model).param_groups)


def test_frozen_parameters_are_left_out():
    model = Model()
    model.cell.W_x.requires_grad_(False)
    model.embedding.requires_grad_(False)
    (group,) = build(model).param_groups
    assert group["tensors"] == [1, 1, 1, 1]


def test_wrong_stored_together_is_named():
    model = Model()
    model.cell.stored_together = (("W_x", "W_z"),)
    with pytest.raises(ValueError, match="stored_together names no parameter: W_z"):
        build(model)


def test_member_without_gradient_counts_as_zeros():
    together, alone = TwoTensors(3, 4), TwoTensors(3, 4)
    alone.load_state_dict(together.state_dict())
    optimizers = [build(together), build(alone)]
    for _ in range(7):
        gradient = torch.randn(3, 4)
        together.W_x.grad, alone.W_x.grad = gradient.clone(), gradient.clone()
        alone.W_h.grad = torch.zeros(4, 4)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(together.W_x, alone.W_x, rtol=0, atol=0)
    torch.testing.assert_close(together.W_h, alone.W_h, rtol=0, atol=0)
    assert not optimizers[0].state[together.b], "a tensor without any gradient takes no step"


def test_sparse_gradient_equals_dense():
    sparse, dense = nn.Embedding(5, 2, sparse=True), nn.Embedding(5, 2)
    dense.load_state_dict(sparse.state_dict())
    for _ in range(7):
        ids = torch.randint(5, (4,))
        for table in (sparse, dense):
            optimizer = build(table)
            optimizer.zero_grad()
            table(ids).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(sparse.weight, dense.weight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_round_trip_goes_on_bit_for_bit(name):
    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    whole = Model()
    pieces = copy.deepcopy(whole)
    settings = {} if name == "rectified-laprop" else {"clip_norm": 1.0, "weight_decay": 0.1}
    optimizer = build(whole, name, **settings)
    train(whole, optimizer, range(9))
    optimizer = build(pieces, name, **settings)
    train(pieces, optimizer, range(4))
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        assert all(value is None or isinstance(value, (torch.Tensor, int, float)) for value in state.values())
    resumed = build(pieces, name, **settings)
    resumed.load_state_dict(copy.deepcopy(saved))
    train(pieces, resumed, range(4, 9))
    for left, right in zip(whole.parameters(), pieces.parameters(), strict=True):
        assert torch.equal(left, right)


def test_sgd_clips_the_gradient_of_the_decayed_loss():
    model = nn.Linear(3, 2).double()
    optimizer = build(model, "sgd", learning_rate=0.2, weight_decay=0.5, clip_norm=0.7)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = [torch.randn_like(parameter) for parameter in before]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    whole = [gradient + 0.5 * value for gradient, value in zip(gradients, before, strict=True)]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in whole))
    assert norm > 0.7
    for parameter, value, gradient in zip(model.parameters(), before, whole, strict=True):
        torch.testing.assert_close(parameter.detach(), value - 0.2 * gradient * 0.7 / norm, rtol=1e-5, atol=1e-7)


def test_adamw_decays_outside_the_clip():
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = build(model, "adamw", learning_rate=0.1, weight_decay=0.5, clip_norm=1.0)
    model.weight.grad = torch.zeros(1, 2)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), torch.full((1, 2), 0.95))


def test_learning_rate_follows_the_rhn_schedule():
    words = OPTIMIZERS["sgd"].Settings(learning_rate=0.2, decay=1.02, decay_after=20)
    published = {1: 0.2, 20: 0.2, 50: 0.11041, 100: 0.04102, 200: 0.00566, 300: 0.00078, 500: 0.0000149}
    for epoch, rate in published.items():
        assert learning_rate(words, epoch) == pytest.approx(rate, abs=5e-6)
    characters = OPTIMIZERS["sgd"].Settings(learning_rate=0.2, decay=1.03, decay_after=5)
    for epoch, rate in {5: 0.2, 6: 0.2 / 1.03, 50: 0.05289, 100: 0.01206, 200: 0.00063}.items():
        assert learning_rate(characters, epoch) == pytest.approx(rate, abs=5e-6)
    optimizer = build(Model(), "sgd")
    set_learning_rate(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_loss(name):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(32, 4)
    target = x.sum(dim=1, keepdim=True)
    optimizer = build(model, name, learning_rate=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sgd", {"learning_rate": 0.0}, "learning_rate should be above 0 and finite, got 0"),
        ("sgd", {"learning_rate": math.nan}, "learning_rate should be above 0"),
        ("sgd", {"learning_rate": math.inf}, "learning_rate should be above 0 and finite"),
        ("sgd", {"nesterov": True}, "nesterov needs a momentum"),
        ("adam", {"beta1": 1.0}, "beta1 should be at least 0 and below 1"),
        ("adam", {"clip_norm": -1.0}, "clip_norm should be above 0"),
        ("rmsprop", {"weight_decay": -1.0}, "weight_decay should be at least 0"),
        ("rectified-laprop", {"clip_multiplier": 0.0}, "clip_multiplier should be above 0"),
        ("rectified-laprop", {"decay_after": -1}, "decay_after should be at least 0"),
    ],
)
def test_wrong_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        OPTIMIZERS[name].Settings(**settings)


def test_wrong_arguments_of_the_optimizer_are_named():
    parameter = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="add up to 1 parameters"):
        RectifiedLaProp([{"params": [parameter], "tensors": [2]}])
    for name, value in {"lr": -1.0, "betas": (1.0, 0.9), "eps": -1.0, "clip_multiplier": 0.0}.items():
        with pytest.raises(ValueError, match=name):
            RectifiedLaProp([parameter], **{name: value})


def test_closure_is_evaluated_with_gradients():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = RectifiedLaProp([parameter], clip_multiplier=None)

    def closure() -> float:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 1.0
    assert parameter < 1.0

"""Where every parameter starts: the laws, bounds and constants of the authors' codes, and the initial states."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ungated.cells import CELLS, GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
from ungated.cells.cell import Cell

M, N = 60, 40


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    """Inside the bounds, nearly touching both, with a uniform's first two moments."""
    values = values.detach().double().flatten()
    width = high - low
    slack = 10.0 / len(values)  # the chance of missing an edge by more is exp(-10)
    assert low - 1e-6 <= values.min() <= low + slack * width
    assert high - slack * width <= values.max() <= high + 1e-6
    spread = width / math.sqrt(12)
    assert abs(values.mean() - (low + high) / 2) < 5 * spread / math.sqrt(len(values))
    assert abs(values.var() / spread**2 - 1) < 5 / math.sqrt(len(values))


def assert_truncated_normal(values: Tensor, std: float) -> None:
    """Normal of nominal `std` cut at two of them, which leaves 0.8796 of it."""
    values = values.detach().double().flatten()
    assert 1.8 * std < values.abs().max() <= 2 * std * (1 + 1e-6)
    realised = 0.87962566 * std
    assert abs(values.mean()) < 5 * realised / math.sqrt(len(values))
    assert abs(values.std() / realised - 1) < 5 / math.sqrt(2 * len(values))
    # A uniform of the same spread would have 0.377 of its mass within half a nominal std; this has 0.4011.
    assert abs((values.abs() < std / 2).double().mean() - 0.4011) < 2.5 / math.sqrt(len(values))


def assert_constant(values: Tensor, constant: float) -> None:
    torch.testing.assert_close(values.detach(), torch.full_like(values, constant), rtol=1e-6, atol=0)


def test_rru() -> None:
    p, relu_layers = 30, 3
    cell = RRUCell(M, N, output_size=p, expansion=1.5, relu_layers=relu_layers)
    g = 150
    assert cell.W_x.shape == (M, g)
    assert cell.W_h.shape == (N, g)
    assert cell.W_c.shape == (g, N)
    assert cell.W_o.shape == (g, p)
    bound = math.sqrt(6 / (M + N + g))
    assert_uniform(cell.W_x, -bound, bound)
    assert_uniform(cell.W_h, -bound, bound)
    assert len(cell.W_k) == len(cell.b_k) == relu_layers - 1
    for W, b in zip(cell.W_k, cell.b_k, strict=True):
        bound = math.sqrt(6 / (2 * g))
        assert_uniform(W, -bound, bound)
        assert_constant(b, 0.0)
    bound = math.sqrt(6 / (g + N + p))
    assert_uniform(cell.W_c, -bound, bound)
    assert_uniform(cell.W_o, -bound, bound)
    for parameter in (cell.b_j, cell.b_c, cell.b_o, cell.Z):
        assert_constant(parameter, 0.0)
    assert cell.Z.shape == (N,)


def test_rru_carries_a_uniform_share_stored_at_one_tenth_of_its_logit() -> None:
    cell = RRUCell(1, 4000, expansion=0.001)
    assert cell.S.shape == (4000,)
    assert_uniform(torch.sigmoid(10.0 * cell.S), 0.01, 0.99)


def test_rru_residual_options() -> None:
    cell = RRUCell(M, N, residual=0.95)
    assert_constant(cell.S, 0.2944439)
    assert cell.S.requires_grad
    assert RRUCell(M, N, residual="one").S is None
    learned, one = (sum(p.numel() for p in RRUCell(M, N, residual=r).parameters()) for r in ("learned", "one"))
    assert learned - one == N


def test_rru_scalar_rezero_is_one_zero() -> None:
    cell, vector = RRUCell(M, N, rezero="scalar"), RRUCell(M, N)
    assert cell.Z.numel() == 1
    assert_constant(cell.Z, 0.0)
    scalar_count, vector_count = (sum(p.numel() for p in c.parameters()) for c in (cell, vector))
    assert vector_count - scalar_count == N - 1


@pytest.mark.parametrize(
    ("expansion", "m", "n", "g"), [(0.5, 2, 3, 2), (0.5, 3, 4, 4), (7.31994, 88, 338, 3118), (2.0, 1, 49, 100)]
)
def test_rru_middle_size_is_rounded_half_to_even(expansion: float, m: int, n: int, g: int) -> None:
    cell = RRUCell(m, n, expansion=expansion)
    assert cell.W_x.shape == (m, g)


@pytest.mark.parametrize("reset", ["before", "after"])
def test_gru(reset: str) -> None:
    cell = GRUCell(M, N, reset=reset)
    assert cell.W_xg.shape == (M, 2 * N)
    assert cell.W_hg.shape == (N, 2 * N)
    bound = math.sqrt(6 / (M + 3 * N))
    assert_uniform(cell.W_xg, -bound, bound)
    assert_uniform(cell.W_hg, -bound, bound)
    bound = math.sqrt(6 / (M + 2 * N))
    assert_uniform(cell.W_xc, -bound, bound)
    assert_uniform(cell.W_hc, -bound, bound)
    assert_constant(cell.b_g, 1.0)
    assert_constant(cell.b_c, 0.0)
    assert ("b_hc" in dict(cell.named_parameters())) == (reset == "after")
    if reset == "after":
        assert_constant(cell.b_hc, 0.0)
    assert_constant(GRUCell(M, N, reset=reset, gate_bias=-0.5).b_g, -0.5)


def test_lstm() -> None:
    cell = LSTMCell(M, N, forget_bias=3.0)
    bound = math.sqrt(6 / (M + 5 * N))
    assert_uniform(cell.W_x, -bound, bound)
    assert_uniform(cell.W_h, -bound, bound)
    assert_constant(cell.b, 0.0)  # the forget bias is a constant of the equation, not of the parameter
    assert cell.b.shape == (4 * N,)


def test_mogrifier() -> None:
    r = 25
    cell = MogrifierLSTMCell(M, N, rounds=5, rank=r)
    assert_truncated_normal(cell.W_x, math.sqrt(1.3 / M))
    assert_truncated_normal(cell.W_h, math.sqrt(1.3 / N))
    assert len(cell.A) == len(cell.B) == len(cell.beta) == 5
    for k, (A, B, beta) in enumerate(zip(cell.A, cell.B, cell.beta, strict=True)):
        source, target = (N, M) if k % 2 == 0 else (M, N)
        assert A.shape == (source, r)
        assert B.shape == (r, target)
        assert_truncated_normal(A, (source * r) ** -0.25)
        assert_truncated_normal(B, (source * r) ** -0.25)
        assert_constant(beta, 0.0)
        assert beta.shape == (target,)
    for name in "jofi":
        assert_constant(getattr(cell, f"b_{name}"), 0.0)


def test_mogrifier_rank_is_not_capped_by_the_input_size() -> None:
    assert MogrifierLSTMCell(1, 7, rounds=2, rank=50).A[0].shape == (7, 50)


@pytest.mark.parametrize("transform_bias", [-2.0, -4.0])
def test_rhn(transform_bias: float) -> None:
    cell = RHNCell(M, N, depth=3, transform_bias=transform_bias)
    assert cell.W_H.shape == cell.W_T.shape == (M, N)
    for tensor in (cell.W_H, cell.W_T, *cell.R_H, *cell.R_T):
        assert_uniform(tensor, -0.04, 0.04)
    assert_uniform(torch.cat(list(cell.b_H)), -0.04, 0.04)
    assert [len(cell.R_H), len(cell.R_T), len(cell.b_H), len(cell.b_T)] == [3] * 4
    for bias in cell.b_T:
        assert_constant(bias, transform_bias)
        assert bias.requires_grad
    assert_uniform(RHNCell(M, N, depth=1, init_scale=0.3).R_T[0], -0.3, 0.3)


@pytest.mark.parametrize("name", CELLS)
def test_parameters_named_as_stored_together_exist(name: str) -> None:
    cell = CELLS[name](3, 4)
    names = [parameter for group in cell.stored_together for parameter in group]
    assert len(set(names)) == len(names)
    assert set(names) <= set(dict(cell.named_parameters()))


@pytest.mark.parametrize("name", CELLS)
def test_initial_state(name: str) -> None:
    cell: Cell = CELLS[name](3, 16)
    state = cell.initial_state(5)
    parts = state if isinstance(state, tuple) else (state,)
    assert len(parts) == (2 if name in ("lstm", "mogrifier") else 1)
    expected = torch.zeros(5, 16)
    if name == "rru":
        expected[:, 0] = 1.0  # sqrt(16) / 4: root mean square 0.25
    for part in parts:
        torch.testing.assert_close(part, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CELLS)
def test_same_seed_same_parameters(name: str) -> None:
    def build(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(CELLS[name](5, 6).parameters())

    assert all(torch.equal(a, b) for a, b in zip(build(7), build(7), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(build(7), build(8), strict=True))

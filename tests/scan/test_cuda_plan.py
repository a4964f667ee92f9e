"""How scans are laid out on a GPU: a virtual grid in NumPy, all blocks' first phase, then all blocks' second."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ungated.cells import CELLS
from ungated.scan.cuda import gru, lstm, mogrifier, rhn, rru
from ungated.scan.cuda.plan import MODES, Device, Laid, Plan, Work, _candidates, block_terms, plan, teams_at_once

H200 = Device(132, 232_448, "sm_90")
A100 = Device(108, 166_912, "sm_80")
SMALL = Device(7, 30_000, "sm_80")

draws = hypothesis.settings(deadline=None, derandomize=True, max_examples=25)
SIZES = st.integers(1, 70) | st.integers(1, 3000)


def works_of(n: int, g: int, layers: int) -> list[Work]:
    return [
        rru._work(n, g, layers - 1, True, True, False),
        rru._work(n, g, layers - 1, True, False, False, backward=True),
        lstm._work(n, False, False),
        lstm._work(n, False, False, backward=True),
        gru._work(n, False, False, False),
        rhn._work(n, 3 * layers, True, False),
        rhn._work(n, layers, False, True, backward=True),
        gru._work(n, True, True, False, backward=True),
        mogrifier._work(g, n, 2 * layers - 2, 40, True, False),
        mogrifier._work(g, n, layers, 79, False, True, backward=True),
    ]


@draws
@given(SIZES, SIZES, st.integers(1, 3), st.integers(1, 130), st.sampled_from(MODES), st.data())
def test_everything_has_one_owner_and_fits(n: int, g: int, layers: int, B: int, mode: str, data: Any) -> None:
    work = data.draw(st.sampled_from(works_of(n, g, layers)))
    device = data.draw(st.sampled_from([H200, A100, SMALL]))
    for made in filter(None, _candidates(work, mode, B, device)):
        assert made.shared_bytes <= device.shared_bytes
        assert 1 <= made.ctas <= device.multiprocessors
        assert made.threads <= 1024
        assert teams_at_once(made, B, device) >= 1
        assert made.ctas > 1 or not made.streamed
        assert _apart(made)
        for laid in made.laid:
            assert laid.units * made.ctas >= laid.product.N
            assert laid.tiles * 16 >= laid.units * laid.product.gates
            assert laid.blocks * block_terms(mode) >= laid.product.K
            assert laid.warps % laid.wk == 0
            owners = np.zeros((laid.tiles, laid.blocks), dtype=int)
            for warp in range(laid.warps):
                owners[_of_warp(laid, warp)] += 1
            assert (owners == 1).all()


def test_real_sizes_have_a_plan_on_chip() -> None:
    for n, g, B in ((339, 3117, 16), (1383, 2942, 16), (115, 232, 64)):
        for backward in (False, True):
            made = plan(rru._work(n, g, 0, True, False, False, backward=backward), "BF16", B, H200)
            assert made is not None
            assert not made.streamed
    made = plan(rru._work(115, 232, 0, True, False, False), "BF16", 64, H200)
    assert made is not None
    assert made.ctas == 1


def test_what_fits_nowhere_has_no_plan() -> None:
    assert plan(lstm._work(3000, False, False), "BF16", 1, Device(1, 30_000, "sm_80")) is None


def test_no_number_of_a_plan_is_more_than_an_int_holds() -> None:
    made = plan(rru._work(20_000, 40_000, 1, True, False, False), "FP32", 8, H200)
    assert made is not None
    assert max(laid.scratch_at for laid in made.laid) >= 2**31
    assert max(map(int, re.findall(r"= (\d+);", made.constants))) < 2**31


@pytest.mark.parametrize("mode", ["BF16", "FP32"])
@pytest.mark.parametrize(("n", "g", "B"), [(1, 3, 1), (37, 51, 9), (130, 70, 35)])
def test_a_virtual_grid_takes_the_cell_s_step(n: int, g: int, B: int, mode: str) -> None:
    torch.manual_seed(0)
    cell = CELLS["rru"](1, n, expansion=g / (1 + n))  # type: ignore[call-arg]
    with torch.no_grad():
        cell.Z.normal_()  # type: ignore[union-attr, operator]
    cell.double()
    drive, h = torch.randn(B, g, dtype=torch.float64), torch.randn(B, n, dtype=torch.float64)
    with torch.no_grad():
        want = cell.step(drive, h)[1].numpy()
    W_h, W_c, b_c, Z, S = (p.detach().numpy() for p in (cell.W_h, cell.W_c, cell.b_c, cell.Z, cell.S))
    found = 0
    for made in filter(None, _candidates(rru._work(n, g, 0, True, False, False), mode, B, H200)):
        found += 1
        to_middle, _, to_state = made.laid
        for first in range(0, B, made.rows):
            rows = slice(first, min(first + made.rows, B))
            a = drive.numpy()[rows] + _phase(made, to_middle, h.numpy()[rows], W_h)
            r = 1.0 / np.sqrt(np.mean(a * a, axis=1, keepdims=True) + 1e-6)
            after = _phase(made, to_state, np.maximum(a, 0.0), W_c * Z)
            new = h.numpy()[rows] / (1.0 + np.exp(-10.0 * S)) + (r * after + Z * b_c)
            np.testing.assert_allclose(new, want[rows], rtol=1e-9, atol=1e-9)
    assert found > 5


@pytest.mark.parametrize("mode", ["BF16", "FP32"])
@pytest.mark.parametrize(("m", "n", "rounds", "B"), [(1, 3, 2, 1), (51, 37, 5, 9)])
def test_a_virtual_grid_takes_the_mogrifier_s_step(m: int, n: int, rounds: int, B: int, mode: str) -> None:
    generator = torch.manual_seed(0)
    cell: Any = CELLS["mogrifier"](m, n, rounds=rounds, rank=5).double()  # type: ignore[call-arg]
    x, h, c = (torch.randn(B, size, generator=generator, dtype=torch.float64) for size in (m, n, n))
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        want = cell.step(x, (h, c))[1]
    A, factors, beta = ([p.detach().numpy() for p in given] for given in (cell.A, cell.B, cell.beta))
    found = set()
    for made in filter(None, _candidates(mogrifier._work(m, n, rounds, 5, True, False), mode, B, H200)):
        apart = made.work.other is not None
        found.add((apart, made.rows, made.ctas, made.warps))
        of = {laid.product.name: laid for laid in made.laid}
        side = of["Step"].product.K - n
        W = np.zeros((side + n, 4 * n))
        W[:m], W[side:] = cell.W_x.detach().numpy(), cell.W_h.detach().numpy()
        by_unit = W.reshape(side + n, 4, n).transpose(0, 2, 1).reshape(side + n, 4 * n)
        for first in range(0, B, made.rows):
            rows = slice(first, min(first + made.rows, B))
            pair = [x.numpy()[rows], h.numpy()[rows]]
            for k in range(rounds):
                w, whole = pair[1 - k % 2], factors[k] if apart else A[k] @ factors[k]
                if apart:
                    w = _phase(made, of["FromX" if k % 2 else "FromH"], w, A[k])
                e = _sigmoid(beta[k] + _phase(made, of["ToH" if k % 2 else "ToX"], w, whole))
                pair[k % 2] = pair[k % 2] * 2.0 * e
            beside = np.zeros((len(pair[0]), side + n))
            beside[:, :m], beside[:, side:] = pair
            sums = _phase(made, of["Step"], beside, by_unit)
            b = [p.detach().numpy() for p in (cell.b_j, cell.b_o, cell.b_f, cell.b_i)]
            j, o, f, i = (sums[:, gate::4] + b[gate] for gate in range(4))
            f = _sigmoid(f)
            new_c = f * c.numpy()[rows] + np.minimum(1.0 - f, _sigmoid(i)) * np.tanh(j)
            new_h = _sigmoid(o) * np.tanh(new_c)
            np.testing.assert_allclose(new_h, want[0].numpy()[rows], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(new_c, want[1].numpy()[rows], rtol=1e-9, atol=1e-9)
    assert {apart for apart, *_ in found} == {False, True}
    assert len(found) > 8


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _phase(made: Plan, laid: Laid, exchanged: np.ndarray, W: np.ndarray) -> np.ndarray:
    """All blocks of a team, warp by warp, over what is laid out for each in tiles and blocks of terms.

    The columns of W, and of the result, are unit by unit, the gates of each side by side.
    """
    rows, K, terms, gates = len(exchanged), laid.product.K, block_terms(made.mode), laid.product.gates
    x = np.zeros((rows, laid.blocks * terms))
    x[:, :K] = exchanged
    result = np.full((rows, laid.product.N * gates), np.nan)
    for rank in range(made.ctas):
        columns = slice(*(min(edge * laid.units, laid.product.N) * gates for edge in (rank, rank + 1)))
        count = columns.stop - columns.start
        slab = np.zeros((laid.blocks * terms, laid.tiles * 16))
        slab[:K, :count] = W[:, columns]
        partial = np.zeros((laid.wk, rows, laid.stride))
        for warp in range(laid.warps):
            tiles, blocks = _of_warp(laid, warp)
            across, along = slice(tiles.start * 16, tiles.stop * 16), slice(blocks.start * terms, blocks.stop * terms)
            partial[warp % laid.wk][:, across] = x[:, along] @ slab[along, across]
        result[:, columns] = partial.sum(0)[:, :count]
    return result


def _of_warp(laid: Laid, warp: int) -> tuple[slice, slice]:
    """The tiles and the blocks of terms that a warp has, as kernels/product.h divides them."""
    part, tile = warp % laid.wk, warp // laid.wk * laid.tiles_of_warp
    block = part * laid.blocks_of_warp
    tiles = slice(min(tile, laid.tiles), min(tile + laid.tiles_of_warp, laid.tiles))
    return tiles, slice(min(block, laid.blocks), min(block + laid.blocks_of_warp, laid.blocks))


def _apart(made: Plan) -> bool:
    """Whether the resident weights follow each other and all else, none over another."""
    slabs = sorted(
        (laid.slab_at, laid.slab_at + laid.resident * laid.slab_bytes) for laid in made.laid if laid.resident
    )
    others = max(at for name, at in made.places.items() if name.endswith("_AT") and name != "ROW_PARTS_AT")
    ends_before = all(before[1] <= after[0] for before, after in pairwise(slabs))
    return ends_before and (not slabs or (others <= slabs[0][0] and slabs[-1][1] <= made.shared_bytes))

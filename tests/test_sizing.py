"""Published parameter budgets give the published models, to the last parameter."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from ungated import CELLS, RNN, Cell, count_parameters, size_for

MILLION = 1_000_000


class Sized(nn.Module):
    """A whole model as the papers count it: embedding, layers, output matrix on the output or on the state."""

    def __init__(self, rnn: RNN, embedding: tuple[int, int] | None, head_input: int, classes: int) -> None:
        super().__init__()
        self.embedding = None if embedding is None else nn.Embedding(*embedding)
        self.rnn = rnn
        self.head = nn.Linear(head_input, classes)


@dataclass(frozen=True)
class Setting:
    """A task of Zakovskis et al. 2021 as far as it matters for sizes."""

    layers: int
    width: int  # of the input of layer 1
    classes: int
    vocabulary: int | None = None
    head_reads_state: bool = False

    def model(self, cell: str, n: int, options: dict[str, Any]) -> Sized:
        rnn = RNN(CELLS[cell], self.width, n, self.layers, **options)
        embedding = None if self.vocabulary is None else (self.vocabulary, self.width)
        return Sized(rnn, embedding, n if self.head_reads_state else rnn.output_size, self.classes)


MUSIC = Setting(1, 88, 88)
WORD_PTB = Setting(2, 64, 9650, 9650)
CHAR_PTB = Setting(2, 16, 51, 51)
ENWIK8 = Setting(2, 32, 207, 207)
TEXT8 = Setting(2, 32, 29, 29)
IMDB = Setting(2, 64, 2, 10_000, head_reads_state=True)
IMDB_AS_CODED = Setting(2, 64, 2, 24_902, head_reads_state=True)
MNIST = Setting(2, 1, 10, head_reads_state=True)


def rru(q: float, p: int, R: int = 1) -> dict[str, Any]:
    return {"expansion": q, "output_size": p, "relu_layers": R}


def mogrifier(K: int, r: int) -> dict[str, Any]:
    return {"rounds": K, "rank": r}


# Table 4: budgets printed to 0.1 M. setting, cell, options, budget in M, n, total, range of n within the rounding.
TUNED = [
    (MUSIC, "rru", rru(1.76958, 64), 6.9, 1313, 6_898_864, (1308, 1318)),
    (MUSIC, "gru", {}, 1.8, 717, 1_796_890, (706, 728)),
    (MUSIC, "lstm", {}, 1.3, 517, 1_298_792, (506, 528)),
    (MUSIC, "mogrifier", mogrifier(6, 58), 1.3, 472, 1_297_352, (461, 483)),
    (MUSIC, "rru", rru(7.31994, 64), 2.6, 338, 2_591_620, (334, 342)),
    (MUSIC, "gru", {}, 3.4, 1007, 3_399_720, (999, 1014)),
    (MUSIC, "mogrifier", mogrifier(5, 48), 6.0, 1139, 5_992_110, (1134, 1144)),
    (MUSIC, "rru", rru(6.85699, 64), 8.6, 709, 8_593_426, (707, 711)),
    (MUSIC, "gru", {}, 1.9, 738, 1_896_010, (728, 749)),
    (MUSIC, "lstm", {}, 1.8, 617, 1_796_792, (608, 626)),
    (MUSIC, "mogrifier", mogrifier(5, 76), 10.3, 1502, 10_298_460, (1498, 1506)),
    (MUSIC, "rru", rru(3.68371, 64), 5.9, 812, 5_898_975, (808, 815)),
    (MUSIC, "gru", {}, 2.4, 837, 2_398_930, (827, 846)),
    (MUSIC, "lstm", {}, 11.9, 1670, 11_897_168, (1666, 1673)),
    (MUSIC, "mogrifier", mogrifier(5, 63), 2.9, 757, 2_896_345, (750, 764)),
    (WORD_PTB, "rru", rru(6.86655, 128), 25.9, 830, 25_853_279, (829, 831)),
    (WORD_PTB, "gru", {}, 10.0, 610, 9_983_430, (608, 613)),
    (WORD_PTB, "lstm", {}, 14.2, 727, 14_177_076, (726, 729)),
    (WORD_PTB, "mogrifier", mogrifier(5, 74), 24.2, 1014, 24_174_908, (1013, 1016)),
]

# Tables 5 and 6, the character model of section A.1, the dropout sweep of section A.3: budgets exact.
FIXED = [
    (CHAR_PTB, "rru", rru(4.0, 128, 2), 24, 628, 23_981_659),
    (CHAR_PTB, "gru", {}, 24, 1627, 23_995_863),
    (CHAR_PTB, "lstm", {}, 24, 1409, 23_997_546),
    (CHAR_PTB, "mogrifier", mogrifier(4, 24), 24, 1396, 23_970_359),
    (ENWIK8, "rru", rru(4.0, 128, 2), 48, 914, 47_954_555),
    (ENWIK8, "gru", {}, 48, 2292, 47_994_435),
    (ENWIK8, "lstm", {}, 48, 1985, 47_970_386),
    (ENWIK8, "mogrifier", mogrifier(6, 79), 48, 1926, 47_952_531),
    (TEXT8, "rru", rru(4.0, 128, 2), 48, 914, 47_925_897),
    (TEXT8, "gru", {}, 48, 2302, 47_995_355),
    (TEXT8, "lstm", {}, 48, 1993, 47_994_390),
    (TEXT8, "mogrifier", mogrifier(6, 79), 48, 1934, 47_987_157),
    (IMDB, "rru", rru(2.0, 64), 20, 1490, 19_977_594),
    (IMDB, "gru", {}, 20, 1455, 19_984_227),
    (IMDB, "lstm", {}, 20, 1259, 19_995_868),
    (IMDB, "mogrifier", mogrifier(5, 40), 20, 1233, 19_972_871),
    (IMDB, "rru", rru(2.0, 64, 2), 20, 1035, 19_982_018),
    (IMDB, "rru", rru(2.0, 64), 2, 347, 1_995_918),
    (IMDB, "gru", {}, 2, 377, 1_994_563),
    (IMDB, "lstm", {}, 2, 325, 1_993_952),
    (IMDB, "mogrifier", mogrifier(5, 40), 2, 300, 1_994_894),
    (IMDB, "rru", rru(2.0, 64, 2), 2, 227, 1_999_170),
    (IMDB_AS_CODED, "rru", rru(2.0, 64), 20, 1452, 19_997_586),
    (IMDB_AS_CODED, "gru", {}, 20, 1419, 19_999_579),
    (IMDB_AS_CODED, "lstm", {}, 20, 1227, 19_986_460),
    (IMDB_AS_CODED, "mogrifier", mogrifier(5, 40), 20, 1202, 19_993_716),
    (IMDB_AS_CODED, "rru", rru(2.0, 64, 2), 20, 1008, 19_997_442),
    (IMDB_AS_CODED, "rru", rru(2.0, 64), 2, 160, 1_997_442),
    (IMDB_AS_CODED, "gru", {}, 2, 201, 1_997_539),
    (IMDB_AS_CODED, "lstm", {}, 2, 173, 1_998_896),
    (IMDB_AS_CODED, "mogrifier", mogrifier(5, 40), 2, 148, 1_998_774),
    (IMDB_AS_CODED, "rru", rru(2.0, 64, 2), 2, 94, 1_995_298),
    (MNIST, "rru", rru(2.0, 64), 0.07, 49, 68_624),
    (MNIST, "gru", {}, 0.07, 87, 69_784),
    (MNIST, "lstm", {}, 0.07, 75, 69_160),
    (MNIST, "mogrifier", mogrifier(6, 50), 0.07, 46, 68_531),
    (MNIST, "mogrifier", mogrifier(5, 40), 0.07, 54, 69_171),
    (MUSIC, "rru", rru(2.0, 64), 5, 1034, 4_992_810),
    (MUSIC, "gru", {}, 5, 1233, 4_998_670),
    (MUSIC, "lstm", {}, 5, 1063, 4_991_936),
    (MUSIC, "mogrifier", mogrifier(5, 40), 5, 1038, 4_998_276),
]

# Section A.2: ten budgets of each robustness grid.
NOTTINGHAM_GRID = (1.0, 2.6, 4.1, 5.7, 7.2, 8.8, 10.3, 11.9, 13.4, 15.0)
PTB_GRID = (10.0, 12.2, 14.4, 16.7, 18.9, 21.1, 23.3, 25.6, 27.8, 30.0)
ROBUSTNESS = [
    (MUSIC, "rru", rru(2.0, 64), NOTTINGHAM_GRID, (416, 722, 929, 1110, 1258, 1400, 1521, 1641, 1747, 1853)),
    (MUSIC, "gru", {}, NOTTINGHAM_GRID, (521, 873, 1111, 1320, 1491, 1654, 1794, 1933, 2055, 2177)),
    (MUSIC, "lstm", {}, NOTTINGHAM_GRID, (447, 752, 958, 1139, 1287, 1428, 1550, 1670, 1775, 1881)),
    (MUSIC, "mogrifier", mogrifier(5, 40), NOTTINGHAM_GRID, (421, 726, 932, 1113, 1261, 1403, 1524, 1644, 1750, 1856)),
    (WORD_PTB, "rru", rru(2.0, 128), PTB_GRID, (903, 1031, 1147, 1257, 1354, 1445, 1532, 1617, 1695, 1770)),
    (WORD_PTB, "gru", {}, PTB_GRID, (610, 711, 805, 896, 979, 1057, 1131, 1206, 1274, 1340)),
    (WORD_PTB, "lstm", {}, PTB_GRID, (562, 652, 735, 815, 888, 956, 1022, 1087, 1147, 1205)),
    (WORD_PTB, "mogrifier", mogrifier(5, 40), PTB_GRID, (547, 636, 718, 798, 870, 938, 1004, 1068, 1128, 1186)),
]

# Zilly et al. 2017: vocabulary, tied, depth, n, rule "embedding as wide as a small vocabulary", exact count.
RHN_ROWS = [
    (10_000, True, 10, 830, True, 23_482_400),
    (10_000, True, 9, 860, True, 23_417_480),
    (10_000, False, 8, 890, True, 32_082_040),
    (10_000, True, 5, 1000, True, 22_020_000),
    (205, False, 5, 1500, False, 27_630_205),
    (205, False, 5, 1500, True, 23_479_730),
    (205, False, 10, 1000, True, 20_677_230),
    (205, False, 10, 1500, True, 45_994_730),
    (27, False, 10, 1000, True, 20_101_756),
    (27, False, 10, 1500, True, 45_152_256),
    (10_000, True, 10, 517, True, 11_070_698),
    (10_000, True, 10, 726, True, 18_880_192),
    (10_000, True, 4, 1000, True, 20_018_000),
    (205, False, 10, 1500, False, 50_145_205),
]
RHN_BUDGETS = [
    (205, False, 48_000_000, 1532, 47_955_530),
    (27, False, 48_000_000, 1546, 47_959_222),
    (10_000, True, 25_900_000, 880, 25_864_400),
]


def rhn_model(vocabulary: int, tied: bool, depth: int, n: int, narrow: bool = True) -> Sized:
    m = vocabulary if narrow and not tied and vocabulary < n else n
    model = Sized(RNN(CELLS["rhn"], m, n, depth=depth), (vocabulary, m), n, vocabulary)
    if tied:
        model.head.weight = model.embedding.weight
    return model


def assert_largest(setting: Setting, cell: str, options: dict[str, Any], budget: float, n: int) -> None:
    assert size_for(lambda size: setting.model(cell, size, options), round(budget * MILLION)) == n


def count(setting: Setting, cell: str, options: dict[str, Any], n: int) -> int:
    with torch.device("meta"):
        return count_parameters(setting.model(cell, n, options))


@pytest.mark.parametrize("row", TUNED, ids=lambda row: f"{row[1]}-{row[3]}M")
def test_tuned_models(row: tuple[Any, ...]) -> None:
    setting, cell, options, budget, n, total, (low, high) = row
    assert_largest(setting, cell, options, budget, n)
    assert count(setting, cell, options, n) == total
    assert_largest(setting, cell, options, budget - 0.05, low)
    assert_largest(setting, cell, options, budget + 0.05 - 1e-6, high)


@pytest.mark.parametrize("row", FIXED, ids=lambda row: f"{row[1]}-{row[5]}")
def test_fixed_budgets(row: tuple[Any, ...]) -> None:
    setting, cell, options, budget, n, total = row
    assert_largest(setting, cell, options, budget, n)
    assert count(setting, cell, options, n) == total


@pytest.mark.parametrize("row", ROBUSTNESS, ids=lambda row: f"{row[1]}-{row[3][0]}M")
def test_robustness_grids(row: tuple[Any, ...]) -> None:
    setting, cell, options, budgets, sizes = row
    for budget, n in zip(budgets, sizes, strict=True):
        assert_largest(setting, cell, options, budget, n)


@pytest.mark.parametrize("row", RHN_ROWS, ids=lambda row: f"{row[5]}")
def test_recurrent_highway_networks(row: tuple[Any, ...]) -> None:
    vocabulary, tied, depth, n, narrow, total = row
    with torch.device("meta"):
        assert count_parameters(rhn_model(vocabulary, tied, depth, n, narrow)) == total


@pytest.mark.parametrize("row", RHN_BUDGETS, ids=lambda row: f"{row[4]}")
def test_recurrent_highway_networks_within_a_budget(row: tuple[Any, ...]) -> None:
    vocabulary, tied, budget, n, total = row
    assert size_for(lambda size: rhn_model(vocabulary, tied, 10, size), budget) == n
    with torch.device("meta"):
        assert count_parameters(rhn_model(vocabulary, tied, 10, n)) == total


def closed_form(cell: str, m: int, n: int, p: int, q: float, R: int, K: int, r: int, depth: int) -> int:
    g = round(q * (m + n))
    return {
        "rru": (m + n) * g + g + (R - 1) * (g * g + g) + g * (n + p) + (n + p) + 2 * n,
        "gru": 3 * n * (m + n) + 3 * n,
        "lstm": 4 * n * (m + n) + 4 * n,
        "mogrifier": 4 * n * (m + n) + 4 * n + K * r * (m + n) + math.ceil(K / 2) * m + K // 2 * n,
        "rhn": 2 * (n * m + depth * n * n + depth * n),
    }[cell]


@pytest.mark.parametrize("cell", CELLS)
def test_closed_forms(cell: str) -> None:
    draw = random.Random(0)
    for _ in range(40):
        m, n, p, R, K, r, depth = (draw.randint(1, high) for high in (90, 90, 90, 4, 7, 60, 6))
        q = draw.uniform(0.5, 8.0)
        options = {"rru": rru(q, p, R), "mogrifier": mogrifier(K, r), "rhn": {"depth": depth}}.get(cell, {})
        with torch.device("meta"):
            layer = RNN(CELLS[cell], m, n, **options)
        assert count_parameters(layer) == closed_form(cell, m, n, p, q, R, K, r, depth)


def test_middle_widths_of_the_worked_examples() -> None:
    for m, n, q, g in ((88, 1313, 1.76958, 2479), (88, 338, 7.31994, 3118), (64, 830, 6.86655, 6139)):
        with torch.device("meta"):
            assert CELLS["rru"](m, n, expansion=q, output_size=64).b_j.numel() == g


def test_count_leaves_out_frozen_parameters_and_counts_tied_ones_once() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 3, bias=False))
    model[2].weight = model[1].weight
    assert count_parameters(model) == 3 * 4 + 4 + 4 * 3 + 3
    model[0].bias.requires_grad_(False)
    assert count_parameters(model) == 3 * 4 + 4 * 3 + 3


@pytest.mark.parametrize("cell", CELLS)
def test_search_draws_no_random_number_and_allocates_nothing(cell: str) -> None:
    before, python_before = torch.get_rng_state(), random.getstate()
    sizes: list[int] = []

    def make(n: int) -> nn.Module:
        layer = RNN(CELLS[cell], 100, n, 2, bidirectional=True)
        assert all(parameter.is_meta for parameter in layer.parameters())
        sizes.append(n)
        return layer

    n = size_for(make, 10**12)  # four terabytes, were it real
    assert n > 10_000
    assert len(sizes) <= 2 * math.log2(n) + 3
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python_before


class Own(Cell):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.W = nn.Parameter(torch.randn(hidden_size, input_size + hidden_size))

    def step(self, drive: torch.Tensor, state: torch.Tensor, noise: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        state = torch.tanh(torch.cat([drive, state], dim=1) @ self.W.T)
        return state, state


def test_a_user_s_own_cell() -> None:
    before = torch.get_rng_state()
    assert size_for(lambda n: RNN(Own, 3, n), 100) == 8  # 8 * (3 + 8) = 88, 9 * (3 + 9) = 108
    assert torch.equal(torch.get_rng_state(), before)


def test_edges_of_the_budget() -> None:
    def make(n: int) -> nn.Module:
        return nn.Linear(n, 1)

    assert [size_for(make, budget) for budget in (2, 3, 4, 100, 101)] == [1, 2, 3, 99, 100]
    with pytest.raises(ValueError, match=r"1 parameters is too small: hidden size 1 already takes 2"):
        size_for(make, 1)
    for wrong, error in ((0, ValueError), (-5, ValueError), (2.5e6, TypeError), (True, TypeError)):
        with pytest.raises(error, match="parameters should be"):
            size_for(make, wrong)


def test_the_default_device_is_what_it_was() -> None:
    size_for(lambda n: nn.Linear(n, 1), 10)
    assert not torch.empty(1).is_meta
    with pytest.raises(RuntimeError, match="no model"):
        size_for(lambda n: (_ for _ in ()).throw(RuntimeError("no model")), 10)
    assert not torch.empty(1).is_meta

"""Options of the cells that are out of range, of another type or misspelt are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from ungated import CELLS

NAN, INF = float("nan"), float("inf")

REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("rru", {"output_size": 0}, ValueError, "output_size should be at least 1, got 0"),
    ("rru", {"output_size": 4.0}, TypeError, "output_size should be an int, got float"),
    ("rru", {"expansion": 0.0}, ValueError, "expansion"),
    ("rru", {"expansion": -1.0}, ValueError, "expansion"),
    ("rru", {"expansion": 0.05}, ValueError, "expansion should give a middle size of at least 1"),
    ("rru", {"expansion": NAN}, ValueError, "expansion"),
    ("rru", {"expansion": INF}, ValueError, "expansion"),
    ("rru", {"expansion": "2"}, TypeError, "expansion"),
    ("rru", {"expansion": True}, TypeError, "expansion"),
    ("rru", {"relu_layers": 0}, ValueError, "relu_layers should be at least 1, got 0"),
    ("rru", {"relu_layers": True}, TypeError, "relu_layers should be an int, got bool"),
    ("rru", {"rezero": "scaler"}, ValueError, """rezero should be "vector" or "scalar", got 'scaler'"""),
    ("rru", {"residual": "two"}, ValueError, "residual should be .*got 'two'"),
    ("rru", {"residual": 0.0}, ValueError, r"residual should be .*got 0\.0"),
    ("rru", {"residual": 1.0}, ValueError, r"residual should be .*got 1\.0"),
    ("rru", {"residual": NAN}, ValueError, "residual should be .*got nan"),
    ("rru", {"residual": None}, (TypeError, ValueError), "residual should be .*got None"),
    ("rru", {"recurrent_dropout": 1.0}, ValueError, "recurrent_dropout"),
    ("gru", {"reset": "middle"}, ValueError, """reset should be "before" or "after" .*got 'middle'"""),
    ("gru", {"gate_bias": "1"}, TypeError, "gate_bias"),
    ("lstm", {"forget_bias": "1"}, TypeError, "forget_bias"),
    ("lstm", {"forget_bias": None}, TypeError, "forget_bias"),
    ("mogrifier", {"rounds": -1}, ValueError, "rounds should be at least"),
    ("mogrifier", {"rounds": 5.0}, TypeError, "rounds should be an int, got float"),
    ("mogrifier", {"rounds": False}, TypeError, "rounds should be an int, got bool"),
    ("mogrifier", {"rank": 0}, ValueError, "rank should be at least 1, got 0"),
    ("rhn", {"depth": 0}, ValueError, "depth should be at least 1, got 0"),
    ("rhn", {"depth": 2.0}, TypeError, "depth should be an int, got float"),
    ("rhn", {"init_scale": -0.1}, ValueError, "init_scale"),
    ("rhn", {"init_scale": "0.04"}, TypeError, "init_scale"),
    ("rhn", {"transform_bias": "-2"}, TypeError, "transform_bias"),
    ("rhn", {"input_dropout": 1.0}, ValueError, "input_dropout"),
    ("rhn", {"state_dropout": -0.5}, ValueError, "state_dropout"),
]


@pytest.mark.parametrize(("name", "options", "error", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CELLS[name](3, 4, **options)


@pytest.mark.parametrize("name", CELLS)
def test_misspelt(name: str) -> None:
    with pytest.raises(TypeError, match="recurrent_dropuot"):
        CELLS[name](3, 4, recurrent_dropuot=0.1)


@pytest.mark.parametrize("name", CELLS)
def test_options_are_keyword_only(name: str) -> None:
    with pytest.raises(TypeError, match="positional"):
        CELLS[name](3, 4, 5)


def test_whole_numbers_will_do_for_real_ones() -> None:
    assert CELLS["rru"](3, 4, expansion=2).middle_size == 14
    CELLS["lstm"](3, 4, forget_bias=-1)
    CELLS["gru"](3, 4, gate_bias=0)
    CELLS["rhn"](3, 4, transform_bias=-4, init_scale=1)
    CELLS["rru"](3, 4, recurrent_dropout=0)

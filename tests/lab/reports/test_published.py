"""What the papers print, as we keep it: spot checks against the papers, and against what our recipes say of them."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import pytest

from ungated.cells import CELLS
from ungated.lab.data import DATASETS
from ungated.lab.reports.metrics import METRICS
from ungated.lab.reports.published import names, published


@pytest.mark.parametrize("name", names())
def test_every_table_says_where_it_comes_from(name: str) -> None:
    table = published(name)
    assert table.rows
    assert table.title
    assert "arXiv" in table.source or "README" in table.source
    assert table.protocol in ("paper", "standard")
    for row in table.rows:
        assert row.get("dataset", "jsb") in DATASETS
        assert row.get("cell", "rru") in CELLS
        assert row.get("metric", "nll") in METRICS


@pytest.mark.parametrize(
    ("name", "column", "where", "value"),
    [
        ("table-1", "value", {"dataset": "jsb", "cell": "rru"}, 7.72),
        ("table-1", "value", {"dataset": "pmnist", "cell": "gru"}, 0.9868),
        ("table-1", "value", {"dataset": "ptb-word", "cell": "lstm"}, 140.35),
        ("table-1", "value", {"dataset": "enwik8", "cell": "mogrifier"}, 1.36),
        ("table-2", "value", {"dataset": "ptb-char", "variant": "S = 1"}, 2.25),
        ("table-2", "value", {"dataset": "smnist", "variant": "ReLU over c and o"}, 0.8638),
        ("table-2", "value", {"dataset": "ptb-word", "variant": "RRU"}, 102.70),
        ("dropout", "dropout", {"cell": "lstm"}, 0.4),
        ("rhn-depth", "test", {"depth": 10.0, "tied": True}, 66.0),
        ("rhn-depth", "valid", {"depth": 1.0, "tied": False}, 92.4),
        ("rhn-ptb", "test", {"network": "Variational RHN, tied weights, depth 10"}, 65.4),
        ("rhn-enwik8", "test", {"network": "Large RHN, depth 10"}, 1.27),
        ("rhn-text8", "test", {"network": "BN LSTM"}, 1.36),
        ("table-1", "value", {"dataset": "jsb", "cell": "rhn"}, None),
    ],
)
def test_values(name: str, column: str, where: dict[str, object], value: float | None) -> None:
    assert published(name).value(column, **where) == value


def recipe(name: str) -> dict[str, Any]:
    """A recipe's file, unresolved: loading them all takes seconds."""
    return tomllib.loads((resources.files("ungated.lab") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"))


def test_the_recipes_say_the_same() -> None:
    for row in published("table-1").rows:
        assert recipe(f"{row['dataset']}/{row['cell']}")["published"]["value"] == pytest.approx(row["value"])
    for row in published("rhn-depth").rows:
        said = recipe(f"rhn-depth-{row['depth']:.0f}{'-wt' if row['tied'] else ''}")
        assert (said["published"]["value"], said["published"]["valid"]) == (row["test"], row["valid"])
        assert said["model"]["hidden_size"] == row["hidden_size"]


@pytest.mark.parametrize(
    ("dataset", "cell", "variant", "best", "at", "failed"),
    [
        ("nottingham", "rru", "standard", 2.961, (8e-4, 2_600_000), 0),
        ("nottingham", "gru", "standard", 3.267, (22e-4, 11_900_000), 0),
        ("nottingham", "mogrifier", "standard", 3.275, (1e-2, 2_600_000), 0),
        ("nottingham", "rru", "no normalization", 2.948, (13e-4, 5_700_000), 9),
        ("ptb-word", "rru", "standard", 104.5, (6e-3, 12_200_000), 0),
        ("ptb-word", "lstm", "standard", 142.4, (13e-4, 10_000_000), 0),
    ],
)
def test_heat_maps(dataset: str, cell: str, variant: str, best: float, at: tuple[float, float], failed: int) -> None:
    rows = published("heat-maps").where(dataset=dataset, cell=cell, variant=variant)
    assert len(rows) == 100
    working = [row for row in rows if row["value"] is not None]
    found = min(working, key=lambda row: row["value"])
    assert found["value"] == best
    assert (found["learning_rate"], found["parameters"]) == at
    assert len(rows) - len(working) == failed


def test_two_rows_are_no_value() -> None:
    with pytest.raises(ValueError, match="rows"):
        published("table-1").value(dataset="jsb")
    with pytest.raises(KeyError):
        published("table-9")

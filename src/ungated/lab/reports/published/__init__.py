"""What the papers published: tables and maps as CSV files beside this one, each with its source in sources.toml.

published("table-1").value(dataset="jsb", cell="rru")      7.72, in the units of reports/metrics.py
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

_TEXT = {"dataset", "cell", "variant", "metric", "tuned", "network", "size"}


@dataclass(frozen=True)
class Published:
    """One published table. rows: a mapping each, by column; numbers are float, what is not given is None.

    source: where it was published. protocol: how it was measured. note: what has to be known to read it.
    """

    name: str
    title: str
    source: str
    protocol: str
    note: str
    rows: Sequence[Mapping[str, Any]]

    def where(self, **equal: object) -> list[Mapping[str, Any]]:
        """The rows whose columns have these values."""
        return [row for row in self.rows if all(row[column] == value for column, value in equal.items())]

    def value(self, column: str = "value", **equal: object) -> float | None:
        """The one number of the row with these values; None where the table has no such row or leaves it empty."""
        found = self.where(**equal)
        if len(found) > 1:
            raise ValueError(f"{self.name} has {len(found)} rows with {equal}")
        return found[0][column] if found else None


@cache
def names() -> tuple[str, ...]:
    """Every published table, in the order of sources.toml."""
    return tuple(_sources())


@cache
def published(name: str) -> Published:
    """The table of that name; KeyError for an unknown one."""
    about = _sources()[name]
    rows = [
        {column: _entry(column, text) for column, text in row.items()}
        for row in csv.DictReader(io.StringIO(_file(f"{name}.csv")))
    ]
    return Published(name, about["title"], about["source"], about["protocol"], about["note"], rows)


def _entry(column: str, text: str) -> str | float | bool | None:
    if column in _TEXT:
        return text
    if column == "tied":
        return text == "true"
    return float(text) if text else None


@cache
def _sources() -> dict[str, dict[str, str]]:
    return tomllib.loads(_file("sources.toml"))


def _file(name: str) -> str:
    return (resources.files("ungated.lab.reports.published") / name).read_text(encoding="utf-8")

"""The space of a search: for each name a range or a few choices, as a study's file has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ungated.lab.errors import UsageError
from ungated.lab.training.settings import hint, plain

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str
_WORDS = ("low", "high", "log", "round", "choices", "cells")


@dataclass(frozen=True)
class Dimension:
    """A range [low, high], searched evenly or in its logarithm and perhaps rounded to an integer; or choices.

    cells: the cells that have it; none named is all.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    round: bool = False
    choices: tuple[Value, ...] = ()
    cells: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, table: Any, where: str) -> Dimension:
        """Read `{ low = 1e-4, high = 1e-2, log = true }` or `{ choices = [5, 6] }`; UsageError otherwise."""
        if not isinstance(table, Mapping):
            raise UsageError(f"{where} should be a range, as {{ low = 0.0, high = 0.8 }}, or {{ choices = [...] }}")
        for word in table:
            if word not in _WORDS:
                raise UsageError(f'{where} has an unknown entry "{plain(word)}"{hint(word, _WORDS)}')
        cells = tuple(table.get("cells", ()))
        if "choices" in table:
            choices = table["choices"]
            if not isinstance(choices, list) or not choices:
                raise UsageError(f"{where}: choices should be a list of at least one value")
            if not all(isinstance(choice, (bool, int, float, str)) for choice in choices):
                raise UsageError(f"{where}: each of its choices should be a number, a text, true or false")
            if {"low", "high"} & set(table):
                raise UsageError(f"{where} has both choices and a range: give one of them")
            return cls(choices=tuple(choices), cells=cells)
        for word in ("low", "high"):
            number = table.get(word)
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
                raise UsageError(f"{where} needs low and high, two numbers")
        low, high = float(table["low"]), float(table["high"])
        log, rounded = table.get("log", False), table.get("round", False)
        if not isinstance(log, bool) or not isinstance(rounded, bool):
            raise UsageError(f"{where}: log and round are true or false")
        if not low < high:
            raise UsageError(f"{where} is empty: low {low:g} should be less than high {high:g}")
        if log and low <= 0:
            raise UsageError(f"{where}: a logarithmic range begins above 0, low is {low:g}")
        return cls(low, high, log, rounded, cells=cells)

    def table(self) -> dict[str, Any]:
        """What `from_table` reads."""
        table: dict[str, Any] = {}
        if self.choices:
            table["choices"] = list(self.choices)
        else:
            table |= {"low": self.low, "high": self.high}
            table |= {word: True for word in ("log", "round") if getattr(self, word)}
        if self.cells:
            table["cells"] = list(self.cells)
        return table

    def corners(self) -> tuple[Value, Value]:
        """The two ends, or the first and the last choice."""
        if self.choices:
            return self.choices[0], self.choices[-1]
        return self.value(self.low), self.value(self.high)

    def value(self, drawn: Any) -> Value:
        """The setting that a drawn number or choice stands for."""
        if self.choices:
            return drawn  # type: ignore[no-any-return]
        return round(drawn) if self.round else float(drawn)

    def distribution(self) -> BaseDistribution:
        """The same for Optuna. A range to be rounded is drawn as a real number, as in the RRU authors' code."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        return FloatDistribution(self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        if self.choices:
            return value in self.choices
        return isinstance(value, (int, float)) and self.low <= value <= self.high

"""A user's own table of numbers as a regression data set: from `length` rows, the next one.

Rows are time steps in their order. They are split by place into 70 % train, 15 % valid, 15 % test, and windows never
cross from one part into another: inputs are `length` rows of all columns, the target is the row after them (of the
target columns). With `standardize`, every column has its training mean taken away and is divided by its training
standard deviation (a constant one only loses its mean).

The file is UTF-8, one line a row, cells apart by `delimiter`. If some cell of the first line is no number, that line
holds the names of the columns; else they are called 1, 2, ... Every other cell has to be a decimal number, and finite.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.decoding import decoded
from ungated.lab.data.families import Examples, RegressionData
from ungated.lab.data.naming import own_name, own_options
from ungated.lab.errors import DataError, DataMissingError, RecipeError

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_FILE_LIMIT = 1 << 28


@dataclass(frozen=True)
class CsvOptions:
    """How a table becomes sequences."""

    length: int = 32  # rows seen before the one to be predicted
    target: str | None = None  # name of the column to be predicted; None: all of them
    delimiter: str = ","
    standardize: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise RecipeError(f"length should be an int of at least 1, got {self.length!r}")
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise RecipeError(f"delimiter should be one character, got {self.delimiter!r}")


def csv_data(
    path: str | Path,
    *,
    length: int = 32,
    target: str | None = None,
    delimiter: str = ",",
    standardize: bool = True,
) -> DataSet:
    """The table as a next-step regression data set; see the module for the rules, `CsvOptions` for the arguments.

    Raises DataMissingError where there is no such file. `load` raises DataError, with line and column, for a cell
    that is no finite number or a line with another number of cells, and for tables too short for `length`.
    """
    path = Path(path).expanduser().absolute()
    if not path.is_file():
        raise DataMissingError(f"there is no CSV file {path}")
    defaults = {"length": length, "target": target, "delimiter": delimiter, "standardize": standardize}
    return DataSet(
        name=own_name("csv", path),
        kind="regression",
        summary=f"the table {path}, from each row to the next",
        licence="your own",
        source=str(path),
        parse=_parse,
        count=_count,
        paths=(path,),
        path_limit=_FILE_LIMIT,
        Options=own_options(CsvOptions, **defaults),
    )


def _parse(contents: Mapping[str, bytes], options: CsvOptions) -> RegressionData:
    ((path, content),) = contents.items()
    text, remarks = decoded(path, content, "utf-8", "save the table as UTF-8")
    names, table = read_table(text, path, options.delimiter)
    if options.target is None:
        targets = list(range(len(names)))
    elif options.target in names:
        targets = [names.index(options.target)]
    else:
        raise DataError(f"{path} has no column {options.target!r}; its columns are {', '.join(names)}")
    rows = len(table)
    cuts = [0, int(rows * 0.70), int(rows * 0.85), rows]
    sizes = np.diff(cuts)
    if sizes.min() <= options.length:
        raise DataError(
            f"{path} has {rows:,} rows, {' + '.join(map(str, sizes))} for train, valid and test; each has to have more "
            f"than length={options.length}: add rows, or make length smaller"
        )
    mean, std = np.zeros(len(names)), np.ones(len(names))
    if options.standardize:
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            mean, std = table[: cuts[1]].mean(axis=0), table[: cuts[1]].std(axis=0)
        # A constant column has rounding errors for a deviation.
        std[std <= 1e-12 * np.abs(mean)] = 1.0
        std[std == 0] = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = torch.from_numpy((table - mean) / std).float()
    if not scaled.isfinite().all():
        raise DataError(f"{path} has values that are too far apart for single precision; scale its columns")
    train, valid, test = (_windows(scaled[a:b], options.length, targets) for a, b in pairwise(cuts))
    return RegressionData(
        train,
        valid,
        test,
        names=tuple(names[place] for place in targets),
        mean=torch.from_numpy(mean[targets]).float() if options.standardize else None,
        std=torch.from_numpy(std[targets]).float() if options.standardize else None,
        remarks=tuple(remarks),
    )


def _windows(rows: Tensor, length: int, targets: list[int]) -> Examples:
    """Views of the rows, no copies: as many windows as rows that have `length` others before them."""
    windows = rows[:-1].unfold(0, length, 1).transpose(1, 2)  # (N, length, m)
    return Examples(windows, rows[length:, targets])


def read_table(text: str, path: str, delimiter: str) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the columns, and values (rows, columns). Raises DataError with line and column."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    values: list[list[float]] = []
    blank = 0  # the line of the last blank line, if no row has followed
    try:
        for cells in reader:
            line = reader.line_num
            if not cells:
                blank = blank or line
                continue
            if blank and names:
                raise DataError(f"{path}, line {blank}: a blank line within the table; take it out, or fill the row in")
            blank = 0
            if not names:
                numbers = all(_NUMBER.fullmatch(cell) for cell in cells)
                names = [str(i + 1) for i in range(len(cells))] if numbers else _names(cells, path, line)
                if not numbers:
                    continue
            if len(cells) != len(names):
                raise DataError(
                    f"{path}, line {line}: {len(cells)} cells where {len(names)} are expected, apart by {delimiter!r}"
                )
            values.append([_value(cell, path, line, name) for cell, name in zip(cells, names, strict=True)])
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    if not values:
        raise DataError(f"{path} has no row of numbers")
    return names, np.array(values)


def _names(cells: list[str], path: str, line: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    for place, name in enumerate(names):
        if not name:
            raise DataError(f"{path}, line {line}: column {place + 1} has no name")
        if name in names[:place]:
            raise DataError(f"{path}, line {line}: two columns are called {name!r}")
    return names


def _value(cell: str, path: str, line: int, name: str) -> float:
    if _NUMBER.fullmatch(cell):
        value = float(cell)
        if np.isfinite(value):
            return value
        why = f"{cell.strip()} is too large"
    elif not cell.strip():
        why = "the value is missing"
    else:
        why = f"{cell.strip()[:40]!r} is not a finite number"
    advice = "; are the cells apart by another delimiter?" if any(c in cell for c in ";\t|") else ""
    raise DataError(f"{path}, line {line}, column {name!r}: {why}{advice}")


def _count(data: RegressionData, options: object) -> dict[str, int]:
    return {f"{split} windows": len(getattr(data, split)) for split in ("train", "valid", "test")}

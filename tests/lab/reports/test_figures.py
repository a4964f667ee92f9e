from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from ungated.cells import CELLS
from ungated.lab.reports.drawing import STYLES
from ungated.lab.reports.figures import _curves, comparison_figure
from ungated.lab.reports.records import Record, read_run

MakeRun = Callable[..., Path]


def groups(make_run: MakeRun) -> list[list[Record]]:
    return [
        [read_run(make_run(cell, seed, valid=(9.0, 8.5 + seed, 8.2), test=8.0 + seed)) for seed in range(2)]
        for cell in CELLS
    ]


def test_a_png_that_is_the_same_for_the_same_numbers(make_run: MakeRun) -> None:
    records = groups(make_run)
    image = comparison_figure(records).png
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    assert width >= 1600
    assert height >= 800
    assert comparison_figure(records).png == image


def test_curves_are_the_best_so_far(make_run: MakeRun) -> None:
    record = read_run(make_run(valid=(9.0, 8.5, 8.7, None, 8.1)))
    assert _curves([record]) == [[9.0, 8.5, 8.5, 8.5, 8.1]]


def test_a_cell_without_a_finite_result_is_left_out(make_run: MakeRun) -> None:
    diverged = [read_run(make_run("rhn", valid=(None,), test=None))]
    fine = [read_run(make_run("rru", valid=(9.0,)))]
    assert comparison_figure([diverged, fine]).png[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="nothing to draw"):
        comparison_figure([diverged])


def test_colours_lines_and_markers_all_differ() -> None:
    assert len(STYLES) >= len(CELLS) + 2  # ours and two of one's own
    for kind in zip(*STYLES, strict=True):
        assert len({str(value) for value in kind}) == len(STYLES)


def luminance(color: str) -> float:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_neighbours_differ_in_grey() -> None:
    ours = [luminance(color) for color, _, _ in STYLES[: len(CELLS)]]
    assert all(abs(one - other) > 0.1 for one, other in pairwise(ours))

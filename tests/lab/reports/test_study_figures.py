"""Figures of studies: what is drawn is what the CSV says, and the CSV is what the runs measured."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import pytest

from ungated.lab.reports.drawing import Drawing
from ungated.lab.reports.kept_studies import read_report
from ungated.lab.reports.study_figures import study_drawings
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.packaged import load_definition
from ungated.lab.studies.points import Point

from .make_study import make_study

RATES, SIZES = (1e-3, 1e-2), (50_000, 100_000)
REMARK = "Scaled down: two sizes."


def csv_rows(drawing: Drawing, **equal: str) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(drawing.csv))
    return [row for row in rows if all(row[name] == value for name, value in equal.items())]


def small_grid(**changes: Any) -> Definition:
    axes = {"learning_rate": RATES, "parameters": SIZES}
    return load_definition("robustness-nottingham").replace(cells=("rru", "gru"), seeds=(0, 1), axes=axes, **changes)


def measure_grid(point: Point) -> Any:
    """Test values 3.1, 3.2, ... by number, the second seed 0.4 more; the largest GRU at the highest rate fails."""
    if point.cell == "gru" and (point.values["learning_rate"], point.values["parameters"]) == (1e-2, 100_000):
        return "training diverged"
    test = 3.0 + 0.1 * (point.number % 8 + 1) + 0.4 * point.seed
    return [5.0, test - 0.05, test + 1.0][: 2 + point.seed], test


def grid_by_hand(cell: str) -> dict[tuple[float, int], float]:
    """Mean over the seeds: the runs are numbered with cells innermost, then sizes, then rates."""
    numbers = {"rru": (0, 2, 4, 6), "gru": (1, 3, 5, 7)}[cell]
    keys = [(rate, size) for rate in RATES for size in SIZES]
    return {key: 3.0 + 0.1 * (number + 1) + 0.2 for key, number in zip(keys, numbers, strict=True)}


def test_heat_maps(tmp_path: Path) -> None:
    report = read_report(make_study(tmp_path / "grid", small_grid(), measure_grid), "figure-2-small", "", remark=REMARK)
    values, epochs = study_drawings(report)
    assert (values.name, epochs.name) == ("figure-2-small-values", "figure-2-small-epochs")
    panels = [axes for axes in values.figure.axes if "measured" in axes.get_title("left")]
    for cell, axes in zip(("rru", "gru"), panels, strict=True):
        mesh = next(part for part in axes.collections if part.get_array() is not None)
        drawn = np.ma.masked_invalid(mesh.get_array()).reshape(2, 2)
        rows = csv_rows(values, map="measured", label=cell)
        assert len(rows) == 4
        for row in rows:
            key = (float(row["learning_rate"]), int(row["parameters"]))
            place = RATES.index(key[0]), SIZES.index(key[1])
            if key == (1e-2, 100_000) and cell == "gru":
                assert row["test"] == ""
                assert row["failed"] == row["runs"] == "2"
                assert drawn.mask[place]
                continue
            assert float(row["test"]) == pytest.approx(grid_by_hand(cell)[key])
            assert float(row["valid"]) == pytest.approx(grid_by_hand(cell)[key] - 0.05)
            assert float(row["best_epoch"]) == 2
            assert drawn[place] == pytest.approx(float(row["test"]))
        crosses = [line for line in axes.lines if line.get_marker() == "x"]
        assert len(crosses) == (cell == "gru")
        best = [row for row in rows if row["selected"]]
        assert [(row["learning_rate"], row["parameters"]) for row in best] == [("0.001", "50000")]
        assert best[0]["selected"] == "on valid and on test"
    assert REMARK in values.figure._suptitle.get_text()  # type: ignore[attr-defined]


def test_published_maps_stand_beside_on_the_same_scale(tmp_path: Path) -> None:
    report = read_report(make_study(tmp_path / "grid", small_grid(), measure_grid))
    values, _ = study_drawings(report)
    rows = csv_rows(values, map="published", label="rru")
    assert len(rows) == 100
    assert median(float(row["test"]) for row in rows) == pytest.approx(3.027)
    scales = {axes.collections[0].norm for axes in values.figure.axes[:4]}
    assert len(scales) == 1


def test_a_grid_over_a_third_axis_has_a_map_for_each_of_its_values(tmp_path: Path) -> None:
    axes = {"learning_rate": RATES, "parameters": SIZES, "normalize": (True, False)}
    definition = small_grid().replace(cells=("rru",), seeds=(0,), axes=axes)
    report = read_report(make_study(tmp_path / "grid", definition, lambda point: ([3.5], 3.0 + point.number)))
    values, _ = study_drawings(report)
    assert {row["label"] for row in csv_rows(values)} == {"rru", "rru, no normalization"}
    published = csv_rows(values, map="published", label="rru, no normalization")
    assert sum(row["test"] == "" for row in published) == 9


def test_dropout_curves(tmp_path: Path) -> None:
    axes = {"recurrent_dropout": (0.0, 0.3, 0.6)}
    definition = load_definition("dropout-nottingham").replace(cells=("rru", "gru"), seeds=(0, 1, 2), axes=axes)

    def measure(point: Point) -> Any:
        if point.cell == "gru" and point.values["recurrent_dropout"] == 0.6:
            return "out of memory"
        test = 3.0 + abs(point.values["recurrent_dropout"] - 0.3) + 0.1 * point.seed**2  # type: ignore[operator]
        return [test + 0.02], test

    (drawing,) = study_drawings(read_report(make_study(tmp_path / "sweep", definition, measure)))
    left, right = drawing.figure.axes[:2]
    seeds = [0.0, 0.1, 0.4]
    half = 4.302652729911275 * stdev(seeds) / math.sqrt(3)  # Student's t, 2 degrees of freedom
    rows = csv_rows(drawing, label="rru")
    by_hand = [0.3 + 3.0 + fmean(seeds), 3.0 + fmean(seeds), 3.3 + fmean(seeds)]
    assert [float(row["test"]) for row in rows] == pytest.approx(by_hand)
    assert [float(row["test ±"]) for row in rows] == pytest.approx([half] * 3)
    assert list(right.lines[0].get_ydata()) == pytest.approx(by_hand)
    assert list(left.lines[0].get_ydata()) == pytest.approx([value + 0.02 for value in by_hand])
    assert [row["selected"] for row in rows] == ["", "on valid and on test", ""]
    failed = csv_rows(drawing, label="gru")[2]
    assert (failed["test"], failed["failed"]) == ("", "3")
    assert any(line.get_marker() == "x" for line in right.lines)


def test_the_best_published_dropout_is_drawn(tmp_path: Path) -> None:
    axes = {"recurrent_dropout": (0.5, 0.7)}
    definition = load_definition("dropout-ptb-char").replace(cells=("rru",), axes=axes)
    study = make_study(
        tmp_path / "sweep", definition, lambda point: ([1.6], 1.5), dataset="ptb-char", metric="bits_per_char"
    )
    (drawing,) = study_drawings(read_report(study))
    (row,) = csv_rows(drawing, which="published")
    assert (float(row["setting"]), float(row["test"])) == (0.7, 1.27)


def test_depth_curve(tmp_path: Path) -> None:
    axes = {"depth": (1, 2, 3)}
    along = {"depth": {"hidden_size": (60, 50, 40)}}
    definition = load_definition("depth-ptb-word-wt").replace(axes=axes, along=along)
    study = make_study(
        tmp_path / "depth",
        definition,
        lambda point: ([400.0 - 10.0 * point.number], 390.0 - 10.0 * point.number),
        dataset="ptb-word",
        metric="perplexity",
        tied=True,
    )
    (drawing,) = study_drawings(read_report(study))
    left, right = drawing.figure.axes[:2]
    assert [float(row["test"]) for row in csv_rows(drawing, which="measured")] == [390.0, 380.0, 370.0]
    assert list(left.lines[0].get_ydata()) == [400.0, 390.0, 380.0]
    published = csv_rows(drawing, which="published")
    assert [float(row["test"]) for row in published] == [90.6, 75.1, 70.6, 68.6, 67.7, 66.6, 66.4, 66.1, 66.0, 66.0]
    test = next(line for line in right.lines if len(line.get_ydata()) == 10 and line.get_ydata()[0] == 90.6)  # type: ignore[arg-type, index]
    assert list(test.get_ydata()) == [float(row["test"]) for row in published]
    assert "20K" in left.get_title("left")
    assert "19.3M" in right.get_title("left")


def test_convergence(tmp_path: Path) -> None:
    definition = load_definition("convergence-jsb").replace(cells=("rru", "gru"), seeds=(0, 1))
    curves = {0: [9.0, 8.0, 7.5], 1: [9.5, 8.5, 8.0, 7.9]}
    study = make_study(tmp_path / "c", definition, lambda point: (curves[point.seed], 7.6), dataset="jsb")
    (drawing,) = study_drawings(read_report(study))
    rows = csv_rows(drawing, label="rru")
    assert [float(row["valid"]) for row in rows] == curves[0] + curves[1]
    axes = drawing.figure.axes[0]
    mean = next(line for line in axes.lines if line.get_label() == "rru")
    assert list(mean.get_ydata()) == [9.25, 8.25, 7.75]


def test_search(tmp_path: Path) -> None:
    rates = (1e-4, 1e-3, 3e-3, 1e-2, 5e-3)
    tests = (9.5, 8.6, 8.2, 8.1, math.nan)
    definition = load_definition("tune", "jsb").replace(cells=("lstm",), trials=5)
    study = make_study(
        tmp_path / "s",
        definition,
        lambda p: (
            "training diverged"
            if p.number == 4
            else ([9.9, tests[p.number] + (0.3 if p.number == 3 else 0.0)], tests[p.number])
        ),
        dataset="jsb",
        drawn=lambda p: {"learning_rate": rates[p.number], "recurrent_dropout": 0.1 * p.number, "forget_bias": 1.0},
    )
    (drawing,) = study_drawings(read_report(study, "search-jsb-lstm"))
    assert drawing.name == "search-jsb-lstm"
    rows = csv_rows(drawing)
    assert [float(row["learning_rate"]) for row in rows] == list(rates)
    assert [row["selected"] for row in rows] == ["", "", "on valid", "on test", ""]
    panels = drawing.figure.axes
    assert [axes.get_xlabel() for axes in panels] == ["learning rate", "recurrent dropout", "forget bias"]
    assert panels[0].get_xscale() == "log" and panels[0].get_xlim() == (1e-4, 1e-2)
    drawn = {line.get_xdata()[0]: line for line in panels[0].lines if line.get_markersize() < 10}
    assert drawn[3e-3].get_ydata() == [8.2]
    edge = panels[0].get_ylim()[1]
    assert drawn[1e-4].get_ydata() == [edge] and drawn[5e-3].get_ydata() == [edge]  # the worst run, and the failed one
    assert drawn[5e-3].get_marker() == "x" and 8.6 < edge < 9.5
    (ring,) = (line for line in panels[0].lines if line.get_markersize() > 10)
    assert ring.get_xdata() == [3e-3]


def test_nothing_finished_has_no_figure(tmp_path: Path) -> None:
    assert study_drawings(read_report(make_study(tmp_path / "w", small_grid(), lambda point: None))) == []
    assert study_drawings(read_report(make_study(tmp_path / "f", small_grid(), lambda point: "diverged"))) == []


def test_files_of_a_figure(tmp_path: Path) -> None:
    definition = load_definition("convergence-jsb").replace(cells=("rru",))
    report = read_report(make_study(tmp_path / "c", definition, lambda point: ([9.0, 8.0], 7.6), dataset="jsb"))
    first = [path.read_bytes() for path in study_drawings(report)[0].save(tmp_path / "figures")]
    assert first[0][:8] == b"\x89PNG\r\n\x1a\n"
    assert first[1].startswith(b"<?xml")
    assert first[2].decode() == study_drawings(report)[0].csv
    assert [path.read_bytes() for path in study_drawings(report)[0].save(tmp_path / "again")] == first

"""What stands behind each table and figure, and the command from end to end on a data set that is built in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ungated.lab import reproductions
from ungated.lab.cli import main
from ungated.lab.errors import UsageError
from ungated.lab.reports.kept_studies import REPRODUCTION
from ungated.lab.reports.study_tables import published
from ungated.lab.reproductions import BUDGETS, plan_reproduction, targets
from ungated.lab.studies.points import points, settings_of

FIGURES = [f"figure-{number}" for number in range(2, 10)]


def test_every_table_and_figure_is_there() -> None:
    assert targets() == ["table-1", "table-2", *FIGURES, "rhn-depth", "rhn-ptb", "rhn-enwik8"]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("target", targets())
def test_plans(target: str, budget: str) -> None:
    plan = plan_reproduction(target, budget)
    assert plan.studies
    assert len({planned.name for planned in plan.studies}) == len(plan.studies)
    assert bool(plan.remark) == (budget == "small")  # only what is scaled down has to say so
    if plan.remark:
        assert plan.remark.startswith("Scaled down: ")
        assert plan.remark.endswith("Compare by sight only.")
        assert "published" in plan.remark
    if plan.beside:
        assert published(plan.beside).rows


def runs(target: str, budget: str) -> int:
    return sum(len(points(planned.definition)) for planned in plan_reproduction(target, budget).studies)


def test_the_papers_budgets() -> None:
    assert runs("figure-2", "paper") == runs("figure-3", "paper") == 4 * 100
    assert runs("figure-4", "paper") == runs("figure-5", "paper") == 4 * 10
    assert runs("figure-9", "paper") == 2 * 2 * 100
    assert runs("rhn-depth", "paper") == 2 * 10
    searches = [planned for planned in plan_reproduction("table-1", "paper").studies if planned.definition.trials]
    assert len(searches) == 5 * 4
    assert {planned.definition.trials for planned in searches} == {100}


def test_the_small_budgets_cover_what_the_figures_show() -> None:
    (grid,) = plan_reproduction("figure-2", "small").studies
    assert [len(values) for values in grid.definition.axes.values()] == [4, 4]
    assert grid.definition.cells == ("rru", "gru")
    (sweep,) = plan_reproduction("figure-4", "small").studies
    assert sweep.definition.cells == ("rru", "rhn", "gru", "lstm", "mogrifier")
    (ablation,) = plan_reproduction("table-2", "small").studies
    assert len(ablation.definition.variants) == 6
    (depth,) = plan_reproduction("rhn-depth", "small").studies
    assert depth.definition.axes == {"depth": (1, 2, 3, 4, 5)}
    assert {str(settings_of(depth.definition, point).get("hidden_size")) for point in points(depth.definition)} == {
        "None"
    }


def test_rows_cells_and_seeds() -> None:
    plan = plan_reproduction("table-2", "small", rows=["ptb-char", "imdb"], seeds=3)
    assert [planned.name for planned in plan.studies] == ["table-2-small-ptb-char", "table-2-small-imdb"]
    assert [planned.definition.recipe for planned in plan.studies] == ["ptb-char", "imdb"]
    assert all(planned.definition.seeds == (0, 1, 2) for planned in plan.studies)
    (grid,) = plan_reproduction("figure-2", "small", cells=["lstm"]).studies
    assert grid.definition.cells == ("lstm",)
    with pytest.raises(UsageError, match="did you mean nottingham"):
        plan_reproduction("table-2", rows=["notingham"])


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two targets that take seconds: repeats and a grid on digits."""
    settings = {"parameters": 2_000, "max_epochs": 1, "epoch_updates": 2, "batch_size": 64}
    catalogue: dict[str, Any] = {
        "figure-6": {
            "title": "Figure 6",
            "cells": ["gru"],
            "rows": {"digits": "convergence"},
            "small": {"seeds": [0], "settings": settings, "remark": "Scaled down: tiny."},
        }
    }
    monkeypatch.setattr(reproductions, "_catalogue", lambda: catalogue)
    monkeypatch.chdir(tmp_path)


def test_from_studies_to_report(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "figure-6", "--out", "made", "--workers", "1", "--quiet"]) == 0
    capsys.readouterr()
    made = sorted(path.name for path in Path("made").iterdir())
    assert made == ["figure-6-small", "figures", "report.html", "report.md", REPRODUCTION]
    figures = sorted(path.name for path in Path("made/figures").iterdir())
    assert figures == [f"figure-6-small.{kind}" for kind in ("csv", "png", "svg")]
    result = json.loads(Path("made/figure-6-small/runs/0000/result.json").read_text())
    table = Path("made/report.md").read_text()
    assert "**Scaled down: tiny.**" in table
    assert f"{100 * result['metrics']['standard']['test']['accuracy']:.2f}" in table
    assert "Scaled down: tiny." in Path("made/report.html").read_text()

    # The same command again trains nothing, and the studies can be kept and shown.
    before = Path("made/figure-6-small/runs/0000/result.json").stat().st_mtime_ns
    assert main(["reproduce", "figure-6", "--out", "made", "--workers", "1", "--quiet"]) == 0
    assert Path("made/figure-6-small/runs/0000/result.json").stat().st_mtime_ns == before
    assert main(["report", "made", "--collect", "--out", "page.html"]) == 0
    assert sorted(path.name for path in Path("results/studies").iterdir()) == [
        *("README.md", "figure-6-small.csv", "figure-6-small.json", "figure-6-small.png"),
    ]
    assert main(["report", "--out", "kept.html"]) == 0
    assert Path("kept.html").read_text().count("Scaled down: tiny.") >= 1
    assert "Scaled down: tiny." in capsys.readouterr().out


def test_a_dry_run_leaves_nothing(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "figure-6", "--dry-run", "--workers", "1"]) == 0
    out = capsys.readouterr()
    assert "1 run" in out.out
    assert "Scaled down: tiny." in out.err
    assert list(Path().iterdir()) == []


def test_a_directory_of_something_else_is_refused(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("made").mkdir()
    Path("made/letter.txt").write_text("mine")
    assert main(["reproduce", "figure-6", "--out", "made", "--quiet"]) == 1
    assert "already holds something else" in capsys.readouterr().err
    assert [path.name for path in Path("made").iterdir()] == ["letter.txt"]


def test_without_a_target_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    assert capsys.readouterr().out.split() == targets()

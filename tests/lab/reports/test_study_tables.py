"""Tables of studies: both selections, measured beside published; and the file that is kept of a study."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from ungated.lab.cli import main
from ungated.lab.errors import DataError, RunError
from ungated.lab.reports.kept_studies import (
    REPRODUCTION,
    StudyReport,
    from_json,
    keep_study,
    load_studies,
    read_report,
    read_reports,
    to_json,
)
from ungated.lab.reports.study_summary import reports_markdown, summary_table
from ungated.lab.reports.study_tables import study_section
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.packaged import load_definition
from ungated.lab.studies.points import Point

from .make_study import make_study

#: Validation chooses the middle of three dropout rates, test the last one.
SWEEP = {0.0: ([8.4], 8.5), 0.3: ([8.0], 8.3), 0.6: ([8.2], 8.1)}


def sweep(tmp_path: Path, **said: str) -> StudyReport:
    definition = load_definition("dropout-ptb-char").replace(cells=("rru",), axes={"recurrent_dropout": tuple(SWEEP)})
    measure: Callable[[Point], Any] = lambda point: SWEEP[point.values["recurrent_dropout"]]  # type: ignore[index]  # noqa: E731
    study = make_study(tmp_path / "sweep", definition, measure, dataset="ptb-char", metric="bits_per_char")
    return read_report(study, **said)


def rows_of(report: StudyReport) -> list[dict[str, str]]:
    table = study_section(report).table
    assert table is not None
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_both_selections_are_shown_and_never_mixed(tmp_path: Path) -> None:
    honest, papers = rows_of(sweep(tmp_path))
    assert honest["selection"] == "selected on validation"
    assert (honest["recurrent dropout"], honest["valid"], honest["test"]) == ("0.3", "8.000", "8.300")
    assert honest["published test"] == ""
    assert papers["selection"] == "selected on test (the paper's)"
    assert (papers["recurrent dropout"], papers["valid"], papers["test"]) == ("0.6", "8.200", "8.100")
    assert papers["published test"] == "1.270"


def test_the_remark_is_on_the_table_and_every_figure(tmp_path: Path) -> None:
    section = study_section(sweep(tmp_path, remark="Scaled down: tiny."))
    assert "**Scaled down: tiny.**" in section.markdown()
    assert all("Scaled down: tiny." in drawing.figure._suptitle.get_text() for drawing in section.drawings)  # type: ignore[attr-defined]


def test_variants_beside_table_2(tmp_path: Path) -> None:
    definition = load_definition("ablation").replace(seeds=(0, 1))
    study = make_study(tmp_path / "v", definition, lambda point: ([4.0], 3.0 + point.number))
    rows = rows_of(read_report(study))
    assert [row["published test"] for row in rows] == ["2.920", "2.920", "2.970", "3.070", "3.560", "2.960"]
    means = [fmean((3.0 + number, 3.0 + number + 6)) for number in range(6)]
    assert [row["test"].split(" ± ")[0] for row in rows] == [f"{mean:.3f}" for mean in means]
    assert all(row["seeds"] == "2" for row in rows)


def test_a_failed_run_is_counted_with_its_reason(tmp_path: Path) -> None:
    definition = load_definition("ablation")
    study = make_study(
        tmp_path / "v", definition, lambda p: "the loss is not finite" if p.number == 4 else ([4.0], 3.0)
    )
    section = study_section(read_report(study))
    assert section.table is not None
    assert section.table.rows[4][3:6] == ["1, 1 failed", "failed", "failed"]
    assert "5 of 6 runs are finished, 1 failed. A failed run: the loss is not finite." in " ".join(section.notes)


def test_depths_beside_the_published_table(tmp_path: Path) -> None:
    definition = load_definition("depth-ptb-word").replace(axes={"depth": (1, 2)}, along={})
    study = make_study(tmp_path / "d", definition, lambda p: ([300.0], 290.0), dataset="ptb-word", metric="perplexity")
    rows = rows_of(read_report(study))
    assert [(row["depth"], row["published valid"], row["published test"]) for row in rows] == [
        ("1", "92.40", "89.20"),
        ("2", "79.00", "76.30"),
    ]
    assert rows[0]["published parameters"] == "32,015,050"


def test_a_study_that_has_not_begun(tmp_path: Path) -> None:
    section = study_section(read_report(make_study(tmp_path / "v", load_definition("ablation"), lambda point: None)))
    assert section.table is None
    assert "0 of 6 runs are finished." in section.markdown()


def test_what_is_kept_reads_as_what_was_run(tmp_path: Path) -> None:
    report = sweep(tmp_path, name="figure-5-small", remark="Scaled down.", group="g", beside="rhn-ptb")
    path = keep_study(report, tmp_path / "results")
    assert path == tmp_path / "results" / "studies" / "figure-5-small.json"
    assert "secret" not in path.read_text()  # what the command was is nobody's business
    (kept,) = load_studies(tmp_path / "results").values()
    assert kept.outcome.definition == report.outcome.definition
    assert study_section(kept).markdown() == study_section(report).markdown()
    assert [drawing.csv for drawing in study_section(kept).drawings] == [
        drawing.csv for drawing in study_section(report).drawings
    ]
    assert to_json(kept) == to_json(report)
    with pytest.raises(RunError, match="file's name"):
        keep_study(replace(report, name="../out"), tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = keep_study(sweep(tmp_path), tmp_path)
    whole = path.read_text()
    for text in ("{}", whole[:-20], whole.replace('"format": 1', '"format": 2')):
        path.write_text(text)
        with pytest.raises(DataError, match=path.name):
            load_studies(tmp_path)
    assert from_json(whole).name == "dropout-ptb-char"


def several(tmp_path: Path, remark: str = "Scaled down.") -> Path:
    """A reproduction of two searches and one study that has not begun."""
    entries = []
    for number, cell in enumerate(("rru", "gru", "lstm")):
        definition: Definition = load_definition("tune", "jsb").replace(cells=(cell,), trials=2)
        test = (7.9, 8.3)[number % 2]
        name = f"table-1-small-{cell}"
        made = {"directory": name, "name": name, "title": "Table 1", "remark": remark, "group": "table-1-small"}
        entries.append(made)
        if cell != "lstm":
            make_study(
                tmp_path / name, definition, lambda p, test=test: ([8.0 - p.number], test + p.number), dataset="jsb"
            )
    (tmp_path / REPRODUCTION).write_text(json.dumps({"studies": entries}))
    return tmp_path


def test_studies_of_one_reproduction_come_together(tmp_path: Path) -> None:
    reports = read_reports(several(tmp_path))
    assert [report.name for report in reports] == ["table-1-small-rru", "table-1-small-gru"]
    table = summary_table(reports)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["of"], row["selection"], row["test"], row["published test"]) for row in rows] == [
        ("rru", "selected on validation", "8.900", ""),
        ("rru", "selected on test (the paper's)", "7.900", "7.720"),
        ("gru", "selected on validation", "9.300", ""),
        ("gru", "selected on test (the paper's)", "8.300", "8.200"),
    ]
    text = reports_markdown(reports, figures="figures")
    assert text.startswith("# table-1-small\n\n**Scaled down.**")


def test_a_directory_is_a_study_a_reproduction_or_neither(tmp_path: Path) -> None:
    assert read_reports(tmp_path) == []
    sweep(tmp_path)
    assert [report.name for report in read_reports(tmp_path / "sweep")] == ["dropout-ptb-char"]
    for text in ("[]", "{", '{"studies": [{"name": "x"}]}', '{"studies": [1]}'):
        (tmp_path / REPRODUCTION).write_text(text)
        with pytest.raises(DataError, match=REPRODUCTION):
            read_reports(tmp_path)
    (tmp_path / REPRODUCTION).write_text('{"studies": [{"directory": "../sweep", "name": "x", "title": "y"}]}')
    assert [report.name for report in read_reports(tmp_path)] == ["x"]  # only ever below the directory


def test_a_published_table_stands_beside(tmp_path: Path) -> None:
    section = study_section(sweep(tmp_path, beside="rhn-enwik8"))
    assert "| Large RHN, depth 10" in section.markdown()


def test_a_study_is_kept_with_its_figures_by_the_name_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "sweep", "--collect", "--name", "mine"]) == 0
    assert sorted(path.name for path in Path("results/studies").iterdir()) == [
        "README.md",
        "mine.csv",
        "mine.json",
        "mine.png",
    ]
    assert "(mine.png)" in Path("results/studies/README.md").read_text()

"""report: what has been measured, beside what is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ungated.lab.commands.options import AsJson, Debug
from ungated.lab.commands.output import note, say, say_json, say_table
from ungated.lab.errors import UsageError

if TYPE_CHECKING:
    from ungated.lab.reports.kept_studies import StudyReport
    from ungated.lab.reports.records import Record

Results = Annotated[Path, typer.Option("--results", help="The folder of kept results.")]
Benchmarks = Annotated[Path, typer.Option("--benchmarks", help="With --tables: the folder of kept measurements.")]


def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN|STUDY", help="Finished runs, and studies, instead of the kept ones.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The page's file; else report.html.", show_default=False)
    ] = None,
    collect: Annotated[
        bool,
        typer.Option(
            "--collect",
            help="Keep them: a small file each, RESULTS/DATASET/CELL/NAME.json or RESULTS/studies/NAME.json.",
        ),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--name", help="With --collect and one run or study: the name to keep it by.", show_default=False),
    ] = None,
    documents: Annotated[
        list[Path] | None,
        typer.Option(
            "--tables",
            metavar="FILE",
            help="Write the tables between the markers of this file; once for each.",
            show_default=False,
        ),
    ] = None,
    results: Results = Path("results"),
    benchmarks: Benchmarks = Path("benchmarks"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write one page of everything measured, each value beside its published one, and show its tables.

    The page opens from disk and needs no network. Every number comes from a file; none is written by hand. With
    --json or --tables, the page is written only where --out names it.
    """
    from ungated.lab.reports.documents import write_tables

    records, studies = _read(paths or ())
    if collect and not paths:
        raise UsageError("say which runs or studies to keep, as in `ungated report runs/jsb-rru-0001 --collect`")
    if name is not None and not (collect and len(records) + len(studies) == 1):
        raise UsageError("--name goes with --collect and one run or study")
    if collect:
        _keep(records, studies, results, name)
    for document in documents or ():
        changed = write_tables(document, results, benchmarks)
        note(f"{document}: {'brought up to date' if changed else 'already up to date'}")
    if not paths:
        records, studies = _kept(results)
    if out is not None or not (as_json or documents):
        _write_page(out or Path("report.html"), records, studies)
    if as_json:
        say_json([{"result": record.result, "seconds": record.seconds} for record in records])
    elif not documents:
        _show(records, studies, results)


def _read(paths: Sequence[Path]) -> tuple[list[Record], list[StudyReport]]:
    """What lies in the directories: runs, studies, or reproductions, which are studies with something to say."""
    from ungated.lab.reports.kept_studies import read_reports
    from ungated.lab.reports.records import read_run

    records, studies = [], []
    for path in paths:
        found = read_reports(path)
        studies += found
        if not found:
            records.append(read_run(path))
    return records, studies


def _kept(results: Path) -> tuple[list[Record], list[StudyReport]]:
    from ungated.lab.reports.kept_studies import load_studies
    from ungated.lab.reports.records import load_results

    return list(load_results(results).values()), list(load_studies(results).values())


def _keep(records: Sequence[Record], studies: Sequence[StudyReport], results: Path, name: str | None) -> None:
    from dataclasses import replace

    from ungated.lab.files import atomic_write_text
    from ungated.lab.reports.kept_studies import keep_study
    from ungated.lab.reports.records import collect
    from ungated.lab.reports.study_figures import study_drawings
    from ungated.lab.reports.study_summary import studies_page

    for record in records:
        note(f"kept {collect(record, results, name)}")
    for study in studies:
        study = replace(study, name=name or study.name)
        path = keep_study(study, results)
        note(f"kept {path}")
        for drawing in study_drawings(study):
            note(f"kept {' and '.join(map(str, drawing.save(path.parent, ('png', 'csv'))))}")
    if studies:
        atomic_write_text(results / "studies" / "README.md", studies_page(results))


def _write_page(out: Path, records: Sequence[Record], studies: Sequence[StudyReport]) -> None:
    from ungated.lab.files import atomic_write_text
    from ungated.lab.reports.page import build_page

    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent} for the page {out.name}")
    atomic_write_text(out, build_page(records, studies))
    note(f"page {out}")


def _show(records: Sequence[Record], studies: Sequence[StudyReport], results: Path) -> None:
    from ungated.lab.reports.measured import sections
    from ungated.lab.reports.study_tables import study_section

    if not records and not studies:
        say(f"{results} holds no results yet: `ungated report RUN --collect` keeps a run's")
    for heading, table, notes in sections(records):
        say(heading)
        say()
        say_table(table)
        say(" ".join(notes))
        say()
    for study in studies:
        section = study_section(study)
        say(section.heading)
        say()
        if section.report.remark:
            say(section.report.remark)
        if section.table is not None:
            say_table(section.table)
        say(" ".join(section.notes))
        say()

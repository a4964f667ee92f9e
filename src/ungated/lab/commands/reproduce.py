"""reproduce: a table or figure of the papers, from its studies to its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ungated.lab.commands.options import AsJson, DataDir, Debug, Device, Quiet
from ungated.lab.commands.output import note, say, say_json

if TYPE_CHECKING:
    from ungated.lab.reproductions import Reproduction


def reproduce(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="table-1, table-2, figure-2 ... figure-9, rhn-depth, rhn-ptb, rhn-enwik8; without one: a list.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", help="small: minutes on two cores, and it says so; paper: as published.")
    ] = "small",
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="A,B,...", help="Of the table; else those of the budget.", show_default=False),
    ] = None,
    cells: Annotated[
        str | None, typer.Option("--cells", metavar="A,B,...", help="Else those of the budget.", show_default=False)
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", help="Runs of each setting, with seeds 0, 1, ...", min=1, show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A directory; else runs/TARGET-BUDGET.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Runs at a time here; else one per CPU core.", min=1, show_default=False),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only list the runs, their sizes, and a time measured from a few updates."),
    ] = False,
    device: Device = "cpu",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run the studies behind a table or figure of the papers, then write its tables, figures and page.

    Stopped or killed, the same command goes on where it was. Searches are reported by both selections.
    """
    from ungated.lab.commands import study_runs
    from ungated.lab.reproductions import plan_reproduction, targets
    from ungated.lab.studies.leases import HEARTBEAT
    from ungated.lab.studies.team import RETRIES

    if target is None:
        say_json(targets()) if as_json else say("\n".join(targets()))
        return
    plan = plan_reproduction(target, budget, rows=_split(rows), cells=_split(cells), seeds=seeds)
    place = out if out is not None else Path("runs") / plan.name
    if not quiet and plan.remark:
        note(plan.remark)
    if not dry_run:
        _prepare(plan, place)
    for planned in plan.studies:
        study_runs.run(
            planned.definition,
            place / planned.name,
            data_dir=data_dir,
            dry_run=dry_run,
            workers=workers,
            storage=None,
            heartbeat=HEARTBEAT,
            retries=RETRIES,
            device=device,
            as_json=as_json,
            quiet=quiet,
        )
    if not dry_run:
        _report(place, quiet)


def _split(words: str | None) -> list[str]:
    return [word.strip() for word in (words or "").split(",") if word.strip()]


def _prepare(plan: Reproduction, place: Path) -> None:
    """Begin the directory, or take up the same reproduction that lies there."""
    from ungated.lab.errors import StudyError
    from ungated.lab.files import atomic_write_json
    from ungated.lab.reports.kept_studies import REPRODUCTION

    if place.is_file():
        raise StudyError(f"{place} is a file, not a directory: choose another with --out")
    if place.is_dir() and not (place / REPRODUCTION).exists() and any(place.iterdir()):
        raise StudyError(f"{place} already holds something else: choose a new or empty directory with --out")
    place.mkdir(parents=True, exist_ok=True)
    said = {"remark": plan.remark, "group": plan.name, "beside": plan.beside}
    studies = [{"directory": one.name, "name": one.name, "title": one.title, **said} for one in plan.studies]
    atomic_write_json(place / REPRODUCTION, {"name": plan.name, "title": plan.title, "studies": studies})


def _report(place: Path, quiet: bool) -> None:
    """report.html, report.md, and figures/ with a PNG, an SVG and a CSV each."""
    from ungated.lab.files import atomic_write_text
    from ungated.lab.reports.kept_studies import read_reports
    from ungated.lab.reports.page import build_page
    from ungated.lab.reports.study_summary import reports_markdown
    from ungated.lab.reports.study_tables import study_section

    reports = read_reports(place)
    for report in reports:
        for drawing in study_section(report).drawings:
            drawing.save(place / "figures")
    atomic_write_text(place / "report.md", reports_markdown(reports, figures="figures"))
    atomic_write_text(place / "report.html", build_page([], reports, title=place.name))
    if not quiet:
        note(f"page {place / 'report.html'}, tables {place / 'report.md'}, figures in {place / 'figures'}")

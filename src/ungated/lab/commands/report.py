"""report: what has been measured, beside what is published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ungated.lab.commands.options import AsJson, Debug
from ungated.lab.commands.output import note, say, say_json, say_table
from ungated.lab.errors import UsageError

Results = Annotated[Path, typer.Option("--results", help="The folder of kept results.")]
Benchmarks = Annotated[Path, typer.Option("--benchmarks", help="With --readme: the folder of kept measurements.")]


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Finished runs to look at instead of the kept ones.", show_default=False),
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Keep the runs: one small file each, RESULTS/DATASET/CELL/NAME.json.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--name", help="With --collect and one run: the name to keep it by.", show_default=False),
    ] = None,
    readme: Annotated[
        Path | None,
        typer.Option("--readme", help="Write the tables between the two markers of this file.", show_default=False),
    ] = None,
    results: Results = Path("results"),
    benchmarks: Benchmarks = Path("benchmarks"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show the tables of everything measured, each row beside its published value.

    Every number comes from a file of the results folder; none is written by hand.
    """
    from ungated.lab.reports.measured import sections
    from ungated.lab.reports.readme import write_readme
    from ungated.lab.reports.records import collect as keep
    from ungated.lab.reports.records import load_results, read_run

    records = [read_run(run) for run in runs or ()]
    if collect and not records:
        raise UsageError("say which runs to keep, as in `ungated report runs/jsb-rru-0001 --collect`")
    if name is not None and not (collect and len(records) == 1):
        raise UsageError("--name goes with --collect and one run")
    if collect:
        for record in records:
            note(f"kept {keep(record, results, name)}")
    if readme is not None:
        changed = write_readme(readme, results, benchmarks)
        note(f"{readme}: {'brought up to date' if changed else 'already up to date'}")
        return
    shown = records or list(load_results(results).values())
    if as_json:
        say_json([{"result": record.result, "seconds": record.seconds} for record in shown])
        return
    if not shown:
        say(f"{results} holds no results yet: `ungated report RUN --collect` keeps a run's")
    for heading, table, notes in sections(shown):
        say(heading)
        say()
        say_table(table)
        say(" ".join(notes))
        say()

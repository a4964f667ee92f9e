"""compare: several cells on one data set, from one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ungated.lab.commands.options import (
    AsJson,
    Csv,
    DataDir,
    Debug,
    Device,
    Midi,
    Quiet,
    Text,
    Words,
    name_and_settings,
)
from ungated.lab.commands.output import counted, note, say, say_json, say_table
from ungated.lab.errors import UsageError

Cells = Annotated[
    list[str] | None,
    typer.Option("--cell", help="A cell to compare, or FILE.py:Class; once for each. All of ours if none is named."),
]


def compare(
    words: Words = None,
    cells: Cells = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each cell, with seeds 0, 1, ...", min=1)] = 3,
    parameters: Annotated[
        str | None,
        typer.Option(
            "--parameters", help="One budget for all, as in 20K or 2M; else the recipes' own.", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Runs at a time; else one per CPU core.", min=1, show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Directory of the comparison; else runs/compare-NAME.", show_default=False),
    ] = None,
    text: Text = None,
    midi: Midi = None,
    csv: Csv = None,
    device: Device = "cpu",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare cells with equal parameter budgets and several seeds: one table and one figure.

    Stopped or killed, the same command goes on where it was; what is finished is not done again.
    """
    from ungated.lab.commands.compare_display import make_display
    from ungated.lab.compare import compare as run_comparison
    from ungated.lab.compare import plan, unfinished
    from ungated.lab.training.build import choose_device
    from ungated.lab.workers import default_workers

    name, settings = name_and_settings(words, text=text, midi=midi, csv=csv)
    if name is None:
        raise UsageError("say on which data set to compare, as in `ungated compare digits`")
    choose_device(device)
    budget = [f"model.parameters={parameters}"] if parameters is not None else []
    planned = plan(name, cells or (), seeds=seeds, overrides=[*settings, *budget], out=out, data_dir=data_dir)
    todo = unfinished(planned)
    team = workers or default_workers(device)
    size = planned.recipes[0].model.parameters
    if not quiet:
        note(
            f"{planned.dataset}: {counted(len(planned.recipes), 'cell')} x {counted(planned.seeds, 'seed')}"
            + (f", at most {size:,} parameters each" if size is not None else "")
            + f", {min(team, max(1, len(todo)))} at a time, in {planned.out}"
        )
    labels = [f"{recipe.cell} seed {seed}" for recipe, seed in todo]
    total = len(planned.recipes) * planned.seeds
    with make_display(labels, [recipe.cell for recipe, _ in todo], total, team, quiet=quiet) as display:
        result = run_comparison(planned, workers=team, device=device, data_dir=data_dir, watcher=display)
    if as_json:
        figure = None if result.figure is None else str(result.figure)
        say_json({**result.report, "out": str(planned.out), "table": str(result.markdown), "figure": figure})
        return
    say_table(result.table)
    for line in result.notes:
        say(line)
    say(f"table {result.markdown}, figure {result.figure}, numbers {planned.out / 'compare.json'}")

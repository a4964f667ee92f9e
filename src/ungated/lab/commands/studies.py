"""tune, study: many runs, begun, gone on with, looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ungated.lab.commands.options import AsJson, DataDir, Debug, Device, Quiet, Seed, Words, name_and_settings
from ungated.lab.commands.output import note, say, say_json
from ungated.lab.errors import UsageError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Cells = Annotated[
    list[str] | None,
    typer.Option("--cell", help="A cell, or FILE.py:Class; once for each. The study's own if none is named."),
]
StudyPath = Annotated[Path, typer.Argument(metavar="DIR", help="A study's directory.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", help="The study's directory; else runs/NAME.", show_default=False)]
Seeds = Annotated[int | None, typer.Option("--seeds", help="Runs of each setting, with seeds 0, 1, ...", min=1)]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Runs at a time here; else one per CPU core.", min=1, show_default=False)
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="postgresql://USER@HOST/DATABASE, for workers without a shared directory.",
        envvar="UNGATED_STORAGE",
        show_default=False,
    ),
]
Heartbeat = Annotated[
    float, typer.Option("--heartbeat", help="Seconds; within two of them a worker that died is noticed.", min=0.5)
]
Retries = Annotated[int, typer.Option("--retries", help="How often a run is begun again whose worker died.", min=0)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only list the runs, their sizes, and a time measured from a few updates.")
]


def tune(
    words: Words = None,
    cell: Annotated[
        str | None,
        typer.Option(
            "--cell", help="rru, rhn, gru, lstm, mogrifier, or your own as FILE.py:Class.", show_default=False
        ),
    ] = None,
    trials: Annotated[int, typer.Option("--trials", help="Runs, finished or failed: exactly so many.")] = 100,
    sampler: Annotated[
        str, typer.Option("--sampler", help="optuna, or paper: the constants of the RRU authors' library.")
    ] = "optuna",
    objective: Annotated[
        str, typer.Option("--objective", help="The split that the search looks at: valid, or test as the RRU authors.")
    ] = "valid",
    seed: Seed = 0,
    workers: Workers = None,
    out: Out = None,
    storage: Storage = None,
    heartbeat: Heartbeat = 60.0,
    retries: Retries = 2,
    device: Device = "cpu",
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search a cell's settings in the space of the RRU paper; a setting given as key=value is not searched.

    Stopped or killed, here or elsewhere, the same command goes on to the same number of runs.
    """
    from ungated.lab.commands.study_runs import run
    from ungated.lab.studies.changes import searched
    from ungated.lab.studies.packaged import load_definition

    name, settings = name_and_settings(words)
    if name is None or cell is None:
        raise UsageError("say what to tune, as in `ungated tune jsb --cell rru`")
    definition = load_definition("tune", name).replace(
        cells=(cell,), trials=trials, sampler=sampler, objective=objective, seeds=(seed,)
    )
    definition = searched(definition, settings)
    run(
        definition, out, workers=workers, storage=storage, heartbeat=heartbeat, retries=retries, device=device,
        data_dir=data_dir, dry_run=dry_run, as_json=as_json, quiet=quiet,
    )  # fmt: skip


def start(
    context: typer.Context,
    words: Words = None,
    cells: Cells = None,
    seeds: Seeds = None,
    workers: Workers = None,
    out: Out = None,
    storage: Storage = None,
    heartbeat: Heartbeat = 60.0,
    retries: Retries = 2,
    device: Device = "cpu",
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Begin a study and bring it to its end; an axis is replaced by NAME=VALUE,VALUE,... and any setting by key=value.

    Stopped or killed, here or elsewhere, the same command goes on to the same runs.
    """
    from ungated.lab.commands.study_runs import run
    from ungated.lab.studies.changes import changed
    from ungated.lab.studies.packaged import load_definition

    name, settings = name_and_settings(words)
    study = context.command.name or ""
    if name is None:
        what = "a study of yours, FILE.toml" if study == "start" else f"a data set, as in `ungated study {study} jsb`"
        raise UsageError(f"say what to study: {what}")
    definition = load_definition(name) if study == "start" else load_definition(study, name)
    run(
        changed(definition, settings, cells=cells, seeds=seeds), out, workers=workers, storage=storage,
        heartbeat=heartbeat, retries=retries, device=device, data_dir=data_dir, dry_run=dry_run, as_json=as_json,
        quiet=quiet,
    )  # fmt: skip


_EXAMPLES = {
    "start": ("Begin a study of your own.", "mine.toml --workers 4"),
    "robustness": ("Learning rate x size (RRU paper, Figs. 2 and 3).", "nottingham --cell rru --cell gru"),
    "dropout": ("Recurrent dropout (RRU paper, Figs. 4 and 5).", "jsb recurrent_dropout=0,0.3,0.6"),
    "ablation": ("The RRU without its parts (Table 2).", "jsb --seeds 3"),
    "convergence": ("Validation by epoch (RRU paper, Figs. 6 to 8).", "jsb --seeds 3"),
    "depth": ("The RHN's recurrence depth.", "ptb-word depth=1,2,3 parameters=2M"),
}
for _name, (_help, _example) in _EXAMPLES.items():
    app.command(_name, short_help=_help, epilog=f"Example: ungated study {_name} {_example}")(start)


@app.command(
    "winners",
    short_help="The best setting of finished studies, with several seeds.",
    epilog="Example: ungated study winners runs/tune-rru runs/tune-gru --seeds 5",
)
def train_winners(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Finished studies.", show_default=False)],
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each winner, with seeds 0, 1, ...", min=1)] = 5,
    workers: Workers = None,
    out: Out = None,
    storage: Storage = None,
    heartbeat: Heartbeat = 60.0,
    retries: Retries = 2,
    device: Device = "cpu",
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train again, with new seeds, what validation selected of each cell: the best of many runs flatters itself."""
    from ungated.lab.commands.study_runs import run
    from ungated.lab.studies.winners import winners

    run(
        winners(directories, seeds), out, workers=workers, storage=storage, heartbeat=heartbeat, retries=retries,
        device=device, data_dir=data_dir, dry_run=dry_run, as_json=as_json, quiet=quiet,
    )  # fmt: skip


@app.command("run", short_help="Go on with a study.", epilog="Example: ungated study run runs/tune-jsb --workers 4")
def run_again(
    directory: StudyPath,
    workers: Workers = None,
    storage: Storage = None,
    heartbeat: Heartbeat = 60.0,
    retries: Retries = 2,
    device: Device = "cpu",
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Work on a study that was begun, until it is complete: on this machine or, on a shared directory, on any other.

    Several of these commands at once share the runs out among them.
    """
    from ungated.lab.commands.study_runs import go_on

    go_on(
        directory, workers=workers, storage=storage, heartbeat=heartbeat, retries=retries, device=device,
        data_dir=data_dir, dry_run=dry_run, as_json=as_json, quiet=quiet,
    )  # fmt: skip


@app.command(short_help="How far a study is.", epilog="Example: ungated study status runs/tune-jsb")
def status(directory: StudyPath, as_json: AsJson = False, debug: Debug = False) -> None:
    """Count a study's runs, and show what was best: selected on validation, and as the RRU authors did, on test."""
    from ungated.lab.commands.study_runs import say_outcome
    from ungated.lab.studies.outcome import read_study

    say_outcome(read_study(directory), as_json=as_json)


@app.command(
    short_help="Fetch other machines' results from a server.",
    epilog="Example: ungated study collect runs/tune-jsb --storage postgresql://me@host/studies",
)
def collect(directory: StudyPath, storage: Storage = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Bring what other machines have finished from the server into the study's directory, all but the weights."""
    from ungated.lab.studies.opening import open_trials
    from ungated.lab.studies.rebuild import collect as bring
    from ungated.lab.studies.storage import check_storage, is_server
    from ungated.lab.studies.study import open_study

    check_storage(storage, 1)
    if not is_server(storage):
        raise UsageError("say from where to collect, as in --storage postgresql://me@host/studies")
    study = open_study(directory)
    numbers = bring(study, open_trials(study, storage))
    if as_json:
        say_json({"collected": numbers})
    else:
        say(f"{len(numbers)} results collected into {directory}")


@app.command(
    short_help="Write a SLURM job array for a study.", epilog="Example: ungated study slurm runs/tune-jsb --jobs 16"
)
def slurm(
    directory: StudyPath,
    jobs: Annotated[int, typer.Option("--jobs", help="Jobs of the array.", min=1)] = 8,
    workers: Annotated[int, typer.Option("--workers", help="Runs at a time in each job.", min=1)] = 1,
    time: Annotated[str, typer.Option("--time", help="Of each job, as SLURM writes it.")] = "12:00:00",
    cpus: Annotated[int, typer.Option("--cpus", help="CPUs of each job.", min=1)] = 4,
    memory: Annotated[str, typer.Option("--memory", help="Of each job, as SLURM writes it.")] = "8G",
    storage: Storage = None,
    device: Device = "cpu",
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Write DIR/worker.sbatch: each job of the array is one `ungated study run`. Read it, change it, submit it."""
    from ungated.lab.studies.slurm import write_script
    from ungated.lab.studies.storage import check_storage, is_server
    from ungated.lab.studies.study import open_study

    check_storage(storage, 2)
    path = write_script(
        open_study(directory), jobs=jobs, workers=workers, device=device, time=time, cpus=cpus, memory=memory,
        data_dir=data_dir, server=is_server(storage),
    )  # fmt: skip
    say(f"wrote {path}: read it, then sbatch {path}")
    note("nothing else is needed on the cluster but this directory, seen from every node, and ungated installed")

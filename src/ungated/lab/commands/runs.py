"""train, resume, evaluate: one run."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ungated.lab.commands.options import (
    AsJson,
    CellName,
    Csv,
    DataDir,
    Debug,
    Device,
    Midi,
    Quiet,
    Seed,
    Text,
    Words,
    name_and_settings,
)
from ungated.lab.commands.output import first_process, note, published_line, say, say_json, say_table
from ungated.lab.errors import RunError, UsageError

if TYPE_CHECKING:
    from ungated.lab.training.progress import Progress
    from ungated.lab.training.recipe import Recipe

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="The run's directory, new or empty; else the next runs/NAME-NUMBER.", show_default=False
    ),
]


def train(
    words: Words = None,
    cell: CellName = None,
    text: Text = None,
    midi: Midi = None,
    csv: Csv = None,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Out = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train one recipe: to early stopping, then measure the best weights under both protocols.

    Ctrl-C saves everything; `ungated resume` goes on from there.
    """
    from ungated.lab.training.recipe import load_recipe
    from ungated.lab.training.run import RunDirectory
    from ungated.lab.training.train import train as train_run

    name, settings = name_and_settings(words, text=text, midi=midi, csv=csv)
    if name is None:
        raise UsageError("say what to train, as in `ungated train jsb --cell rru`; `ungated show` lists the recipes")
    recipe = load_recipe(name, cell, settings)
    run = RunDirectory(out if out is not None else _next_directory(recipe))
    try:
        run.check_free()
        if not quiet:
            note(f"run directory {run}")
        result = train_run(run, recipe, seed=seed, device=device, data_dir=data_dir, progress=_progress(quiet))
    except BaseException:
        if out is None:  # a directory of our own naming, if nothing came to be in it
            with contextlib.suppress(OSError):
                run.path.rmdir()
        raise
    _report(run.path, result, as_json)


def resume(
    run: RunPath,
    cell: CellName = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, ...; else the run's own.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that was stopped or killed; the result is that of a run that never stopped.

    --cell is needed only where the run's cell is your own.
    """
    from ungated.lab.training.run import RunDirectory
    from ungated.lab.training.train import resume as resume_run

    directory = RunDirectory(run)
    result = resume_run(directory, cell=cell, device=device, data_dir=data_dir, progress=_progress(quiet))
    _report(run, result, as_json)


def evaluate(
    run: RunPath,
    mc_samples: Annotated[
        int | None,
        typer.Option("--mc-samples", help="Language models: average this many passes with dropout.", min=1),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="With --mc-samples: valid or test (the default).", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="With --mc-samples: of the passes; 0 by default.", show_default=False)
    ] = None,
    word_masks: Annotated[
        str | None,
        typer.Option(
            "--word-masks",
            help="With --mc-samples: position or type; the model's by default.",
            show_default=False,
        ),
    ] = None,
    accept_below: Annotated[
        float | None,
        typer.Option(
            "--accept-below",
            help="With --mc-samples: leave out passes of a higher perplexity (the RHN authors: 500).",
            show_default=False,
        ),
    ] = None,
    cell: CellName = None,
    device: Device = "cpu",
    data_dir: DataDir = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a run's best weights again, on validation and test, under both protocols.

    With --mc-samples: by Monte-Carlo dropout. The samples are kept in the run's directory, and a later call adds to
    them.
    """
    from ungated.lab.commands.monte_carlo import check_options, evaluate_samples
    from ungated.lab.training.evaluate import evaluate_run
    from ungated.lab.training.run import RunDirectory

    sampling = {"--split": split, "--seed": seed, "--word-masks": word_masks, "--accept-below": accept_below}
    check_options(mc_samples, sampling)
    if mc_samples is not None:
        evaluate_samples(
            run,
            samples=mc_samples,
            split=split or "test",
            seed=seed or 0,
            word_masks=word_masks,
            accept_below=accept_below,
            cell=cell,
            device=device,
            data_dir=data_dir,
            as_json=as_json,
            progress=_progress(quiet),
        )
        return
    metrics = evaluate_run(RunDirectory(run), cell=cell, device=device, data_dir=data_dir, progress=_progress(quiet))
    if as_json:
        say_json({"run": str(run), "metrics": metrics})
    else:
        _say_metrics(metrics)


def _progress(quiet: bool) -> Progress:
    from ungated.lab.training.progress import make_progress

    return make_progress(quiet=quiet or not first_process())


def _next_directory(recipe: Recipe) -> Path:
    """The first free runs/NAME-NUMBER, made at once, so that no other command takes the same one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("several processes train this run together: name its directory with --out")
    stem = recipe.name.replace("/", "-")
    for number in range(1, 10_000):
        path = Path("runs") / f"{stem}-{number:04d}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(
                f"cannot make the run directory {path}: {error.strerror}; name another with --out"
            ) from error
        return path
    raise RunError(f"runs/ holds 9,999 runs of {stem}: name a directory with --out")


def _report(run: Path, result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json({"run": str(run), **result})
    else:
        ending = {"patience": "no improvement on validation", "max_epochs": "the last epoch was reached"}
        stopped = ending.get(result["stopped"], result["stopped"])
        say(f"{run}: {result['epochs']} epochs, the best was {result['best_epoch']} ({stopped})")
        if result["metrics"] is not None:
            _say_metrics(result["metrics"])
        if result["published"] is not None:
            say(published_line(result["published"]))
    if result["stopped"] == "diverged":
        raise RunError(result["message"])


def _say_metrics(metrics: dict[str, dict[str, dict[str, float | None]]]) -> None:
    from ungated.lab.reports.metrics import metric_named
    from ungated.lab.reports.tables import Table

    rows = []
    for protocol, splits in metrics.items():
        for name in next(iter(splits.values())):
            metric = metric_named(name)
            written = {split: values[name] for split, values in splits.items()}
            shown = ["not finite" if value is None else metric.written(value) for value in written.values()]
            rows.append([metric.label, protocol, *shown])
    say_table(Table(["metric", "protocol", "valid", "test"], rows, left=("protocol",)))

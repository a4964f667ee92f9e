"""The command line: words, and errors as one sentence each. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from ungated import __version__
from ungated.lab.commands import bench, compare, data, doctor, report, reproduce, runs, show, studies
from ungated.lab.commands.output import note
from ungated.lab.errors import Interrupted, LabError

app = typer.Typer(
    name="ungated",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help and errors: what a person pastes into a message stays readable
    epilog="Exit status: 0 done, 1 failed, 2 wrong use, 3 data missing, 75 interrupted with everything saved.",
)

#: What typer makes of a KeyboardInterrupt: it returns this status instead of passing it on.
_TYPERS_CTRL_C = 130


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ungated {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Recurrent networks: train one, compare several, see what was measured beside what is published."""


app.command(
    short_help="Compare cells: one table and one figure.",
    epilog="Example: ungated compare digits --cell rru --cell my_cell.py:MyCell --parameters 50K",
)(compare.compare)
app.command(short_help="Train one recipe.", epilog="Example: ungated train jsb --cell rru learning_rate=1e-3 --seed 1")(
    runs.train
)
app.command(
    short_help="Show a recipe: every setting and its origin.", epilog="Example: ungated show jsb --cell rhn depth=20"
)(show.show)
app.command(short_help="Measure a run's best weights again.", epilog="Example: ungated evaluate runs/jsb-rru-0001")(
    runs.evaluate
)
app.command(short_help="Go on with a run that was stopped.", epilog="Example: ungated resume runs/jsb-rru-0001")(
    runs.resume
)
app.command(
    short_help="Show what was measured beside what is published.",
    epilog="Example: ungated report runs/jsb-rru-0001 --collect --tables README.md",
)(report.report)
app.command(
    short_help="Run what stands behind a table or figure of the papers.",
    epilog="Example: ungated reproduce figure-2 --budget small --cells rru,gru",
)(reproduce.reproduce)
app.command(
    short_help="Measure speed against the peers.",
    epilog="Example: ungated bench --case rru-2.6m --case lstm-2.6m --rounds 5 --out benchmarks/results/mine.json",
)(bench.bench)
app.command(
    short_help="Search a cell's settings.", epilog="Example: ungated tune jsb --cell rru --trials 100 --workers 4"
)(studies.tune)
app.add_typer(studies.app, name="study", help="Many runs: grids, sweeps, variants, repeats, searches.")
app.command(
    short_help="Say which path runs for which cell here, and why not a faster one.",
    epilog="Example: ungated doctor --json",
)(doctor.doctor)
app.add_typer(data.app, name="data", help="The files that runs read.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, given as words (sys.argv's by default), and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        status = app(words, prog_name="ungated", standalone_mode=False)
        sys.stdout.flush()  # a reader that has left is noticed here, not at exit
    except LabError as error:
        return _failed(error, str(error), error.exit_status, debug)
    except BrokenPipeError:
        # Whoever read standard output is gone; Python would complain once more when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: a word it does not know, or no word at all
            message = error.format_message()
            if message.startswith("Usage:"):
                print(message, file=sys.stderr)
                return 2
            return _failed(error, message, 2, debug)
        message = " ".join(f"{error}".split())
        return _failed(
            error, f"unexpected {type(error).__name__}: {message} (--debug shows where it came from)", 1, debug
        )
    if status == _TYPERS_CTRL_C:
        note("ungated: interrupted")
        return Interrupted.exit_status
    return status if isinstance(status, int) else 0


def _failed(error: BaseException, message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    note(f"ungated: {message}")
    return status

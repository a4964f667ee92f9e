"""bench: speed against the peers, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ungated.lab.commands.options import AsJson, Debug, Device, Quiet
from ungated.lab.commands.output import note, say, say_json, say_table
from ungated.lab.errors import Interrupted, UsageError

_DTYPES = ("float32", "bfloat16", "float16", "float64")


def bench(
    device: Device = "cpu",
    cases: Annotated[
        list[str] | None,
        typer.Option("--case", help="A case to measure; once for each. All if none is named.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="In each, everything runs once.", min=1)] = 7,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Of the CPU; else torch's own choice.", min=1, show_default=False)
    ] = None,
    dtypes: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype",
            help="Ours runs in the first, torch.nn's layers in each; else the case's own.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A look: a quarter of the time steps, two rounds, no goals judged.")
    ] = False,
    compile_limit: Annotated[
        float,
        typer.Option(
            "--compile", help="Also torch.compile of the loop, given this many seconds; it takes minutes.", min=0
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of weights and inputs.", min=0)] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Keep it: FILE.json, and the tables beside it in FILE.md.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure speed and memory of every path against every peer that is here, interleaved in one process.

    Ctrl-C keeps what was measured. For figures worth keeping, let nothing else run meanwhile.
    """
    from ungated.lab.bench.machine import load
    from ungated.lab.bench.session import Settings, check_cases, run
    from ungated.lab.commands.bench_display import make_display
    from ungated.lab.files import atomic_write_json, atomic_write_text
    from ungated.lab.reports.speed import record_markdown, speed_section
    from ungated.lab.training.build import choose_device

    chosen = choose_device(device)
    check_cases(chosen.type, cases or ())
    for name in dtypes or ():
        if name not in _DTYPES:
            raise UsageError(f'there is no dtype "{name}" here: choose from {", ".join(_DTYPES)}')
    if out is not None and out.suffix != ".json":
        raise UsageError(f"--out should name a file that ends with .json, not {out}")
    settings = Settings(
        str(chosen), tuple(cases or ()), rounds, threads, tuple(dtypes or ()), quick, compile_limit, seed
    )
    if not quiet and (busy := load()) and busy[0] > 0.5:
        note(f"other work is under way here (load {busy[0]:g}): the figures will say less about the code")
    record: dict[str, Any] = {}

    def keep(measured: dict[str, Any]) -> None:
        record.update(measured)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_json(out, measured)
            atomic_write_text(out.with_suffix(".md"), record_markdown(measured, level=1) + "\n")

    stopped = False
    with make_display(quiet=quiet) as display:
        try:
            run(settings, chosen, keep, display)
        except KeyboardInterrupt:
            stopped = True
    if as_json:
        say_json(record)
    elif record:
        heading, tables, notes = speed_section(record)
        say(heading)
        for table in tables:
            say()
            say_table(table)
        say(" ".join(notes))
    if out is not None and record:
        note(f"kept {out} and {out.with_suffix('.md')}")
    if stopped:
        raise Interrupted("stopped; what was measured before is above" + (f" and in {out}" if out else ""))

"""data list, fetch, verify: the files that runs read."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ungated.lab.commands.options import AsJson, DataDir, Debug, Quiet
from ungated.lab.commands.output import note, say, say_json
from ungated.lab.errors import DataError, DataMissingError, UsageError

if TYPE_CHECKING:
    from ungated.lab.data import DataSet

app = typer.Typer(no_args_is_help=True)

Names = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Data sets; all if none is named.", show_default=False)
]


@app.command("list", short_help="List the data sets and their state.", epilog="Example: ungated data list --json")
def list_(data_dir: DataDir = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List the data sets: whether they are here, size, counts, licence and source."""
    from ungated.lab.data import DATASETS

    entries: list[dict[str, Any]] = [
        {
            "name": data_set.name,
            "kind": data_set.kind,
            "state": data_set.state(data_dir),
            "size": data_set.size,
            "counts": dict(data_set.counts),
            "summary": data_set.summary,
            "licence": data_set.licence,
            "source": data_set.source,
        }
        for data_set in DATASETS.values()
    ]
    if as_json:
        say_json(entries)
        return
    width = max(len(name) for name in DATASETS)
    for entry in entries:
        size = f"{_size(entry['size']):>9}" if entry["size"] else " " * 9
        say(f"{entry['name']:<{width}}  {entry['state']:<8}  {size}  {entry['summary']}")
        counts = ", ".join(f"{count:,} {what}" for what, count in entry["counts"].items())
        for line in (f"counts: {counts}", f"licence: {entry['licence']}", f"source: {entry['source']}"):
            say(textwrap.fill(line, 100, initial_indent=" " * (width + 2), subsequent_indent=" " * (width + 4)))


@app.command(short_help="Download data sets.", epilog="Example: ungated data fetch jsb nottingham")
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Data sets to download.", show_default=False)],
    data_dir: DataDir = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Download data sets, each file checked against its checksum; what is there already is left as it is."""
    for data_set in _named(names):
        shown = None if quiet else _Download(data_set.name)
        data_set.fetch(data_dir, shown)
        if not quiet:
            note(f"{data_set.name}: {data_set.state(data_dir)}")


@app.command(short_help="Check data sets.", epilog="Example: ungated data verify jsb")
def verify(
    names: Names = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check files against their checksums, and what is read from them against the published counts.

    Without names: every data set that is here.
    """
    from ungated.lab.data import DATASETS

    chosen = _named(names) if names else [entry for entry in DATASETS.values() if entry.state(data_dir) != "missing"]
    found = [data_set.verify(data_dir) for data_set in chosen]
    if as_json:
        say_json(
            [
                {
                    "name": entry.name,
                    "ok": entry.ok,
                    "state": entry.state,
                    "files": entry.files,
                    "counts": entry.counts,
                    "problems": entry.problems,
                }
                for entry in found
            ]
        )
    else:
        for entry in found:
            counts = ", ".join(f"{count:,} {what}" for what, count in entry.counts.items())
            say(f"{entry.name}: {f'right ({counts})' if entry.ok else '; '.join(entry.problems)}")
    if missing := [entry.name for entry in found if entry.state == "missing"]:
        raise DataMissingError(f"{', '.join(missing)}: not here; `ungated data fetch {' '.join(missing)}` downloads")
    if wrong := [entry.name for entry in found if not entry.ok]:
        raise DataError(f"{', '.join(wrong)}: not as published; take the wrong files away and fetch them again")


def _named(names: Sequence[str]) -> list[DataSet]:
    from ungated.lab.data import DATASETS
    from ungated.lab.training.settings import hint

    for name in names:
        if name not in DATASETS:
            raise UsageError(f'there is no data set "{name}"{hint(name, DATASETS)}: {", ".join(DATASETS)}')
    return [DATASETS[name] for name in names]


def _size(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


class _Download:
    """How far a download is: a line that renews itself on a terminal, one line per file elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._terminal = sys.stderr.isatty()

    def __call__(self, path: str, done: int, total: int) -> None:
        over = total > 0 and done >= total
        if self._terminal:
            share = f"{100 * done // total} % of {_size(total)}" if total else _size(done)
            print(f"\r{self._name}: {path} {share}", end="\n" if over else "", file=sys.stderr, flush=True)
        elif over:
            print(f"{self._name}: {path} {_size(total)}", file=sys.stderr)

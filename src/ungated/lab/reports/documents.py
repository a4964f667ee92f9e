"""Tables inside documents, each between two markers, written from the files that were kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ungated.lab.errors import UsageError
from ungated.lab.files import atomic_write_text
from ungated.lab.reports import measured, speed
from ungated.lab.reports.records import load_results


def begin(part: str) -> str:
    """The line before a part's tables."""
    return f"<!-- {part}: begin (written by `ungated report --tables FILE`) -->"


def end(part: str) -> str:
    """The line after them."""
    return f"<!-- {part}: end -->"


#: What a document may have a place for: by its name, how it is written from the folders of results and benchmarks.
PARTS: Mapping[str, Callable[[Path, Path], str]] = {
    "results": lambda results, benchmarks: measured.markdown(list(load_results(results).values())),
    "results in short": lambda results, benchmarks: measured.short(list(load_results(results).values())),
    "speed": lambda results, benchmarks: speed.speed_markdown(benchmarks),
    "speed in short": lambda results, benchmarks: speed.goals_markdown(benchmarks),
}


def with_tables(text: str, results: str | Path, benchmarks: str | Path) -> str:
    """`text` with the tables that it has a place for. Raises UsageError where it has none, DataError."""
    found = [part for part in PARTS if begin(part) in text or end(part) in text]
    if not found:
        places = ", or ".join(f"{begin(part)} and {end(part)}" for part in PARTS)
        raise UsageError(f"there is no place for tables: put two such lines where they should be: {places}")
    for part in found:
        before, has_begin, rest = text.partition(begin(part))
        _, has_end, after = rest.partition(end(part))
        if not has_begin or not has_end:
            raise UsageError(f"the place for {part} needs two lines, {begin(part)} and, after it, {end(part)}")
        text = f"{before}{begin(part)}\n\n{PARTS[part](Path(results), Path(benchmarks))}\n\n{end(part)}{after}"
    return text


def write_tables(document: str | Path, results: str | Path, benchmarks: str | Path) -> bool:
    """Bring the tables of a file up to date; whether anything changed. Raises as `with_tables` does."""
    document = Path(document)
    try:
        before = document.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {document}: {error.strerror}") from error
    after = with_tables(before, results, benchmarks)
    if after != before:
        atomic_write_text(document, after)
    return after != before

"""The tables of a README, each between two markers, from the files that were kept."""

from __future__ import annotations

from pathlib import Path

from ungated.lab.errors import UsageError
from ungated.lab.files import atomic_write_text
from ungated.lab.reports.measured import between, with_results
from ungated.lab.reports.speed import speed_markdown

SPEED_BEGIN = "<!-- speed: begin (written by `ungated report --readme README.md`) -->"
SPEED_END = "<!-- speed: end -->"


def with_tables(text: str, results: str | Path, benchmarks: str | Path) -> str:
    """`text` with its tables of results and, if it has a place for them, of speed. Raises UsageError, DataError."""
    text = with_results(text, results)
    if SPEED_BEGIN not in text:
        return text
    return between(text, SPEED_BEGIN, SPEED_END, speed_markdown(benchmarks))


def write_readme(readme: str | Path, results: str | Path, benchmarks: str | Path) -> bool:
    """Bring the tables of a file up to date; whether anything changed. Raises as `with_tables` does."""
    readme = Path(readme)
    try:
        before = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {readme}: {error.strerror}") from error
    after = with_tables(before, results, benchmarks)
    if after != before:
        atomic_write_text(readme, after)
    return after != before

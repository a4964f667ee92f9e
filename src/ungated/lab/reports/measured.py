"""Measured beside published: the tables that README and terminal show, from the files in results/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ungated.lab.data import DATASETS
from ungated.lab.errors import UsageError
from ungated.lab.reports.metrics import SPREAD, duration, metric_named, summarize
from ungated.lab.reports.records import Record, by_settings, load_results, machine
from ungated.lab.reports.tables import Table

BEGIN = "<!-- results: begin (written by `ungated report --readme README.md`) -->"
END = "<!-- results: end -->"

_PROTOCOLS = {
    "paper": "the papers' protocol",
    "standard": "the standard protocol",
}


def sections(records: Sequence[Record]) -> list[tuple[str, Table, list[str]]]:
    """(heading, table, notes) for each data set and each protocol its models were trained under."""
    return [section(groups) for groups in grouped(records)]


def grouped(records: Sequence[Record]) -> list[list[list[Record]]]:
    """For each data set and protocol of training, the groups of runs that differ in their seed alone."""
    parts: dict[tuple[str, str], list[list[Record]]] = {}
    for group in by_settings(records):
        parts.setdefault((group[0].dataset, group[0].protocol), []).append(group)
    return list(parts.values())


def section(groups: Sequence[Sequence[Record]]) -> tuple[str, Table, list[str]]:
    """(heading, table, notes) of the groups of one data set and protocol, a row a group."""
    first = groups[0][0]
    metric = metric_named(first.metric)
    best = "higher" if metric.higher_is_better else "lower"
    named = any("/" not in str(group[0].result["recipe"]) for group in groups)
    compared = any(group[0].result["published"] for group in groups)
    altered = any(group[0].changed for group in groups)
    columns = [
        *(["recipe"] if named else []),
        "cell",
        *(["changed"] if altered else []),
        "hidden",
        "parameters",
        "seeds",
        "valid (paper)",
        "test (paper)",
        "valid (standard)",
        "test (standard)",
        *(["published test"] if compared else []),
        "time a run",
    ]
    summary = DATASETS[first.dataset].summary if first.dataset in DATASETS else first.dataset
    heading = f"{first.dataset}: {metric.label}, {best} is better; trained under {_PROTOCOLS[first.protocol]}"
    rows = []
    for group in groups:
        changed = ", ".join(f"{name}={value}" for name, value in group[0].changed.items())
        recipe = str(group[0].result["recipe"])
        cell, *rest = _row(group, compared)
        rows.append([*([recipe] if named else []), cell, *([changed] if altered else []), *rest])
    notes = [f"{summary.rstrip('.')}."]
    if any(len(group) > 1 for group in groups):
        notes.append(f"{SPREAD}.")
    sources = {
        (published["protocol"], published["source"]): None
        for group in groups
        if (published := group[0].result.get("published"))
    }
    notes.extend(f"Published, under the {protocol} protocol: {source.rstrip('.')}." for protocol, source in sources)
    machines = sorted({machine(record.environment) for group in groups for record in group})
    notes.append(f"Time: {'; '.join(machines)}.")
    return heading, Table(columns, rows, left=("cell", "changed")), notes


def _row(group: Sequence[Record], compared: bool) -> list[str]:
    first = group[0]
    metric = metric_named(first.metric)
    published = first.result.get("published")
    measured = []
    for protocol in ("paper", "standard"):
        for split in ("valid", "test"):
            values = [value for record in group if (value := record.value(protocol, split)) is not None]
            measured.append(summarize(values).written(metric) if values else "none")
    return [
        first.cell,
        f"{first.result['hidden_size']:,}",
        f"{first.result['parameters']:,}",
        str(len(group)),
        *measured,
        *([f"{metric.written(published['value'])} ({published['protocol']})" if published else ""] if compared else []),
        duration(sum(record.seconds for record in group) / len(group)),
    ]


def markdown(records: Sequence[Record], level: int = 3) -> str:
    """All tables, each under a heading of the given level with its notes; a sentence where there is nothing."""
    if not records:
        return "No results yet."
    parts = []
    for heading, table, notes in sections(records):
        parts.append(f"{'#' * level} {heading}\n\n{table.markdown()}\n\n{' '.join(notes)}")
    return "\n\n".join(parts)


def with_results(text: str, results: str | Path) -> str:
    """`text` with what stands between the two markers replaced by the tables of `results`; UsageError without them."""
    return between(text, BEGIN, END, markdown(list(load_results(results).values())))


def between(text: str, begin: str, end: str, new: str) -> str:
    """`text` with `new` between two markers in place of what stands there. Raises UsageError where they are not."""
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise UsageError(f"there is no place for the tables: put the two lines {begin} and {end} where they should be")
    return f"{before}{begin}\n\n{new}\n\n{end}{after}"

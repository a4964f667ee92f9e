"""Measured beside published: the tables that documents and terminal show, from the files in results/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ungated.lab.data import DATASETS
from ungated.lab.reports.metrics import SPREAD, Summary, duration, metric_named, summarize
from ungated.lab.reports.records import Record, by_settings, machine
from ungated.lab.reports.tables import Table

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


@dataclass(frozen=True)
class Comparison:
    """One row of the results beside what is published for it: test, under the published value's protocol.

    Of runs trained under another protocol than their recipe's, nothing is published; they are measured under theirs.
    ours: None where no run could be measured. beyond: whether ours and the published value are further apart than
    half the 95 % interval of ours; of one seed, whose spread is not known, whether they are written differently.
    """

    group: Sequence[Record]
    protocol: str
    ours: Summary | None
    published: float | None
    beyond: bool

    @property
    def name(self) -> str:
        """ "jsb, rru", and what was changed of its recipe."""
        first = self.group[0]
        changed = ", changed" if first.changed else ""
        return f"{first.dataset}, {first.cell}{changed}"


def comparison(group: Sequence[Record]) -> Comparison:
    """A group of runs that differ in their seed alone, beside what is published."""
    first, metric = group[0], metric_named(group[0].metric)
    known = first.result.get("published") if first.own_protocol else None
    protocol = known["protocol"] if known else first.protocol
    values = [value for record in group if (value := record.value(protocol, "test")) is not None]
    ours = summarize(values) if values else None
    beyond = False
    if known and ours is not None:
        apart = abs(ours.mean - known["value"])
        beyond = metric.written(apart) != metric.written(0.0) if ours.half_width is None else apart > ours.half_width
    return Comparison(group, protocol, ours, known["value"] if known else None, beyond)


def short(records: Sequence[Record]) -> str:
    """One table of every recipe that was run as it is, without changed settings; a sentence where there is none."""
    rows = []
    for group in by_settings(records):
        found, metric = comparison(group), metric_named(group[0].metric)
        if group[0].changed or found.ours is None:
            continue
        rows.append(
            [
                f"{group[0].dataset}: {metric.label}, {'higher' if metric.higher_is_better else 'lower'} is better",
                found.protocol,
                group[0].cell,
                f"{group[0].result['parameters']:,}",
                str(len(group)),
                found.ours.written(metric),
                "" if found.published is None else metric.written(found.published),
            ]
        )
    if not rows:
        return "No results yet."
    columns = ["data set and metric", "protocol", "cell", "parameters", "seeds", "test", "published"]
    return f"{Table(columns, rows, left=('protocol', 'cell')).markdown()}\n\n{SPREAD}."

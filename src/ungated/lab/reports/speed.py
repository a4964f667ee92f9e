"""Tables of speed, from the files that `ungated bench` wrote and from runs that were trained on several paths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ungated.lab.errors import DataError
from ungated.lab.reports.metrics import metric_named
from ungated.lab.reports.records import Record, load_results
from ungated.lab.reports.tables import Table

FORMAT = 1


def load_benchmarks(folder: str | Path) -> dict[Path, dict[str, Any]]:
    """Every record in the folder, by its file. Raises DataError for a damaged one."""
    return {path: _read(path) for path in sorted(Path(folder).glob("*.json"))}


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']}, this version reads {FORMAT}")
        speed_section(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a record of `ungated bench`: {error}") from error
    return record


def speed_section(record: Mapping[str, Any]) -> tuple[str, list[Table], list[str]]:
    """(heading, tables, notes) of one record."""
    machine, settings = record["machine"], record["settings"]
    threads = "" if machine["device"] != "cpu" else f", {_number_of(machine['threads'], 'thread')}"
    heading = f"{machine['device_name']}{threads}"
    tables = [_cases(record["cases"])] if record["cases"] else []
    if record["first_use"]:
        tables.append(_first_use(record["first_use"]))
    return heading, tables, _notes(record, settings, machine)


def _cases(cases: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["case", "what", "path", "ms", "best peer", "ms of it", "ratio", "of the loop", "goals", "memory"]
    rows = []
    for case in cases:
        by_name = {variant["name"]: variant for variant in case["variants"]}
        peer = by_name.get(case["best_peer"] or "")
        for variant in case["variants"]:
            if variant["role"] != "ours":
                continue
            path = variant["name"]
            rows.append(
                [
                    case["name"],
                    f"{case['what']}, {_count(variant['parameters'])}",
                    f"{path} (taken)" if path == case["auto"] else path,
                    _spread(variant["milliseconds"]),
                    case["best_peer"] or "",
                    "" if peer is None else _spread(peer["milliseconds"]),
                    _ratio(variant["ratio_to_best_peer"]),
                    _ratio(variant["ratio_to_reference"]),
                    "; ".join(_goal(goal) for goal in case["goals"] if goal["of"] == path),
                    _memory(variant, by_name.get("reference loop")),
                ]
            )
    return Table(columns, rows, left=("what", "path", "best peer", "goals"))


def _first_use(entries: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            entry["path"],
            entry["cell"],
            *([f"{entry[key]:.3f} s" for key in ("empty_cache", "cached")] if "failed" not in entry else ["", ""]),
            entry["failed"] if "failed" in entry else "yes" if entry["met"] else "no",
        ]
        for entry in entries
    ]
    columns = ["first call of", "cell", "adds, empty cache", "adds, cached", "within the goals"]
    return Table(columns, rows, left=("cell", "within the goals"))


def _notes(record: Mapping[str, Any], settings: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    notes = []
    if record["cases"]:
        rounds = max(case["rounds"] for case in record["cases"])
        warm = ", each time after an untimed run of the same" if record.get("warm_up") else ""
        notes = [
            f"Median of {rounds} interleaved rounds{warm}, quartiles in brackets; ratios are of the same round; below"
            " 1, ours is faster.",
            f"Memory: {record['memory_kind']}; in brackets, its share of the reference loop's.",
        ]
    if record["first_use"]:
        goals = record["first_use_goals"]
        notes.append(f"First use: at most {goals['empty_cache']:g} s, then {goals['cached']:g} s.")
    if settings["quick"]:
        notes.append("Quick look: a quarter of the time steps, goals not judged.")
    if not record["complete"]:
        notes.append("Stopped before its end.")
    if left_out := _left_out(record["cases"]):
        notes.append(f"Not measured: {left_out}.")
    before, after = (f"{load[0]:g}" if load else "unknown" for load in (machine["load_before"], machine["load_after"]))
    revision = f", revision {machine['git_revision']}" if machine.get("git_revision") else ""
    notes.append(
        f"{machine['device_name']}, {_number_of(machine['cores'], 'core')}, {machine['isa']}, torch {machine['torch']}"
        f"{revision}, seed {settings['seed']}, load {before} before and {after} after, {record['started'][:10]}."
    )
    return notes


def _left_out(cases: Sequence[Mapping[str, Any]]) -> str:
    """ "cuda, graph (it runs on GPUs only); haste LSTM (not installed) in lstm-768"."""
    where: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for name, reason in case["left_out"].items():
            where.setdefault((name, reason), []).append(case["name"])
    together: dict[tuple[str, str], list[str]] = {}
    for (name, reason), names in where.items():
        place = "" if len(names) == len(cases) else f" in {', '.join(names)}"
        together.setdefault((reason, place), []).append(name)
    return "; ".join(f"{', '.join(names)} ({reason}){place}" for (reason, place), names in together.items())


def _goal(goal: Mapping[str, Any]) -> str:
    of = "" if goal["what"] == "time" else f" {goal['what']}"
    return f"{goal['ratio']:.2f} of {goal['to']}{of}, goal {goal['at_most']:.2f}: {'met' if goal['met'] else 'NOT met'}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.2f}M" if parameters >= 1e6 else f"{parameters / 1e3:.0f}K"


def _spread(spread: Mapping[str, Any]) -> str:
    """ "343 [339, 351]"."""
    if spread["median"] is None:
        return ""
    low, high = spread["quartiles"]
    return f"{_number(spread['median'])} [{_number(low)}, {_number(high)}]"


def _ratio(spread: Mapping[str, Any] | None) -> str:
    return "" if spread is None or spread["median"] is None else f"{spread['median']:.2f}"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _memory(variant: Mapping[str, Any], loop: Mapping[str, Any] | None) -> str:
    size = variant["memory_bytes"]
    if size is None:
        return ""
    share = f" ({size / loop['memory_bytes']:.2f})" if loop is not None and loop["memory_bytes"] else ""
    return f"{size / 2**20:,.1f} MiB{share}"


def training_table(records: Sequence[Record]) -> Table:
    """Complete runs of one recipe on several paths: the median epoch's time, and what came out."""
    metric = metric_named(records[0].metric)
    seconds = {_path(record): record.epoch_seconds for record in records}
    loop = seconds.get("reference")
    rows = [
        [
            f"{record.dataset}, {record.cell}, seed {record.seed}",
            _path(record),
            f"{seconds[_path(record)]:.2f}",
            "" if loop is None else f"{seconds[_path(record)] / loop:.2f}",
            f"{record.result['epochs']}",
            *(
                "none" if (value := record.value(protocol, split)) is None else metric.written(value)
                for protocol, split in (("paper", "valid"), ("paper", "test"), ("standard", "test"))
            ),
        ]
        for record in sorted(records, key=lambda record: -seconds[_path(record)])
    ]
    measured = [f"{split}: {metric.label}" for split in ("valid (paper)", "test (paper)", "test (standard)")]
    columns = ["run", "path", "seconds an epoch, median", "of the reference", "epochs", *measured]
    return Table(columns, rows, left=("path",))


def _path(record: Record) -> str:
    return str(record.environment.get("backend", "auto"))


def speed_markdown(benchmarks: str | Path, level: int = 3) -> str:
    """All of the folder: BENCHMARKS/results/*.json and BENCHMARKS/training/DATASET/CELL/PATH.json."""
    parts = []
    for record in load_benchmarks(Path(benchmarks) / "results").values():
        parts.append(record_markdown(record, level))
    parts += _trained(benchmarks, level)
    return "\n\n".join(parts) or "Nothing measured yet."


def _trained(benchmarks: str | Path, level: int) -> list[str]:
    """Complete runs that were trained on several paths."""
    parts = []
    trained: dict[tuple[str, str, int], list[Record]] = {}
    for run in load_results(Path(benchmarks) / "training").values():
        trained.setdefault((run.dataset, run.cell, run.seed), []).append(run)
    for (dataset, cell, _), runs in trained.items():
        machines = sorted({f"{run.environment.get('device_name')}, {_threads(run)}" for run in runs})
        title = f"{'#' * level} A complete `ungated train {dataset} --cell {cell}` on each path"
        parts.append(f"{title}\n\n{training_table(runs).markdown()}\n\n{'; '.join(machines)}.")
    return parts


def goals_markdown(benchmarks: str | Path) -> str:
    """What BENCHMARKS/results measured against the goals, a table a machine; and the complete runs."""
    machines: dict[str, list[dict[str, Any]]] = {}
    for record in load_benchmarks(Path(benchmarks) / "results").values():
        machines.setdefault(f"{speed_section(record)[0]}, torch {record['machine']['torch']}", []).append(record)
    parts = []
    for machine, records in machines.items():
        rounds = sorted({case["rounds"] for record in records for case in record["cases"]})
        times = "" if len(records) == 1 else f"; the {len(records)} measurements one after another"
        days = " and ".join(sorted({record["started"][:10] for record in records}))
        note = f"{machine}, {days}: median of {_span(rounds)} rounds{times}; below 1, ours is faster."
        parts.append(f"{_goals(records).markdown()}\n\n{note}")
    parts += _trained(benchmarks, 3)
    return "\n\n".join(parts) or "Nothing measured yet."


def _goals(records: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each goal, with its ratio in each record."""
    found: dict[tuple[str, str, float], list[Mapping[str, Any]]] = {}
    for record in records:
        for case in record["cases"]:
            what = f"{case['what']}, {_count(case['variants'][0]['parameters'])}"
            for goal in case["goals"]:
                found.setdefault((what, f"{goal['of']}, {goal['what']}", goal["at_most"]), []).append(goal)
    rows = []
    for (what, _, at_most), goals in found.items():
        met = sum(goal["met"] for goal in goals)
        peers = dict.fromkeys(g["to"] if g["what"] == "time" else f"{g['to']}, {g['what']}" for g in goals)
        said = ("yes" if met else "no") if len(goals) == 1 else f"{met} of {len(goals)}"
        ratios = ", ".join(f"{goal['ratio']:.2f}" for goal in goals)
        rows.append([what, goals[0]["of"], " or ".join(peers), ratios, f"{at_most:.2f}", said])
    return Table(["what", "path", "relative to", "ratio", "goal", "met"], rows, left=("path", "relative to", "met"))


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) < 2 else f"{numbers[0]} to {numbers[-1]}"


def record_markdown(record: Mapping[str, Any], level: int = 3) -> str:
    """One record under a heading of the given level."""
    heading, tables, notes = speed_section(record)
    return "\n\n".join([f"{'#' * level} {heading}", *(table.markdown() for table in tables), " ".join(notes)])


def _threads(run: Record) -> str:
    return _number_of(int(run.environment.get("threads", 1)), "thread")


def _number_of(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"

"""What `tune` and `study` do once they know the study: list it, run it, say what came out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ungated.lab.commands.compare_display import Display, make_display
from ungated.lab.commands.output import counted, note, say, say_json, say_table
from ungated.lab.reports.metrics import duration, metric_named
from ungated.lab.reports.tables import Table
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.estimate import Estimate, estimate, rows
from ungated.lab.studies.outcome import Run, StudyOutcome, read_study
from ungated.lab.studies.storage import check_storage
from ungated.lab.studies.study import Study, check_study, create_study, open_study, prepare_study
from ungated.lab.studies.team import run_study
from ungated.lab.training.build import choose_device
from ungated.lab.training.settings import shown
from ungated.lab.workers import Watcher, default_workers


def run(definition: Definition, out: Path | None, *, data_dir: Path | None, dry_run: bool, **terms: Any) -> None:
    """Begin the study in `out`, or go on with it there, or only list it."""
    check_storage(terms["storage"], terms["workers"] or default_workers(terms["device"]))
    choose_device(terms["device"])
    place = out if out is not None else Path("runs") / definition.name
    make = prepare_study if dry_run else create_study
    _go(make(place, definition, data_dir=data_dir), data_dir=data_dir, dry_run=dry_run, **terms)


def go_on(directory: Path, *, data_dir: Path | None, dry_run: bool, **terms: Any) -> None:
    """Work on the study that lies in `directory`, or only list it."""
    check_storage(terms["storage"], terms["workers"] or default_workers(terms["device"]))
    choose_device(terms["device"])
    study = open_study(directory)
    check_study(study, data_dir)
    _go(study, data_dir=data_dir, dry_run=dry_run, **terms)


def _go(
    study: Study,
    *,
    workers: int | None,
    storage: str | None,
    heartbeat: float,
    retries: int,
    device: str,
    data_dir: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    team = workers or default_workers(device)
    if dry_run:
        threads = max(1, default_workers("cpu") // team)
        _say_estimate(study, estimate(study, device=device, data_dir=data_dir, threads=threads), team, as_json)
        return
    before = read_study(study.directory.path)
    if not quiet:
        note(f"{study.definition.name}: {counted(len(before.runs), 'run')}, {team} at a time, in {study.directory}")
    with _Runs(before, team, quiet=quiet) as display:
        outcome = run_study(
            study,
            workers=team,
            device=device,
            data_dir=data_dir,
            storage=storage,
            heartbeat=heartbeat,
            retries=retries,
            watcher=display,
        )
    say_outcome(outcome, as_json=as_json)


class _Runs(Watcher):
    """Shows the runs of a study; a display counts only those that were still to be done."""

    def __init__(self, before: StudyOutcome, workers: int, *, quiet: bool) -> None:
        todo = [run for run in before.runs if run.state not in ("finished", "failed")]
        self._index = {run.number: index for index, run in enumerate(todo)}
        self._labels = [f"run {run.number} ({_words(run.label, run.values, run.seed)})" for run in todo]
        kinds = [run.label for run in todo]
        self._display = make_display(self._labels, kinds, len(before.runs), workers, quiet=quiet)

    def __enter__(self) -> Display:
        self._display.__enter__()
        return self  # type: ignore[return-value]

    def __exit__(self, *error: object) -> None:
        self._display.__exit__(*error)

    def hear(self, job: int, what: str, value: Any) -> None:
        if job not in self._index or what == "left":
            return
        if what == "started":
            self._labels[self._index[job]] = f"run {job} ({_words(value['cell'], value['values'], value['seed'])})"
        self._display.hear(self._index[job], what, value)

    def tick(self) -> None:
        self._display.tick()


def _words(label: str, values: Mapping[str, Any], seed: int) -> str:
    said = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    return ", ".join([label, *said, f"seed {seed}"])


def say_outcome(outcome: StudyOutcome, *, as_json: bool) -> None:
    """How far a study is and what was best in it, by both selections."""
    counts = {state: outcome.count(state) for state in ("finished", "failed", "running", "waiting")}
    labels = list(outcome.groups())
    if as_json:
        say_json(
            {
                "study": outcome.definition.name,
                "directory": str(outcome.directory),
                "runs": counts,
                "metric": outcome.metric,
                "protocol": outcome.protocol,
                "selected_on_validation": {label: _json(outcome.selected_on_validation(label)) for label in labels},
                "selected_on_test": {label: _json(outcome.selected_on_test(label)) for label in labels},
            }
        )
        return
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    say(f"{outcome.definition.name}: {counted(len(outcome.runs), 'run')}: {said}")
    for failed in [run for run in outcome.runs if run.state == "failed"][:5]:
        say(f"run {failed.number} failed: {failed.error}")
    if outcome.metric is None:
        return
    metric = metric_named(outcome.metric)
    say(f"{metric.label}, {outcome.protocol} protocol")
    say()
    lines = []
    for label in labels:
        chosen = (("validation", outcome.selected_on_validation(label)), ("test", outcome.selected_on_test(label)))
        for how, run in chosen:
            if run is not None:
                numbers = [metric.written(value) for split in ("valid", "test") if (value := run.value(split))]
                settings = ", ".join(f"{name}={_short(value)}" for name, value in run.values.items())
                lines.append([label, how, f"{run.number}", *numbers, settings])
    say_table(Table(["of", "selected on", "run", "valid", "test", "settings"], lines, left=("selected on", "settings")))
    say("selected on test is how the RRU authors chose; it flatters, and is not a result to expect on new data.")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def _json(run: Run | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "run": run.number,
        "values": dict(run.values),
        "seed": run.seed,
        "valid": run.value("valid"),
        "test": run.value("test"),
        "parameters": run.parameters,
        "best_epoch": run.best_epoch,
    }


def _say_estimate(study: Study, result: Estimate, workers: int, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "study": study.definition.name,
                "runs": rows(result),
                "epoch_seconds": list(result.epoch_seconds),
                "epochs": [result.least_epochs, result.most_epochs],
                "seconds_of_all": [result.least, result.most],
                "workers": workers,
            }
        )
        return
    names = list(dict.fromkeys(name for entry in result.planned for name in entry.point.values))
    lines = []
    for entry in result.planned:
        point = entry.point
        sizes = ["" if size is None else f"{size:,}" for size in (entry.hidden_size, entry.parameters)]
        seconds = "" if entry.epoch_seconds is None else duration(entry.epoch_seconds)
        values = [_short(point.values[name]) for name in names]
        lines.append([f"{point.number}", point.variant or point.cell, *values, f"{point.seed}", *sizes, seconds])
    say_table(Table(["run", "of", *names, "seed", "hidden size", "parameters", "an epoch"], lines, left=("of",)))
    if study.definition.kind == "tpe":
        space = study.definition.space_of(study.definition.labels[0])
        say("searched: " + "; ".join(f"{name} {_range(entry.table())}" for name, entry in space.items()))
    short, long = result.epoch_seconds
    pace = duration(short) if short == long else f"{duration(short)} to {duration(long)}"
    say(f"an epoch takes about {pace} (measured from a few updates of the smallest and the largest model)")
    least, most = (None if seconds is None else duration(seconds / workers) for seconds in (result.least, result.most))
    total = f"about {least}" if least == most else f"at least {least}" + (f" and at most {most}" if most else "")
    epochs = counted(result.least_epochs, "epoch")
    said = epochs if result.least_epochs == result.most_epochs else f"at least {epochs}"
    say(f"{counted(len(result.planned), 'run')} of {said}, {workers} at a time: {total}")


def _range(table: Mapping[str, Any]) -> str:
    if "choices" in table:
        return " or ".join(_short(choice) for choice in table["choices"])
    return f"{table['low']:g} to {table['high']:g}" + (", logarithmic" if "log" in table else "")

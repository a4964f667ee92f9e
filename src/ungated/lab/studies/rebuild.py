"""What run directories and storage tell each other: a storage that was lost or lags behind, other machines' results."""

from __future__ import annotations

from ungated.lab.studies.points import Point
from ungated.lab.studies.records import restore_files
from ungated.lab.studies.storage import Trials
from ungated.lab.studies.study import Study


def enter_known(study: Study, trials: Trials) -> list[int]:
    """Enter every run that is finished or failed on disk and only waiting in the storage; return their numbers.

    So a storage that was deleted, damaged or restored from an old copy is made anew, and a search goes on from all
    that it has seen.
    """
    directory, entered = study.directory, []
    for number in trials.waiting():
        run = directory.run(number)
        result = run.read_result() if run.exists else None
        if (result is None and directory.read_failure(number) is None) or not trials.take(number):
            continue
        record = directory.read_trial(number)
        if record is not None:
            point = Point.from_record(record)
            trials.note(number, "run", record)
            if study.definition.kind == "tpe":
                trials.enter(number, study.definition.space_of(point.cell), point.values)
        trials.finish(number, None if result is None else study.objective_value(result))
        entered.append(number)
    return entered


def collect(study: Study, trials: Trials) -> list[int]:
    """Bring the results of other machines from the storage into the study's directory; return their numbers."""
    collected = []
    for number in trials.over():
        run = study.directory.run(number)
        if run.finished or study.directory.read_failure(number) is not None:
            continue
        noted = trials.attributes(number)
        if "files" in noted and "run" in noted:
            restore_files(study.directory, number, noted["run"], noted["files"])
            collected.append(number)
    return collected

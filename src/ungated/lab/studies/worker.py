"""One worker of a study: takes a waiting run, trains it in its directory, says how it ended, takes the next."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ungated.lab.errors import Interrupted, LabError, RecipeError, RunBusyError, StudyError
from ungated.lab.studies.leases import FileLeases, Lease, Leases, new_owner
from ungated.lab.studies.points import Point, settings_of
from ungated.lab.studies.records import kept_files
from ungated.lab.studies.storage import Trials
from ungated.lab.studies.study import Study
from ungated.lab.training.progress import Outlook, Progress
from ungated.lab.training.recipe import Recipe
from ungated.lab.training.train import resume, train

#: Told what happens: (run, "started" | "epoch" | "finished" | "failed" | "left", value).
Report = Callable[[int, str, Any], None]


class LeaseLost(LabError):
    """Another worker has taken the run, since this one had not renewed its lease for too long."""


class Worker:
    """Works through a study, run after run.

    leases: where its leases are kept. shared: whether all workers see the study's directory; if not, what a run leaves
    is put into the storage. heartbeat: seconds; a lease is renewed twice in that time.
    """

    def __init__(
        self,
        study: Study,
        trials: Trials,
        leases: Leases,
        *,
        shared: bool,
        heartbeat: float,
        device: str = "cpu",
        data_dir: str | Path | None = None,
        report: Report = lambda number, what, value: None,
    ) -> None:
        self.study, self.trials, self.leases = study, trials, leases
        self.shared, self.heartbeat = shared, heartbeat
        self.device, self.data_dir, self.report = device, data_dir, report
        self.owner = new_owner()
        self._stop: Callable[[], bool] = lambda: False

    def work(self, stop: Callable[[], bool]) -> None:
        """Go on until every run of the budget is finished or failed, or `stop` says so.

        Raises Interrupted where a run was given back on request, LabError for what would befall every other run too.
        """
        self._stop = stop
        while not stop():
            number = self._take()
            if number is not None:
                self._run(number)
            elif len(self.trials.over()) >= len(self.study.points):
                return
            else:
                time.sleep(min(1.0, self.heartbeat / 8))

    def _take(self) -> int | None:
        """The first waiting run that nobody else takes first."""
        for number in self.trials.waiting():
            if self.trials.take(number):
                self.leases.write(number, Lease(self.owner, 0, self.heartbeat))
                return number
        return None

    def _run(self, number: int) -> None:
        """Bring one run to its end, or give it back."""
        try:
            with self._held(number) as lost:
                self._train(number, lost)
            self.leases.drop(number)  # after the last renewal
        except LeaseLost:
            self.report(number, "left", None)  # it is another's now: nothing is said about it
        except RunBusyError:
            self._give_back(number)
            time.sleep(min(1.0, self.heartbeat / 8))  # whoever has it is alive, and has only lost the lease
        except BaseException:
            self.trials.patience = 0.0  # who leaves does not wait for a storage that is away: the lease will be over
            with contextlib.suppress(StudyError):
                self._give_back(number)
            raise

    def _give_back(self, number: int) -> None:
        # In this order: once the run is waiting, a lease would be another's.
        self.leases.drop(number)
        self.trials.give_back(number)
        self.report(number, "left", None)

    @contextlib.contextmanager
    def _held(self, number: int) -> Iterator[threading.Event]:
        """Renew the lease as long as the block runs; the event is set when it was lost."""
        done, lost = threading.Event(), threading.Event()

        def renew() -> None:
            beat = 0
            while not done.wait(self.heartbeat / 2):
                beat += 1
                with contextlib.suppress(Exception):  # the next beat may reach the storage again
                    lease = self.leases.read().get(number)
                    if lease is None or lease.owner != self.owner:
                        lost.set()
                        return
                    self.leases.write(number, Lease(self.owner, beat, self.heartbeat))

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            done.set()
            thread.join(self.heartbeat)  # no longer: it may be waiting for a storage that is away

    def _train(self, number: int, lost: threading.Event) -> None:
        try:
            point, recipe = self._point(number)
        except RecipeError as error:  # of a search: settings that do not go together
            self._fail(number, str(error))
            return
        run = self.study.directory.run(number)
        self.report(number, "started", point.record(self.study.settings(recipe)))
        progress = _Watched(lambda entry: self.report(number, "epoch", entry), lost, self._stop)
        try:
            if run.exists:
                result = resume(
                    run, recipe, cell=recipe.own_cell, device=self.device, data_dir=self.data_dir, progress=progress
                )
            else:
                result = train(
                    run, recipe, seed=point.seed, device=self.device, data_dir=self.data_dir, progress=progress
                )
        except RecipeError as error:
            self._fail(number, str(error))
        except (LabError, OSError):
            raise  # the disk, the data, the directory: other runs would fare no better
        except Exception as error:  # one run's own trouble: out of memory, a cell of one's own that fails
            self._fail(number, _words(error))
        else:
            self._finish(number, result)

    def _point(self, number: int) -> tuple[Point, Recipe]:
        """What run `number` is: as it was begun before, or as the study lists or draws it now."""
        definition, directory = self.study.definition, self.study.directory
        record = directory.read_trial(number) or self.trials.attributes(number).get("run")
        point = self.study.points[number] if record is None else Point.from_record(record)
        if definition.kind == "tpe":
            space = definition.space_of(point.cell)
            if record is None:
                values = self.trials.draw(number, space, definition.sampler, definition.seeds[0])
                point = Point(number, point.cell, None, values, point.seed)
            else:
                self.trials.enter(number, space, point.values)
        try:
            recipe = self.study.recipe(point)
        except RecipeError:
            directory.write_trial(point.record(settings_of(definition, point)))
            raise
        record = point.record(self.study.settings(recipe))
        directory.write_trial(record)
        self.trials.note(number, "run", record)
        return point, recipe

    def _finish(self, number: int, result: Mapping[str, Any]) -> None:
        """Say how a run that has its result ended."""
        self._end(number, self.study.objective_value(result))
        self.report(number, "finished", dict(result))

    def _fail(self, number: int, error: str) -> None:
        self.study.directory.write_failure(number, error, int(self.trials.attributes(number).get("deaths", 0)))
        self._end(number, None)
        self.report(number, "failed", error)

    def _end(self, number: int, value: float | None) -> None:
        if not self.shared:
            self.trials.note(number, "files", kept_files(self.study.directory, number))
        self.trials.finish(number, value)


class ServerLeases:
    """Leases noted with the trials of a storage that is a server."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    def write(self, number: int, lease: Lease) -> None:
        self._trials.note(number, "lease", list(lease))

    def read(self) -> Mapping[int, Lease]:
        return self._trials.leases()

    def drop(self, number: int) -> None:
        self._trials.note(number, "lease", None)


def leases_of(study: Study, trials: Trials, *, server: bool) -> Leases:
    """Where the study's leases are kept."""
    return ServerLeases(trials) if server else FileLeases(study.directory.leases)


class _Watched(Progress):
    """Tells of every epoch; ends the run, with nothing written, when its lease was lost."""

    def __init__(
        self, epoch: Callable[[tuple[int, int]], None], lost: threading.Event, stop: Callable[[], bool]
    ) -> None:
        self._epoch, self._lost, self._stop, self._most = epoch, lost, stop, 0

    def start(self, outlook: Outlook, epoch: int) -> None:
        self._most = outlook.max_epochs
        if self._stop():  # asked just before the run began to listen for itself
            raise Interrupted("stopped on request before the run went on")
        self._check()

    def batch(self, done: int, total: int, loss: float) -> None:
        self._check()

    def evaluating(self, split: str, done: int, total: int) -> None:
        self._check()

    def epoch(self, entry: Mapping[str, Any], best: float | None, waited: int) -> None:
        self._epoch((int(entry["epoch"]), self._most))

    def _check(self) -> None:
        if self._lost.is_set():
            raise LeaseLost("another worker has taken this run")


def _words(error: Exception) -> str:
    kind = "out of memory" if "out of memory" in str(error).lower() else type(error).__name__
    return f"{kind}: {' '.join(str(error).split())[:500]}"

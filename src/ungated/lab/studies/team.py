"""The workers of a study on this machine: started, watched, replaced when they die; and the runs of dead ones freed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ungated.lab.errors import Interrupted, LabError, StudyError
from ungated.lab.files import FileLock
from ungated.lab.studies.leases import HEARTBEAT, Leases, Watch
from ungated.lab.studies.opening import check_same_storage, open_trials
from ungated.lab.studies.outcome import StudyOutcome, read_study
from ungated.lab.studies.rebuild import collect, enter_known
from ungated.lab.studies.storage import PATIENCE, Trials, check_storage, is_server
from ungated.lab.studies.study import Study, open_study
from ungated.lab.studies.worker import Report, Worker, leases_of
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.signals import stop_request
from ungated.lab.workers import Watcher, default_workers, end_with_parent, ending, send

#: How many workers may die with a run before it counts as failed, less one.
RETRIES = 2


@dataclass(frozen=True)
class Terms:
    """What the workers of this machine work by. storage: an address, or None for the journal in the directory."""

    directory: str
    storage: str | None = None
    devices: tuple[str, ...] = ("cpu",)
    data_dir: str | None = None
    heartbeat: float = HEARTBEAT
    threads: int = 1


def run_study(
    study: Study,
    *,
    workers: int = 1,
    device: str = "cpu",
    data_dir: str | Path | None = None,
    storage: str | None = None,
    heartbeat: float = HEARTBEAT,
    retries: int = RETRIES,
    watcher: Watcher | None = None,
) -> StudyOutcome:
    """Bring every run of the study to its end, together with whoever else works on it, and return what came out.

    Raises Interrupted (every run saved and given back), StudyError (storage), and what would befall every run: disk,
    data, device.
    """
    check_storage(storage, workers)
    check_same_storage(study, storage)
    terms = Terms(
        directory=str(study.directory),
        storage=storage,
        devices=_devices(device),
        data_dir=None if data_dir is None else str(data_dir),
        heartbeat=heartbeat,
        threads=max(1, default_workers("cpu") // workers),
    )
    with stop_request() as stop:
        trials = open_trials(study, storage, stop=lambda: bool(stop))
        enter_known(study, trials)
        team = Team(study, trials, terms, retries, watcher or Watcher())
        try:
            team.work(workers, lambda: bool(stop))
        finally:
            team.stop()
    if stop:
        raise Interrupted("stopped, with every run saved and given back: the same command goes on from there")
    if is_server(storage):
        collect(study, trials)
    return read_study(study.directory.path)


class Team:
    """The parent's side of the workers."""

    def __init__(self, study: Study, trials: Trials, terms: Terms, retries: int, watcher: Watcher) -> None:
        self._study, self._trials, self._terms, self._retries, self._watcher = study, trials, terms, retries, watcher
        self._leases: Leases = leases_of(study, trials, server=is_server(terms.storage))
        self._watch = Watch(terms.heartbeat)
        self._members: list[_Member] = []
        self._errors: list[str] = []
        self._idle_deaths = 0

    def work(self, workers: int, stop: Callable[[], bool]) -> None:
        """Until the study is complete or `stop` says so. Raises StudyError where workers ended with an error."""
        looked = -float("inf")
        for i in range(min(workers, len(self._study.points) - len(self._trials.over()))):
            self._members.append(_Member(self._terms, i))
        while self._members and not stop():
            pause = min(0.5, self._terms.heartbeat / 8)
            for pipe in wait([member.pipe for member in self._members], timeout=pause):
                member = next(member for member in self._members if member.pipe is pipe)
                self._hear(member)
            if time.monotonic() - looked >= pause:
                looked = time.monotonic()
                self._free(self._watch.over(self._trials.running(), self._leases.read()))
            self._watcher.tick()
        if self._errors:
            raise StudyError(self._errors[0])

    def _hear(self, member: _Member) -> None:
        """One message of a worker, or its end."""
        try:
            number, what, value = member.pipe.recv()
        except (EOFError, OSError):
            self._members.remove(member)
            member.process.join()
            if member.number is not None:
                self._free([member.number])
            if member.process.exitcode != 0:  # else it found nothing more to do, or said why it ended
                self._replace(member)
            return
        if what == "error":
            self._errors.append(value)
            return
        member.number = number if what in ("started", "epoch") else None
        self._watcher.hear(number, what, value)

    def _replace(self, member: _Member) -> None:
        """Another worker for one that died; not for ever, where they die before they take a run."""
        self._idle_deaths = 0 if member.number is not None else self._idle_deaths + 1
        if self._idle_deaths < 3:
            self._members.append(_Member(self._terms, member.place))
        else:
            self._errors.append(f"the workers die before they take a run, the last one was {ending(member.process)}")

    def _free(self, numbers: list[int]) -> None:
        """Let another worker take the runs of dead ones; one that too many died with has failed."""
        for number in numbers:
            if _held(self._study.directory.run(number)):
                continue
            deaths = int(self._trials.attributes(number).get("deaths", 0)) + 1
            self._leases.drop(number)
            if number in self._trials.over():  # all was done but the saying of it
                self._say_end(number)
                continue
            self._trials.note(number, "deaths", deaths)
            if deaths <= self._retries:
                self._trials.give_back(number)
                continue
            error = f"its worker died {deaths} times (too little memory?)"
            self._study.directory.write_failure(number, error, deaths)
            self._trials.finish(number, None)
            self._watcher.hear(number, "failed", error)

    def _say_end(self, number: int) -> None:
        result = self._study.directory.run(number).read_result()
        failure = self._study.directory.read_failure(number)
        if result is not None:
            self._watcher.hear(number, "finished", result)
        elif failure is not None:
            self._watcher.hear(number, "failed", failure["error"])

    def stop(self) -> None:
        """Let every worker save and give back what it is at, and wait for its end."""
        for member in self._members:
            if member.process.is_alive():
                member.process.terminate()
        for member in self._members:
            member.process.join()
            member.pipe.close()


class _Member:
    """The parent's side of one worker process. number: the run it is at."""

    def __init__(self, terms: Terms, place: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe(duplex=False)
        self.place = place
        self.number: int | None = None
        self.process: BaseProcess = context.Process(target=_work, args=(terms, place, other))
        self.process.start()
        other.close()  # the process holds its own copy; its death then ends the pipe


def _work(terms: Terms, place: int, pipe: Connection) -> None:
    """The worker process."""
    import torch

    torch.set_num_threads(min(terms.threads, torch.get_num_threads()))
    os.setsid()  # Ctrl-C in the terminal reaches the parent alone, which passes it on once
    threading.Thread(target=end_with_parent, daemon=True).start()

    def report(number: int, what: str, value: Any) -> None:
        send(pipe, number, what, value)

    with stop_request() as stop:
        try:
            _worker(terms, place, report, lambda: bool(stop)).work(lambda: bool(stop))
        except Interrupted:
            return
        except LabError as error:
            report(-1, "error", str(error))
        except Exception as error:  # said once, here; a worker that died is replaced, one that failed is not
            report(-1, "error", f"{type(error).__name__}: {error}")


def _worker(terms: Terms, place: int, report: Report, stop: Callable[[], bool]) -> Worker:
    study = open_study(terms.directory)
    trials = open_trials(study, terms.storage, stop, patience=PATIENCE)  # the command itself has reached it just now
    server = is_server(terms.storage)
    return Worker(
        study,
        trials,
        leases_of(study, trials, server=server),
        shared=not server,
        heartbeat=terms.heartbeat,
        device=terms.devices[place % len(terms.devices)],
        data_dir=terms.data_dir,
        report=report,
    )


def _devices(device: str) -> tuple[str, ...]:
    """The devices over which workers are spread: every GPU for "cuda"."""
    from ungated.lab.training.build import choose_device

    choose_device(device)
    if device != "cuda":
        return (device,)
    import torch

    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))


def _held(run: RunDirectory) -> bool:
    """Whether a living process of a machine that shares our locks writes the run."""
    lock = run.path / "run.lock"
    if not lock.exists():
        return False
    with contextlib.suppress(LabError), FileLock(lock):
        return False
    return True

"""Many runs side by side: each worker is a process of its own, with one torch thread, that trains run after run.

A run keeps its own directory, so whatever ends a worker, what it had saved is there: finished runs are not done
again, interrupted ones go on. A worker that dies takes its one run with it and is replaced.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any

from ungated.lab.errors import Interrupted, LabError, RunError
from ungated.lab.training.progress import Outlook, Progress
from ungated.lab.training.recipe import Recipe
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.signals import stop_request


@dataclass(frozen=True)
class Job:
    """One run to bring to its end. recipe: as TOML; cell: FILE.py:Class where the recipe is for one's own."""

    directory: str
    recipe: str
    cell: str | None
    seed: int
    device: str
    data_dir: str | None


class Watcher:
    """Is told how the jobs are going; this one does nothing with it."""

    def hear(self, job: int, what: str, value: Any) -> None:
        """What is new of a job, by its index: "started", "epoch" with (number, of at most), "finished", "failed"
        with its message.
        """

    def tick(self) -> None:
        """Half a second has gone by, or less."""


def default_workers(device: str) -> int:
    """As many as this process may use CPU cores; one for a GPU."""
    if device != "cpu":
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], workers: int, watcher: Watcher) -> dict[int, str]:
    """Bring every job to its end, `workers` at a time; return the message of each that failed, by its index.

    Raises Interrupted on SIGINT or SIGTERM, once every worker has saved its state.
    """
    waiting = deque(range(len(jobs)))
    failed: dict[int, str] = {}
    team: list[_Worker] = []

    def report(index: int, what: str, value: Any) -> None:
        if what == "failed":
            failed[index] = value
        watcher.hear(index, what, value)

    with stop_request() as stop:
        try:
            while (waiting or any(worker.job is not None for worker in team)) and not stop:
                team = [worker for worker in team if worker.alive]
                while len(team) < min(workers, len(waiting) + sum(worker.job is not None for worker in team)):
                    team.append(_Worker())
                for worker in team:
                    if worker.job is None and waiting:
                        index = waiting.popleft()
                        worker.give(index, jobs[index])
                        report(index, "started", None)
                busy = {worker.pipe: worker for worker in team if worker.job is not None}
                for pipe in wait(list(busy), timeout=0.5):
                    busy[pipe].hear(report)  # type: ignore[index]
                watcher.tick()
        finally:
            for worker in team:
                worker.stop()
    if stop:
        raise Interrupted("stopped, with every run's state saved: the same command goes on from there")
    return failed


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(other,))
        self.process.start()
        other.close()  # the process holds its own copy; its death then ends the pipe
        self.job: int | None = None
        self.alive = True

    def give(self, index: int, job: Job) -> None:
        self.job = index
        with contextlib.suppress(OSError):  # a worker that is dead is noticed when it is next heard
            self.pipe.send(job)

    def hear(self, report: Callable[[int, str, Any], None]) -> None:
        """Pass on one message of the worker, or its death."""
        assert self.job is not None
        try:
            what, value = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            self.alive = False
            how = ending(self.process)
            what, value = "failed", f"its process was {how} (too little memory?): the same command goes on with it"
        index = self.job
        if what in ("finished", "failed"):
            self.job = None
        report(index, what, value)

    def stop(self) -> None:
        """Let it save what it is at, and wait for its end."""
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()
        self.pipe.close()


def ending(process: BaseProcess) -> str:
    """How a process that is over came to its end, in words."""
    code = process.exitcode or 0
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _work(pipe: Connection) -> None:
    """The worker process: train what comes through the pipe until nothing more comes."""
    import torch

    torch.set_num_threads(1)
    # Of one's own group, so that Ctrl-C in the terminal reaches the parent alone, which passes it on once.
    os.setsid()
    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        try:
            _train(job, _PipeProgress(pipe))
        except Interrupted:
            return
        except LabError as error:
            send(pipe, "failed", str(error))
        except Exception as error:
            # Whatever goes wrong in one run, the other runs go on; the message says where it came from.
            send(pipe, "failed", f"{type(error).__name__}: {error}")
        else:
            send(pipe, "finished", None)


def _train(job: Job, progress: Progress) -> None:
    from ungated.lab.training.train import resume, train

    recipe = Recipe.from_toml(job.recipe, cell=job.cell, where=job.directory)
    run = RunDirectory(job.directory)
    if run.exists:
        resume(run, recipe, cell=job.cell, device=job.device, data_dir=job.data_dir, progress=progress)
    else:
        train(run, recipe, seed=job.seed, device=job.device, data_dir=job.data_dir, progress=progress)


def end_with_parent() -> None:
    """Wait for the end of the process that started this one, then ask this one to stop; for a thread of its own."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def send(pipe: Connection, *message: Any) -> None:
    """Tell the parent, if it is still there."""
    with contextlib.suppress(OSError):  # the parent is gone: so is the reader
        pipe.send(message)


class _PipeProgress(Progress):
    """Tells the parent of every epoch."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._max_epochs = 0

    def start(self, outlook: Outlook, epoch: int) -> None:
        self._max_epochs = outlook.max_epochs

    def epoch(self, entry: Mapping[str, Any], best: float | None, waited: int) -> None:
        send(self._pipe, "epoch", (int(entry["epoch"]), self._max_epochs))


class Clock(Watcher):
    """From the runs that are done, how long the others will take."""

    def __init__(self, kinds: Sequence[str], workers: int) -> None:
        """kinds: of each job, what makes its time alike (its cell)."""
        self._kinds, self._workers = kinds, workers
        self._began: dict[int, float] = {}
        self._took: dict[int, float] = {}
        self._share: dict[int, float] = {}
        self._over: set[int] = set()

    def hear(self, job: int, what: str, value: Any) -> None:
        now = time.monotonic()
        if what == "started":
            self._began[job] = now
        elif what == "epoch":
            number, most = value
            self._share[job] = number / most
        elif what in ("finished", "failed"):
            self._over.add(job)
            if what == "finished":
                self._took[job] = now - self._began[job]

    def left(self) -> float | None:
        """Seconds, None while nothing is known to go by."""
        now = time.monotonic()
        total = 0.0
        for index, kind in enumerate(self._kinds):
            if index in self._over:
                continue
            expected = self._expected(kind)
            if expected is None:
                return None
            total += max(0.0, expected - (now - self._began.get(index, now)))
        return total / self._workers

    def _expected(self, kind: str) -> float | None:
        """Seconds of one run of a kind: of such as are done, else of all that are, else by the share of epochs."""
        alike = [seconds for index, seconds in self._took.items() if self._kinds[index] == kind]
        known = alike or list(self._took.values())
        if known:
            return sum(known) / len(known)
        now = time.monotonic()
        running = [(now - self._began[index]) / share for index, share in self._share.items() if share > 0.01]
        return sum(running) / len(running) if running else None


def check_failures(failed: Mapping[int, str], names: Sequence[str]) -> None:
    """Raise RunError naming the first run that failed, and how many more did."""
    if failed:
        index, message = min(failed.items())
        more = f" ({len(failed) - 1} more failed too)" if len(failed) > 1 else ""
        raise RunError(f"{names[index]}: {message}{more}")

"""Worker processes that are killed, stopped, and begin again, by one command or two: the budget stays exact."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ungated.lab.errors import StudyError
from ungated.lab.studies.leases import FileLeases, Lease
from ungated.lab.studies.opening import open_trials
from ungated.lab.studies.outcome import read_study
from ungated.lab.studies.study import Study, create_study, open_study
from ungated.lab.studies.team import run_study
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.train import train
from ungated.lab.workers import Watcher

from .conftest import MakeStudy
from .processes import alive, at_work, begin, results, wait_for

pytestmark = pytest.mark.timeout(600)

#: Seconds: the shortest that a loaded machine keeps up with.
HEARTBEAT = 3.0


class Heard(Watcher):
    """What a team tells, and what ended when."""

    def __init__(self) -> None:
        self.ended: list[int] = []

    def hear(self, job: int, what: str, value: object) -> None:
        if what in ("finished", "failed"):
            self.ended.append(job)


def repeats(make_study: MakeStudy, runs: int, epochs: int) -> Study:
    return make_study(kind="repeats", seeds=tuple(range(runs)), settings={"max_epochs": epochs})


def halted(path: Path, victims: dict[int, int]) -> bool:
    """Halt two workers and note them, both in mid-run; otherwise let them go on."""
    victims.clear()
    victims.update(at_work(path))
    for pid in victims.values():
        os.kill(pid, signal.SIGSTOP)
    if len(victims) == 2 and not set(results(path)) & set(victims):
        return True
    for pid in victims.values():
        os.kill(pid, signal.SIGCONT)
    return False


#: A cell whose worker is killed when its run has ended and nobody was told.
FATAL = """
import multiprocessing, os, signal
from ungated import GRUCell
from ungated.lab.studies.storage import Trials

class Fatal(GRUCell):
    pass

def finish(self, number, value, *, whole=Trials.finish):
    whole(self, number, value)
    os.kill(os.getpid(), signal.SIGKILL)

if multiprocessing.parent_process() is not None:
    Trials.finish = finish
"""


def test_a_run_is_said_to_have_ended_though_its_worker_died_before_it_said_so(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    (tmp_path / "cells.py").write_text(FATAL)
    study = make_study(cells=(f"{tmp_path}/cells.py:Fatal",), kind="repeats", seeds=(0, 1))
    heard = Heard()
    assert run_study(study, workers=1, heartbeat=HEARTBEAT, watcher=heard).complete
    assert heard.ended == [0, 1]


def test_two_workers_killed_in_mid_run_and_every_run_ends_once(make_study: MakeStudy, tmp_path: Path) -> None:
    study = repeats(make_study, 6, 60)
    path, victims = study.directory.path, dict[int, int]()

    def kill_two() -> None:
        wait_for(lambda: results(path) and halted(path, victims), "two runs should be under way")
        for pid in victims.values():
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_two, daemon=True)
    killer.start()
    heard = Heard()
    outcome = run_study(study, workers=2, heartbeat=HEARTBEAT, watcher=heard)
    killer.join()
    assert len(victims) == 2
    assert results(path) == list(range(6)) and outcome.complete
    assert sorted(heard.ended) == list(range(6)), "none is lost and none ends twice"
    trials = open_trials(study, None)
    assert trials.over() == list(range(6)) and trials.running() == []
    assert [number for number in range(6) if trials.attributes(number).get("deaths")] == sorted(victims)
    assert not list((path / "leases").iterdir()) and not list((path / "failures").iterdir())
    # A run that was gone on with is the one that nobody killed.
    number = min(victims)
    train(RunDirectory(tmp_path / "whole"), study.recipe(study.points[number]), seed=number)
    again = study.directory.run(number).path / "result.json"
    assert again.read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()


def test_stopped_killed_and_gone_on_with_by_another_command(make_study: MakeStudy, tmp_path: Path) -> None:
    study = repeats(make_study, 3, 150)
    path = study.directory.path
    words = ("study", "run", "study", "--workers", "1", "--quiet", "--heartbeat", f"{HEARTBEAT}")

    # SIGTERM: the run is saved and given back.
    command = begin(tmp_path, *words)
    wait_for(lambda: list(path.glob("runs/*/metrics.jsonl")), "a run should be under way")
    (worker,) = at_work(path).values()
    command.send_signal(signal.SIGTERM)
    assert command.wait(120) == 75, (tmp_path / "log").read_text()
    assert "the same command goes on" in (tmp_path / "log").read_text()
    assert not alive(worker)
    assert list(path.glob("runs/*/state-*")), "its state is saved"
    assert not list((path / "leases").iterdir()) and open_trials(study, None).running() == []

    # kill -9 of the command and its worker at once: nobody can give the run back.
    command = begin(tmp_path, *words)
    wait_for(lambda: at_work(path), "the run should be gone on with")
    (taken, worker) = next(iter(at_work(path).items()))
    os.kill(command.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    command.wait(60)
    assert open_trials(study, None).running() == [taken]

    looks: list[float] = []  # while the dead worker's lease still stands

    class Looks(Watcher):
        def tick(self) -> None:
            if at_work(path).get(taken) == worker:
                looks.append(time.monotonic())

    assert run_study(open_study(path), workers=1, heartbeat=HEARTBEAT, watcher=Looks()).complete
    assert results(path) == [0, 1, 2]
    # Within two heartbeats of the first look; one more for a machine that is busy with something else.
    assert looks and looks[-1] - looks[0] < 3 * HEARTBEAT
    assert open_trials(study, None).attributes(taken)["deaths"] == 1


def test_a_run_with_which_too_many_workers_died_has_failed(make_study: MakeStudy) -> None:
    study = make_study(axes={"learning_rate": (0.01,)})
    trials, leases = open_trials(study, None), FileLeases(study.directory.leases)
    trials.take(0)
    trials.note(0, "deaths", 2)
    leases.write(0, Lease("dead:1:0", 0, 0.5))
    outcome = run_study(study, workers=1, heartbeat=0.5, retries=2)
    assert outcome.runs[0].state == "failed"
    assert outcome.runs[0].error == "its worker died 3 times (too little memory?)"
    assert outcome.complete


def test_what_would_befall_every_run_ends_the_command_in_one_sentence(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    (study.directory.path / "runs").rmdir()
    (study.directory.path / "runs").write_text("in the way")
    with pytest.raises(StudyError, match="is a file"):
        run_study(study, workers=1)
    assert open_trials(study, None).waiting() == [0, 1, 2]
    with pytest.raises(StudyError, match="SQLite is for one worker"):
        run_study(study, workers=2, storage=f"sqlite:///{tmp_path}/study.db")


def test_an_outcome_of_a_study_that_has_only_begun(make_study: MakeStudy) -> None:
    study = make_study()
    open_trials(study, None).take(1)
    FileLeases(study.directory.leases).write(1, Lease("here:1:0", 0, 60.0))
    outcome = read_study(study.directory.path)
    assert [run.state for run in outcome.runs] == ["waiting", "running", "waiting"]
    assert (outcome.metric, outcome.selected_on_validation(), outcome.complete) == (None, None, False)
    with pytest.raises(StudyError, match="another study"):
        create_study(study.directory.path, study.definition.replace(seeds=(5,)))

"""One worker, in this process: how runs begin, end, fail, are given back, lost, and gone on with."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ungated.lab.errors import DataMissingError, Interrupted, LabError
from ungated.lab.files import FileLock
from ungated.lab.studies import worker as worker_module
from ungated.lab.studies.leases import FileLeases, Lease, Watch
from ungated.lab.studies.opening import open_trials
from ungated.lab.studies.outcome import read_study
from ungated.lab.studies.spaces import Dimension
from ungated.lab.studies.study import Study
from ungated.lab.studies.worker import Worker

from .conftest import MakeStudy


def hired(study: Study, **terms: Any) -> tuple[Worker, list[tuple[int, str]]]:
    """A worker, and what it says."""
    said: list[tuple[int, str]] = []

    def report(number: int, what: str, value: Any) -> None:
        said.append((number, what))

    trials = open_trials(study, None)
    given = {"shared": True, "heartbeat": 5.0, "report": report} | terms
    return Worker(study, trials, FileLeases(study.directory.leases), **given), said


def never() -> bool:
    return False


def test_runs_one_after_the_other_and_both_selections(make_study: MakeStudy) -> None:
    study = make_study(seeds=(0, 1))
    worker, said = hired(study)
    worker.work(never)
    assert [entry for entry in said if entry[1] in ("started", "finished")] == [
        (number, what) for number in range(6) for what in ("started", "finished")
    ]
    outcome = read_study(study.directory.path)
    assert outcome.complete and outcome.count("finished") == 6
    assert (outcome.metric, outcome.protocol, outcome.higher_is_better) == ("accuracy", "standard", True)
    values = {split: [run.value(split) for run in outcome.runs] for split in ("valid", "test")}
    honest, papers = outcome.selected_on_validation(), outcome.selected_on_test()
    assert honest is not None and honest.value("valid") == max(values["valid"])
    assert papers is not None and papers.value("test") == max(values["test"])
    assert list(outcome.groups()) == ["gru"]
    run = outcome.runs[4]
    assert (run.cell, run.variant, run.seed, run.values) == ("gru", None, 1, {"learning_rate": 0.02})
    assert run.settings == {"optimizer.learning_rate": 0.02}
    assert (run.hidden_size, run.epochs, run.best_epoch, len(run.curve)) == (3, 1, 1, 1)
    assert run.value("test", "paper", "accuracy") is not None and run.seconds > 0
    assert not list(study.directory.leases.iterdir())

    # Once more: nothing is done again.
    worker, said = hired(study)
    worker.work(never)
    assert said == []


def test_a_search_draws_each_run_and_keeps_what_it_drew(make_study: MakeStudy) -> None:
    study = make_study(kind="tpe", trials=3, space={"learning_rate": Dimension(1e-3, 1e-1, log=True)})
    assert [run.values for run in read_study(study.directory.path).runs] == [{}, {}, {}]
    hired(study)[0].work(never)
    drawn = [run.values["learning_rate"] for run in read_study(study.directory.path).runs]
    assert len(set(drawn)) == 3
    assert [run.settings["optimizer.learning_rate"] for run in read_study(study.directory.path).runs] == drawn


def test_variants_and_settings_that_a_cell_calls_otherwise(make_study: MakeStudy) -> None:
    rows = {"after": {"reset": "after"}, "before": {"reset": "before"}}
    hired(study := make_study("variants", kind="variants", variants=rows))[0].work(never)
    assert list(read_study(study.directory.path).groups()) == ["after", "before"]
    study = make_study("keys", axes={"size": (2, 4)}, keys={"gru": {"size": ("hidden_size",)}})
    hired(study)[0].work(never)
    assert [run.hidden_size for run in read_study(study.directory.path).runs] == [2, 4]


CELL = """
import torch
from ungated import Cell

class Odd(Cell):
    def __init__(self, input_size, hidden_size, how="well"):
        super().__init__(input_size, hidden_size)
        self.how = how
        self.W = torch.nn.Parameter(torch.zeros(input_size, hidden_size))

    def step(self, x, h, noise=None):
        if self.how == "memory":
            raise MemoryError("CUDA out of memory.\\nTried to allocate")
        h = h + x @ self.W + (float("nan") if self.how == "nan" else 0.0)
        return h, h
"""


def test_failures_and_divergence_are_recorded_and_the_study_goes_on(make_study: MakeStudy, tmp_path: Path) -> None:
    (tmp_path / "cells.py").write_text(CELL)
    study = make_study(cells=(f"{tmp_path}/cells.py:Odd",), axes={"how": ("memory", "nan", "well")})
    hired(study)[0].work(never)
    outcome = read_study(study.directory.path)
    memory, diverged, well = outcome.runs
    assert (memory.state, memory.error) == ("failed", "out of memory: CUDA out of memory. Tried to allocate")
    assert (diverged.state, diverged.diverged) == ("failed", True)
    assert "not finite" in diverged.error
    assert (well.state, well.error) == ("finished", "")
    assert outcome.complete and outcome.selected_on_test() == well
    assert open_trials(study, None).over() == [0, 1, 2]


def test_asked_to_stop_it_gives_the_run_back_and_the_next_worker_goes_on_with_it(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(axes={"max_epochs": (3,)})
    whole = make_study("whole", axes={"max_epochs": (3,)})
    hired(whole)[0].work(never)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        # As a signal in the middle of training: the state is saved, Interrupted comes.
        progress = options["progress"]
        after = progress.epoch

        def epoch(*arguments: Any) -> None:
            after(*arguments)
            signal.raise_signal(signal.SIGTERM)

        progress.epoch = epoch
        return train(*arguments, **options)

    import signal

    from ungated.lab.training.train import train

    monkeypatch.setattr(worker_module, "train", interrupted)
    worker, said = hired(study)
    with pytest.raises(Interrupted):
        worker.work(never)
    assert said[-1] == (0, "left")
    assert open_trials(study, None).waiting() == [0]
    assert not list(study.directory.leases.iterdir())
    assert read_study(study.directory.path).runs[0].state == "waiting"
    hired(study)[0].work(never)
    results = [(s.directory.run(0).path / "result.json").read_bytes() for s in (study, whole)]
    assert results[0] == results[1], "as if it had not been interrupted"


def test_data_that_are_missing_end_the_worker_and_not_the_runs(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: Any, **options: Any) -> None:
        raise DataMissingError("no such data here")

    study = make_study()
    monkeypatch.setattr(worker_module, "train", missing)
    with pytest.raises(LabError, match="no such data"):
        hired(study)[0].work(never)
    assert open_trials(study, None).waiting() == [0, 1, 2]


def test_a_worker_that_slept_too_long_notices_and_writes_nothing(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(axes={"max_epochs": (4000,)})
    worker, said = hired(study, heartbeat=0.2)
    leases = FileLeases(study.directory.leases)
    stolen = threading.Event()

    def steal() -> None:
        while (0, "epoch") not in said:
            time.sleep(0.01)
        worker.trials.take = lambda number: False  # type: ignore[method-assign]
        stolen.set()
        while (0, "left") not in said and (0, "finished") not in said:  # until no renewal comes in between
            leases.write(0, Lease("another", 0, 0.2))
            time.sleep(0.02)

    thief = threading.Thread(target=steal, daemon=True)
    thief.start()
    worker.work(lambda: (0, "left") in said)
    thief.join(60)
    assert stolen.is_set() and said[-1] == (0, "left")
    assert leases.read()[0].owner == "another", "the lease of the other is left alone"
    assert open_trials(study, None).running() == [0]
    assert not study.directory.run(0).finished


def test_a_run_that_another_process_writes_is_left_to_it(make_study: MakeStudy) -> None:
    study = make_study(axes={"learning_rate": (0.01,)})
    run = study.directory.run(0).path
    run.mkdir()
    worker, said = hired(study, heartbeat=0.5)
    with FileLock(run / "run.lock"):
        worker.work(lambda: said.count((0, "left")) == 2)
    assert said == [(0, "started"), (0, "left")] * 2
    hired(study)[0].work(never)
    assert read_study(study.directory.path).complete


# Leases


def test_a_lease_is_over_when_it_is_no_longer_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = Watch(heartbeat=8.0)
    over: list[int] = []
    beats = {1: 0, 2: 0}
    while now < 124.0:
        beats[1] += now % 4.0 == 0.0  # renewed twice a heartbeat
        over = watch.over([1, 2, 3], {number: Lease("a", beat, 8.0) for number, beat in beats.items()})
        assert over == ([] if now <= 112.0 else [2, 3]), "two is not renewed, three has none"
        now += 1.0


def test_who_could_not_look_does_not_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = Watch(heartbeat=8.0)
    lease = {1: Lease("a", 0, 8.0)}
    assert watch.over([1], lease) == []
    now = 30.0  # the storage was away, or this machine slept
    assert watch.over([1], lease) == []
    for now in range(31, 42):  # noqa: B007 - the clock
        assert watch.over([1], lease) == []
    for now in range(42, 45):  # noqa: B007
        last = watch.over([1], lease)
    assert last == [1]


def test_a_lease_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    leases = FileLeases(tmp_path)
    leases.write(3, Lease("a", 1, 60.0))
    (tmp_path / "0004.json").write_text("{")
    (tmp_path / "0005.json").write_text(json.dumps({"owner": "a"}))
    assert leases.read() == {3: Lease("a", 1, 60.0)}
    assert leases.fresh(time.time()) == [3]
    assert leases.fresh(time.time() + 121) == []
    leases.drop(3)
    leases.drop(3)
    assert leases.read() == {}

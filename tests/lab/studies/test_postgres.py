"""A study over a PostgreSQL server, by machines that share nothing else, while the server is away for a while."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ungated.lab.errors import StudyError
from ungated.lab.studies.opening import open_trials
from ungated.lab.studies.outcome import StudyOutcome, read_study
from ungated.lab.studies.rebuild import collect
from ungated.lab.studies.storage import open_storage
from ungated.lab.studies.study import create_study
from ungated.lab.studies.team import run_study
from ungated.lab.training.evaluate import evaluate_run

from .conftest import MakeStudy
from .postgres import Postgres
from .processes import results, wait_for

pytestmark = pytest.mark.timeout(600)

#: For how long the server is away.
AWAY = 30.0 if os.environ.get("UNGATED_FAULTS") == "full" else 5.0
HEARTBEAT = 3.0


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


def test_two_machines_a_killed_worker_and_a_server_that_goes_away(
    make_study: MakeStudy, server: Postgres, tmp_path: Path
) -> None:
    entries = {"kind": "repeats", "seeds": tuple(range(5)), "settings": {"max_epochs": 150}}
    here, there = make_study("here", **entries), make_study("there", **entries)
    assert here.identity == there.identity
    outcomes: dict[str, StudyOutcome] = {}
    killed: list[int] = []

    def other_machine() -> None:
        outcomes["there"] = run_study(there, workers=1, storage=server.url, heartbeat=HEARTBEAT)

    def trouble() -> None:
        begun = [study.directory.path.glob for study in (here, there)]
        wait_for(lambda: any(list(glob("runs/*/metrics.jsonl")) for glob in begun), "a run should be under way")
        trials = open_trials(here, server.url)
        wait_for(trials.leases, "a worker should hold a lease")
        for lease in trials.leases().values():
            killed.append(int(lease.owner.split(":")[-2]))
            os.kill(killed[-1], signal.SIGKILL)
        server.stop()
        time.sleep(AWAY)
        server.start()

    helpers = [threading.Thread(target=work, daemon=True) for work in (other_machine, trouble)]
    for helper in helpers:
        helper.start()
    outcomes["here"] = run_study(here, workers=1, storage=server.url, heartbeat=HEARTBEAT)
    for helper in helpers:
        helper.join(300)

    assert killed
    trials = open_trials(here, server.url)
    assert trials.over() == list(range(5)) and trials.running() == []
    assert trials.leases() == {}
    contents = []
    for study in (here, there):
        assert outcomes[study.directory.path.name].complete
        assert results(study.directory.path) == list(range(5)), "each machine has all results in the end"
        contents.append([(study.directory.run(n).path / "result.json").read_bytes() for n in range(5)])
    assert contents[0] == contents[1]
    with pytest.raises(StudyError, match="handed out by postgresql://ungated@"):
        run_study(here)

    # A third machine that did nothing collects them all, and can go on from them but for the weights.
    third = create_study(tmp_path / "third", here.definition)
    assert collect(third, open_trials(third, server.url)) == list(range(5))
    outcome = read_study(third.directory.path)
    assert [run.value("test") for run in outcome.runs] == [run.value("test") for run in outcomes["here"].runs]
    assert all(run.curve for run in outcome.runs)
    with pytest.raises(Exception, match="no best weights"):
        evaluate_run(third.directory.run(0))
    assert collect(third, trials) == []


def test_a_server_without_such_a_database_is_one_sentence(server: Postgres) -> None:
    with pytest.raises(StudyError, match=r"cannot be used: .*does not exist") as caught:
        open_storage(server.url.replace("/postgres", "/missing"), Path("journal.log"))
    assert "\n" not in str(caught.value)

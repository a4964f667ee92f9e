"""Who takes which run: once each, whoever comes; and the journal, torn, damaged or gone."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from ungated.lab.errors import Interrupted, StudyError
from ungated.lab.studies.journal import open_journal
from ungated.lab.studies.opening import open_trials
from ungated.lab.studies.rebuild import enter_known
from ungated.lab.studies.spaces import Dimension
from ungated.lab.studies.storage import Trials, check_storage, open_storage
from ungated.lab.studies.study import Study

from .conftest import MakeStudy


def take_all(journal: Path, budget: int, taken: list[int]) -> None:
    """A worker whose runs take no time."""
    trials = Trials(open_journal(journal), "study", budget)
    while waiting := trials.waiting():
        if trials.take(waiting[0]):
            taken.append(waiting[0])
            assert trials.finish(waiting[0], 1.0)


def test_every_run_is_taken_once_by_workers_that_begin_at_once(tmp_path: Path) -> None:
    taken: list[list[int]] = [[] for _ in range(6)]
    threads = [threading.Thread(target=take_all, args=(tmp_path / "journal.log", 40, own)) for own in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(number for own in taken for number in own) == list(range(40))
    assert Trials(open_journal(tmp_path / "journal.log"), "study", 40).over() == list(range(40))


def test_what_is_taken_given_back_and_ended(tmp_path: Path) -> None:
    ours, theirs = (Trials(open_journal(tmp_path / "journal.log"), "study", 3) for _ in range(2))
    assert ours.take(0) and not theirs.take(0)
    assert theirs.running() == [0] and theirs.waiting() == [1, 2]
    ours.give_back(0)
    assert theirs.take(0)
    theirs.note(0, "deaths", 2)
    assert ours.attributes(0)["deaths"] == 2
    assert ours.finish(0, None) and not theirs.finish(0, 1.0)
    theirs.give_back(0)  # too late for that
    theirs.note(0, "deaths", 3)
    assert ours.over() == [0] and ours.waiting() == [1, 2]
    assert ours.attributes(0)["deaths"] == 2


def search(make_study: MakeStudy, budget: int) -> Study:
    space = {"learning_rate": Dimension(1e-4, 1e-1, log=True)}
    return make_study(kind="tpe", trials=budget, space=space)


def finish(study: Study, trials: Trials, number: int) -> None:
    """A run that was trained, as its files and the storage have it."""
    assert trials.take(number)
    values = trials.draw(number, study.definition.space_of("gru"), "optuna", 0)
    record = {"number": number, "cell": "gru", "variant": None, "values": values, "seed": 0, "settings": {}}
    study.directory.write_trial(record)
    run = study.directory.run(number).path
    run.mkdir()
    (run / "recipe.toml").touch()
    metrics = {"standard": {"valid": {"accuracy": 0.5 + number / 100}, "test": {"accuracy": 0.4}}}
    result = {"metrics": metrics, "trained_under": "standard", "metric": "accuracy"}
    (run / "result.json").write_text(json.dumps(result))
    trials.finish(number, study.objective_value(result))


def test_a_journal_cut_at_any_byte_of_its_last_record_opens_with_all_finished_runs(make_study: MakeStudy) -> None:
    study = search(make_study, 5)
    trials = open_trials(study, None)
    for number in range(3):
        finish(study, trials, number)
    whole = study.directory.journal.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    assert len(whole) - start > 50
    for cut in range(start, len(whole)):
        study.directory.journal.write_bytes(whole[:cut])
        again = open_trials(study, None)
        assert set(again.over()) | set(again.running()) == {0, 1, 2}
        # The record that was lost said that run 2 is finished: its files say so too.
        assert again.take(3), "a record is appended to the cut journal"
        again.give_back(2)
        assert enter_known(study, again) == ([2] if cut < len(whole) else [])
        reopened = open_trials(study, None)
        assert reopened.over() == [0, 1, 2] and reopened.running() == [3]


def test_a_storage_that_is_deleted_or_damaged_is_made_from_the_run_directories(make_study: MakeStudy) -> None:
    study = search(make_study, 6)
    trials = open_trials(study, None)
    for number in range(3):
        finish(study, trials, number)
    study.directory.write_failure(3, "out of memory", 0)
    before = [trial.params for trial in trials._trials()][:3]
    journal = study.directory.journal
    for spoil in ("delete", "damage"):
        if spoil == "delete":
            journal.unlink()
        else:
            lines = journal.read_bytes().splitlines(keepends=True)
            journal.write_bytes(b"".join([*lines[:4], lines[4][:-9] + b"\n", *lines[5:]]))
        again = open_trials(study, None)
        assert enter_known(study, again) == [0, 1, 2, 3]
        assert again.over() == [0, 1, 2, 3] and again.waiting() == [4, 5]
        assert [trial.params for trial in again._trials()][:3] == before
        found = [trial.value for trial in again._trials() if trial.state.name == "COMPLETE"]
        assert found == pytest.approx([-0.5, -0.51, -0.52]), "the search still minimises: accuracy is negated"
    assert (study.directory.path / "damaged-journal.log").exists()


def test_sqlite_is_for_one_worker_and_others_are_not_known() -> None:
    check_storage("sqlite:///study.db", 1)
    with pytest.raises(StudyError, match="SQLite is for one worker"):
        check_storage("sqlite:///study.db", 2)
    with pytest.raises(StudyError, match="no storage mysql"):
        check_storage("mysql://host/studies", 1)


def test_a_server_that_is_not_there_is_one_sentence_without_the_password() -> None:
    with pytest.raises(StudyError) as caught:
        open_storage("postgresql://me:secret@127.0.0.1:9/studies", Path("journal.log"))
    assert "postgresql://me@127.0.0.1:9/studies" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_journal_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot write the study's journal"):
        open_journal(tmp_path / "missing" / "journal.log")


def test_a_storage_that_cannot_be_reached_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials(open_journal(tmp_path / "journal.log"), "study", 2)
    failures = [OSError("gone"), OSError("gone")]
    reach = trials._storage.set_trial_user_attr

    def flaky(*arguments: object) -> None:
        if failures:
            raise failures.pop()
        reach(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trials._storage, "set_trial_user_attr", flaky)
    trials.note(0, "deaths", 1)
    assert trials.attributes(0)["deaths"] == 1
    failures.append(OSError("gone"))
    trials.patience = 0.0
    with pytest.raises(StudyError, match="cannot be reached: gone"):
        trials.note(0, "deaths", 2)
    failures.append(OSError("gone"))
    trials._stop = lambda: True
    with pytest.raises(Interrupted, match="gone"):
        trials.note(0, "deaths", 2)

"""The winners of finished studies as a study of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ungated.lab.errors import StudyError, UsageError
from ungated.lab.studies.leases import FileLeases
from ungated.lab.studies.opening import open_trials
from ungated.lab.studies.outcome import StudyOutcome, read_study
from ungated.lab.studies.spaces import Dimension
from ungated.lab.studies.study import Study, create_study
from ungated.lab.studies.winners import winners
from ungated.lab.studies.worker import Worker

from .conftest import MakeStudy

#: Runs of a fraction of a second.
TINY = {"train": 128, "valid": 100, "test": 100, "length": 3, "delay": 2, "symbols": 3, "hidden_size": 3}
TINY |= {"batch_size": 32, "max_epochs": 1, "patience": 1}
SPACE = {"learning_rate": Dimension(low=1e-3, high=1e-1, log=True)}


def finished(study: Study) -> StudyOutcome:
    """The study with every run done, in this process."""
    leases = FileLeases(study.directory.leases)
    Worker(study, open_trials(study, None), leases, shared=True, heartbeat=5.0).work(lambda: False)
    return read_study(study.directory.path)


def test_what_validation_selected_is_trained_with_every_seed(make_study: MakeStudy, tmp_path: Path) -> None:
    searches = [
        make_study(cell, kind="tpe", recipe="copy-memory", cells=(cell,), trials=trials, space=SPACE, settings=TINY)
        for cell, trials in (("gru", 3), ("lstm", 2))
    ]
    outcomes = [finished(search) for search in searches]

    definition = winners([search.directory.path for search in searches], seeds=2)

    study = create_study(tmp_path / "winners", definition)
    outcome = finished(study)
    assert outcome.count("finished") == 4
    assert sorted({(run.cell, run.seed) for run in outcome.runs}) == [("gru", 0), ("gru", 1), ("lstm", 0), ("lstm", 1)]
    for cell, search in zip(("gru", "lstm"), outcomes, strict=True):
        best = max(search.runs, key=lambda run: run.value("valid") or 0.0)  # accuracy
        for run in outcome.runs:
            if run.cell == cell:
                assert run.settings == best.settings
        again = next(run for run in outcome.runs if run.cell == cell and run.seed == 0)
        assert again.value("test") == best.value("test")  # the search's seed: the same run


def test_an_unfinished_study_has_no_winner(make_study: MakeStudy) -> None:
    study = make_study()
    with pytest.raises(StudyError, match=r"is not finished: `ungated study run .*study` goes on with it"):
        winners([study.directory.path])


def test_two_winners_of_one_cell(make_study: MakeStudy) -> None:
    study = make_study(axes={"learning_rate": (0.01,)})
    finished(study)
    with pytest.raises(UsageError, match="two of the studies have the cell gru"):
        winners([study.directory.path, study.directory.path])


def test_a_recipe_that_has_changed_since(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(axes={"learning_rate": (0.01,)})
    finished(study)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe.read_text().replace("batch_size = 32", "batch_size = 16"))
    with pytest.raises(StudyError, match=r"the recipe of gru is not what it was .*batch_size was 32, is 16"):
        winners([study.directory.path])


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no study"):
        winners([tmp_path])

"""The search draws what it did before, whoever draws it."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.storages import InMemoryStorage

from ungated.lab.studies.packaged import load_definition
from ungated.lab.studies.samplers import make_sampler
from ungated.lab.studies.spaces import Value
from ungated.lab.studies.storage import Trials

SPACE = load_definition("tune-music").space_of("mogrifier")

#: Learning rates that "paper" draws with seed 0 where the result of run n is |log10 lr + 3|; the first 20 are random.
PAPER = [
    *(0.002483, 0.0001509, 0.004317, 0.0001399, 0.0003154, 0.003332, 0.0006756, 0.0002014, 0.003738, 0.0002127),
    *(0.0002482, 0.0003002, 0.0003736, 0.003518, 0.0008112, 0.0002575, 0.009677, 0.005428, 0.001213, 0.0001974),
    *(0.001388, 0.0009225, 0.001623, 0.0006197, 0.001066),
]


def search(sampler: str, runs: int) -> list[dict[str, Value]]:
    """The values of a search by one worker."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials, drawn = Trials(InMemoryStorage(), "study", runs), []
    for number in range(runs):
        assert trials.take(number)
        drawn.append(trials.draw(number, SPACE, sampler, 0))
        trials.finish(number, abs(math.log10(float(drawn[-1]["learning_rate"])) + 3))
    return drawn


def test_what_the_papers_sampler_draws_does_not_change() -> None:
    assert [float(f"{values['learning_rate']:.4g}") for values in search("paper", 25)] == PAPER


def test_hyperopts_constants() -> None:
    sampler = vars(make_sampler("paper", 0, 0))
    assert sampler["_n_startup_trials"] == 20
    assert sampler["_n_ei_candidates"] == 24
    assert [sampler["_gamma"](count) for count in (20, 50, 100)] == [2, 2, 3]  # ceil(sqrt(n) / 4)
    assert sampler["_multivariate"] is False
    assert sampler["_constant_liar"] is False


@pytest.mark.parametrize("sampler", ["optuna", "paper"])
def test_a_search_draws_inside_its_space_and_improves(sampler: str) -> None:
    drawn = search(sampler, 40)
    for values in drawn:
        assert values.keys() == SPACE.keys()
        assert all(entry.holds(values[name]) for name, entry in SPACE.items())
        assert isinstance(values["rank"], int) and values["rounds"] in (5, 6)
    near = [abs(float(values["learning_rate"]) - 1e-3) < 5e-4 for values in drawn]
    assert sum(near[20:]) > sum(near[:20])


def test_each_run_has_its_own_generator() -> None:
    first, second = search("optuna", 5), search("optuna", 5)
    assert first == second
    assert len({values["learning_rate"] for values in first}) == 5

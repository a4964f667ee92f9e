"""How a search draws its next point: Optuna's TPE as it comes, or with the constants of the RRU authors' library."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ungated.lab.studies.spaces import Dimension, Value

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage


def make_sampler(name: str, seed: int, number: int) -> BaseSampler:
    """The sampler "optuna" or "paper" for run `number` of a search.

    "paper" is HyperOpt 0.2.5's `tpe.suggest`, as the RRU authors' code calls it: 20 random runs first, 24 candidates,
    a quarter of the square root of the runs are the good ones, each parameter by itself, running ones not counted.
    Each run has a sampler of its own, seeded by seed and number: Optuna does not keep a sampler's generator, so that a
    search that is resumed would otherwise draw its first points again.
    """
    from optuna.samplers import TPESampler

    word = hashlib.sha256(f"{seed} {number}".encode()).digest()
    own_seed = int.from_bytes(word[:4], "little")
    if name == "optuna":
        return TPESampler(seed=own_seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of HyperOpt's constants are deprecated since Optuna 4.9, to go with 6.0
        return TPESampler(**TPESampler.hyperopt_parameters(), seed=own_seed, multivariate=False, constant_liar=False)


def draw(
    storage: BaseStorage, study_name: str, trial_id: int, sampler: BaseSampler, space: Mapping[str, Dimension]
) -> dict[str, Value]:
    """The values of one run, drawn with regard to all that are finished, and kept in the storage."""
    import optuna

    study = optuna.load_study(study_name=study_name, storage=storage, sampler=sampler)
    trial = optuna.Trial(study, trial_id)
    return {name: entry.value(_suggest(trial, name, entry)) for name, entry in space.items()}


def _suggest(trial: Any, name: str, entry: Dimension) -> Any:
    if entry.choices:
        return trial.suggest_categorical(name, entry.choices)
    return trial.suggest_float(name, entry.low, entry.high, log=entry.log)

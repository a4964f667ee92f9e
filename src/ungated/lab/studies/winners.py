"""The best setting of each cell, as validation selects it in finished studies, trained again with several seeds.

A search's best value is the best of many draws, and flatters even on validation; runs with other seeds do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ungated.lab.errors import StudyError, UsageError
from ungated.lab.studies.definition import Definition
from ungated.lab.studies.outcome import StudyOutcome, read_study
from ungated.lab.studies.packaged import word_of
from ungated.lab.studies.spaces import Value
from ungated.lab.studies.study import with_settings
from ungated.lab.training.checkpoint import differing
from ungated.lab.training.recipe import Recipe, load_recipe
from ungated.lab.training.run import RunDirectory


def winners(paths: Sequence[str | Path], seeds: int = 5) -> Definition:
    """The study that trains each cell's winner with seeds 0, 1, ...; of several studies, each with cells of its own.

    Raises StudyError where a study is not finished or not there, and for a recipe that has changed since; UsageError
    where the studies do not go together.
    """
    outcomes = [_finished(path) for path in paths]
    recipes = {outcome.definition.recipe for outcome in outcomes}
    if len(recipes) != 1:
        raise UsageError(f"the studies are of {len(recipes)} recipes ({', '.join(sorted(recipes))}): give those of one")
    recipe = recipes.pop()
    cells: dict[str, str] = {}
    settings: dict[str, dict[str, Value]] = {}
    for outcome in outcomes:
        definition = outcome.definition
        for label, cell in zip(definition.labels, definition.cells, strict=True):
            if label in cells:
                raise UsageError(f"two of the studies have the cell {label}: give one for each")
            cells[label], settings[label] = cell, _winning(outcome, label, cell)
    return Definition(
        kind="repeats",
        name=f"winners-{word_of(recipe)}",
        recipe=recipe,
        cells=tuple(cells.values()),
        seeds=tuple(range(seeds)),
        cell_settings=settings,
        source="the settings that validation selected in " + ", ".join(_said(outcome) for outcome in outcomes),
    )


def _finished(path: str | Path) -> StudyOutcome:
    outcome = read_study(path)
    if not outcome.complete:
        raise StudyError(f"the study in {path} is not finished: `ungated study run {path}` goes on with it")
    return outcome


def _winning(outcome: StudyOutcome, label: str, cell: str) -> dict[str, Value]:
    """All that the winner sets on top of its cell's recipe; checked that it makes the same recipe today."""
    best = dataclasses.replace(
        outcome, runs=tuple(run for run in outcome.runs if run.cell == label)
    ).selected_on_validation()
    if best is None:
        raise StudyError(f"no run of the cell {label} in {outcome.directory} has a result: there is no winner")
    settings = {key: "none" if value is None else value for key, value in best.settings.items()}
    now = with_settings(load_recipe(outcome.definition.recipe, cell), settings)
    before = Recipe.from_toml(RunDirectory(best.directory).read_recipe(), cell=now.own_cell, where=str(best.directory))
    if changes := differing(before.values(), now.values()):
        raise StudyError(f"the recipe of {label} is not what it was in {outcome.directory}: {changes}")
    return settings


def _said(outcome: StudyOutcome) -> str:
    return f"{outcome.definition.name} ({', '.join(outcome.definition.labels)}; {len(outcome.runs)} runs)"

"""Finished studies without training: the files that the runs of a definition leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ungated.lab.studies.definition import Definition
from ungated.lab.studies.directory import StudyDirectory
from ungated.lab.studies.points import Point, points, settings_of

#: What a run measured: (validation after each epoch, test), or the reason why it failed.
Outcome = tuple[list[float], float] | str

RECIPE = 'dataset = "{dataset}"\nprotocol = "paper"\n[model]\ntied = {tied}\n[cell]\nname = "{cell}"\n'


def make_study(
    path: Path,
    definition: Definition,
    measure: Callable[[Point], Outcome | None],
    *,
    dataset: str = "nottingham",
    metric: str = "nll_per_frame",
    tied: bool = False,
    drawn: Callable[[Point], Mapping[str, Any]] | None = None,
) -> Path:
    """A study directory at `path`, every run with what `measure` says of it; None leaves the run waiting.

    drawn: the values that each run of a search drew.
    """
    directory = StudyDirectory(path)
    recipes = {cell: RECIPE.format(dataset=dataset, cell=cell, tied=str(tied).lower()) for cell in definition.labels}
    directory.create(definition, recipes)
    for point in points(definition):
        point = point if drawn is None else replace(point, values=drawn(point))
        measured = measure(point)
        if measured is None:
            continue
        directory.write_trial(point.record({**settings_of(definition, point), "model.hidden_size": None}))
        if isinstance(measured, str):
            directory.write_failure(point.number, measured, 0)
        else:
            _write_run(directory.run(point.number).path, recipes[point.cell], point, dataset, metric, *measured)
    return path


def _write_run(
    run: Path, recipe: str, point: Point, dataset: str, metric: str, valid: list[float], test: float
) -> None:
    run.mkdir(parents=True)
    measured = {"valid": {metric: min(valid)}, "test": {metric: test}}
    result: dict[str, Any] = {
        "dataset": dataset,
        "cell": point.cell,
        "recipe": f"{dataset}/{point.cell}",
        "seed": point.seed,
        "trained_under": "paper",
        "hidden_size": 32,
        "parameters": int(point.values.get("parameters", 20_000)),
        "epochs": len(valid),
        "best_epoch": valid.index(min(valid)) + 1,
        "steps": 10 * len(valid),
        "stopped": "max_epochs",
        "message": "",
        "metric": metric,
        "metrics": {"paper": measured, "standard": measured},
        "published": None,
        "settings": dict(point.values),
    }
    (run / "recipe.toml").write_text(recipe)
    (run / "result.json").write_text(json.dumps(result))
    environment = {"device": "cpu", "device_name": "A processor", "threads": 1, "torch": "2.13.0", "command": "secret"}
    (run / "environment.json").write_text(json.dumps(environment))
    lines = [
        {"epoch": epoch, "train_loss": 5.0 / epoch, "valid": {metric: value}, "learning_rate": 1e-3, "seconds": 1.5}
        for epoch, value in enumerate(valid, 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

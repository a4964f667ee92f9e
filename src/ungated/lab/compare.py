"""Several cells on one data set, with equal parameter budgets and several seeds: one table and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ungated.cells import CELLS
from ungated.lab.errors import RunError, UsageError
from ungated.lab.files import FileLock, atomic_write, atomic_write_json, atomic_write_text
from ungated.lab.reports.figures import comparison_figure
from ungated.lab.reports.metrics import SPREAD, Summary, metric_named, summarize
from ungated.lab.reports.records import Record, read_run
from ungated.lab.reports.tables import Table
from ungated.lab.training.build import build_task, model_size
from ungated.lab.training.checkpoint import differing
from ungated.lab.training.recipe import Recipe, load_recipe
from ungated.lab.training.run import RunDirectory
from ungated.lab.workers import Job, Watcher, check_failures, run_jobs


@dataclass(frozen=True)
class Plan:
    """What is to be compared: a recipe for each cell, seeds 0, 1, ..., and the directory of it all."""

    dataset: str
    recipes: Sequence[Recipe]
    seeds: int
    out: Path

    def directory(self, recipe: Recipe, seed: int) -> Path:
        """Where a run of the comparison lies."""
        return self.out / f"{recipe.cell}-seed{seed}"


@dataclass(frozen=True)
class Comparison:
    """Finished runs, a group of seeds for each cell, and the files that show them."""

    plan: Plan
    groups: Sequence[Sequence[Record]]
    table: Table
    notes: Sequence[str]
    report: dict[str, Any]
    markdown: Path
    figure: Path | None


def plan(
    dataset: str,
    cells: Sequence[str] = (),
    *,
    seeds: int = 3,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Plan:
    """Resolve the recipe of every cell (all of CELLS if none is named, FILE.py:Class for one's own) and check it.

    Raises UsageError for unequal budgets, a cell named twice, or a directory of other settings; RecipeError,
    DataError.
    """
    if seeds < 1:
        raise UsageError(f"--seeds should be at least 1, got {seeds}")
    recipes = [load_recipe(dataset, cell, overrides) for cell in cells or list(CELLS)]
    names = [recipe.cell for recipe in recipes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{twice[0]} is named twice: a comparison has each cell once")
    _check_budgets(dataset, recipes)
    chosen = Path(out) if out is not None else Path("runs") / f"compare-{recipes[0].dataset}"
    made = Plan(recipes[0].dataset, recipes, seeds, chosen)
    for recipe in recipes:
        # Loads the data and builds the model without memory: what cannot work is said before anything is trained.
        model_size(recipe, build_task(recipe, data_dir))
    _check_directory(made)
    return made


def _check_budgets(dataset: str, recipes: Sequence[Recipe]) -> None:
    budgets = {recipe.cell: recipe.model.parameters for recipe in recipes if recipe.model.hidden_size is None}
    if len(set(budgets.values())) > 1:
        listed = ", ".join(f"{cell} {budget:,}" for cell, budget in budgets.items())
        raise UsageError(
            f"the recipes of {dataset} have different sizes ({listed} parameters): give one budget for all, as in"
            f" --parameters {max(budgets.values(), key=lambda budget: budget or 0)}"
        )
    sizes = {recipe.model.hidden_size for recipe in recipes}
    if len(sizes) > 1:
        raise UsageError(f"some recipes of {dataset} fix a hidden size: give one budget for all with --parameters")


def _check_directory(plan: Plan) -> None:
    """A directory may hold runs of this very comparison, or nothing."""
    for recipe in plan.recipes:
        for seed in range(plan.seeds):
            run = RunDirectory(plan.directory(recipe, seed))
            if not run.exists:
                run.check_free()
                continue
            kept = Recipe.from_toml(run.read_recipe(), cell=recipe.own_cell, where=str(run))
            if different := differing(kept.values(), recipe.values()):
                raise RunError(
                    f"{run} is of other settings ({different}): choose another directory for this comparison with --out"
                )


def compare(
    plan: Plan,
    *,
    workers: int = 1,
    device: str = "cpu",
    data_dir: str | Path | None = None,
    watcher: Watcher | None = None,
) -> Comparison:
    """Bring every run to its end, then write compare.md, compare.json and compare.png into the plan's directory.

    What is finished is not done again. Raises Interrupted (everything saved), RunError where a run failed (the others
    are done and stay), RunBusyError where another process compares in that directory.
    """
    todo = unfinished(plan)
    plan.out.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.out / "compare.lock", f"the comparison {plan.out}"):
        jobs = [
            Job(
                directory=str(plan.directory(recipe, seed)),
                recipe=recipe.to_toml(),
                cell=recipe.own_cell,
                seed=seed,
                device=device,
                data_dir=None if data_dir is None else str(data_dir),
            )
            for recipe, seed in todo
        ]
        failed = run_jobs(jobs, workers, watcher or Watcher())
        check_failures(failed, [job.directory for job in jobs])
        return _written(plan)


def unfinished(plan: Plan) -> list[tuple[Recipe, int]]:
    """The runs still to be done, seed by seed: (recipe, seed)."""
    return [
        (recipe, seed)
        for seed in range(plan.seeds)
        for recipe in plan.recipes
        if not RunDirectory(plan.directory(recipe, seed)).finished
    ]


def _written(plan: Plan) -> Comparison:
    groups = [[read_run(plan.directory(recipe, seed)) for seed in range(plan.seeds)] for recipe in plan.recipes]
    table, notes = _table(groups), _notes(plan, groups)
    figure: Path | None = plan.out / "compare.png"
    try:
        image = comparison_figure(groups).png
    except ValueError:  # every run diverged: the table says so
        figure = None
    else:
        atomic_write(plan.out / "compare.png", lambda file: file.write(image))
    metric = metric_named(groups[0][0].metric)
    heading = f"# {plan.dataset}: {metric.label} of {len(groups)} cells"
    shown = f"\n\n![validation curves and test values]({figure.name})" if figure else ""
    atomic_write_text(plan.out / "compare.md", "\n\n".join([heading, table.markdown(), *notes]) + shown + "\n")
    report = _report(plan, groups)
    atomic_write_json(plan.out / "compare.json", report)
    return Comparison(plan, groups, table, notes, report, plan.out / "compare.md", figure)


def _values(group: Sequence[Record], split: str) -> Summary | None:
    values = [value for record in group if (value := record.value(record.protocol, split)) is not None]
    return summarize(values) if values else None


def _table(groups: Sequence[Sequence[Record]]) -> Table:
    metric = metric_named(groups[0][0].metric)
    rows = []
    for group in groups:
        first = group[0]
        valid, test = _values(group, "valid"), _values(group, "test")
        rows.append(
            [
                first.cell,
                f"{first.result['hidden_size']:,}",
                f"{first.result['parameters']:,}",
                valid.written(metric) if valid else "diverged",
                test.written(metric) if test else "diverged",
                f"{fmean(record.result['epochs'] for record in group):.1f}",
                f"{fmean(record.seconds for record in group):.1f}",
            ]
        )
    columns = ["cell", "hidden size", "parameters", "valid", "test", "epochs", "seconds a run"]
    return Table(columns, rows)


def _notes(plan: Plan, groups: Sequence[Sequence[Record]]) -> list[str]:
    first = groups[0][0]
    metric = metric_named(first.metric)
    better = "higher" if metric.higher_is_better else "lower"
    notes = [
        f"{metric.label[0].upper()}{metric.label[1:]}, {better} is better, under the {first.protocol} protocol;"
        f" weights chosen on validation. Mean of {plan.seeds} seed{'s' if plan.seeds > 1 else ''}"
        + (f"; {SPREAD}." if plan.seeds > 1 else ".")
    ]
    for group in groups:
        diverged = [record.seed for record in group if record.result["stopped"] == "diverged"]
        if diverged:
            seeds = ", ".join(map(str, diverged))
            notes.append(
                f"{group[0].cell} diverged with seed {seeds}: its row holds what was best before that, if any."
            )
    return notes


def _report(plan: Plan, groups: Sequence[Sequence[Record]]) -> dict[str, Any]:
    """What compare.json says: every number of the table, and the values it was made from."""

    def numbers(summary: Summary | None) -> dict[str, Any] | None:
        if summary is None:
            return None
        return {
            "mean": summary.mean,
            "std": summary.std,
            "half_width_95": summary.half_width,
            "values": list(summary.values),
        }

    first = groups[0][0]
    return {
        "dataset": plan.dataset,
        "protocol": first.protocol,
        "metric": first.metric,
        "higher_is_better": metric_named(first.metric).higher_is_better,
        "seeds": list(range(plan.seeds)),
        "cells": [
            {
                "cell": group[0].cell,
                "hidden_size": group[0].result["hidden_size"],
                "parameters": group[0].result["parameters"],
                "valid": numbers(_values(group, "valid")),
                "test": numbers(_values(group, "test")),
                "epochs": [record.result["epochs"] for record in group],
                "seconds": [round(record.seconds, 2) for record in group],
                "stopped": [record.result["stopped"] for record in group],
                "runs": [plan.directory(recipe, seed).name for seed in range(plan.seeds)],
            }
            for recipe, group in zip(plan.recipes, groups, strict=True)
        ],
    }

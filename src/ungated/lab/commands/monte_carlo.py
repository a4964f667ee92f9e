"""evaluate --mc-samples: the averaged probabilities of many passes with dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ungated.lab.commands.output import say, say_json
from ungated.lab.errors import UsageError
from ungated.lab.files import sha256_of
from ungated.lab.training.progress import Progress


def evaluate_samples(
    path: Path,
    *,
    samples: int,
    split: str,
    seed: int,
    word_masks: str | None,
    accept_below: float | None,
    cell: str | None,
    device: str,
    data_dir: Path | None,
    as_json: bool,
    progress: Progress,
) -> None:
    """Draw what is missing of `samples` passes over the split into RUN/monte-carlo-SPLIT, and show their average."""
    from ungated.lab.tasks.language import LanguageTask
    from ungated.lab.tasks.language_model import LanguageModel
    from ungated.lab.tasks.monte_carlo import monte_carlo
    from ungated.lab.training.evaluate import load_model
    from ungated.lab.training.run import RunDirectory

    if split not in ("valid", "test"):
        raise UsageError(f'--split should be valid or test, got "{split}"')
    run = RunDirectory(path)
    model, task, _ = load_model(run, cell=cell, device=device, data_dir=data_dir)
    if not isinstance(task, LanguageTask) or not isinstance(model, LanguageModel):
        raise UsageError(f"--mc-samples is for language models, and {path} is a run on {task.kind}")
    kind = word_masks or model.word_masks
    directory = path / f"monte-carlo-{split}-{kind}"
    metrics = monte_carlo(
        model,
        task,
        split,
        samples=samples,
        directory=directory,
        identity={"weights": sha256_of(path / "best.safetensors"), "data": task.signature()},
        seed=seed,
        word_masks=kind,
        accept_below=accept_below,
        progress=lambda done, total: progress.evaluating(f"{split}, Monte-Carlo passes", done, total),
    )
    progress.stop()
    if as_json:
        say_json({"run": str(path), "split": split, "samples_kept_in": str(directory), "metrics": metrics})
        return
    say(_words(metrics, task.metric, split))
    say(f"samples are kept in {directory}: a larger number adds to them")


def _words(metrics: dict[str, float], name: str, split: str) -> str:
    from ungated.lab.reports.metrics import metric_named

    metric = metric_named(name)
    rejected = f", {metrics['rejected']:.0f} rejected" if metrics["rejected"] else ""
    return (
        f"{split} {metric.label} of {metrics['samples']:.0f} averaged passes{rejected}:"
        f" {metric.written(metrics[name])} (standard protocol), {metric.written(metrics[f'{name}_paper'])}"
        f" (paper protocol); one pass alone {metric.written(metrics['one_pass'])}"
    )


def check_options(samples: int | None, options: dict[str, Any]) -> None:
    """Raise UsageError for an option that means nothing without --mc-samples."""
    given = [name for name, value in options.items() if value is not None]
    if samples is None and given:
        raise UsageError(f"{given[0]} goes with --mc-samples")

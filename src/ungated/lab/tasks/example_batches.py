"""Batches of examples: sequences that each have their own target, shuffled every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ungated.lab.data.families import Examples
from ungated.lab.errors import DataError
from ungated.lab.tasks.batching import Indices, blocks
from ungated.lab.tasks.task import Batch, Epoch, epoch_generator


def check_examples(examples: Examples, split: str, symbols: int | None) -> None:
    """DataError for no examples, for lengths that do not fit, or for input ids outside 0 .. symbols - 1."""
    inputs, lengths = examples.inputs, examples.lengths
    if len(inputs) == 0:
        raise DataError(f"the {split} examples are empty")
    if len(examples.targets) != len(inputs):
        raise DataError(f"there are {len(inputs)} {split} examples but {len(examples.targets)} targets")
    if lengths is not None and not (int(lengths.min()) >= 1 and int(lengths.max()) <= inputs.shape[1]):
        raise DataError(
            f"lengths of the {split} examples should be in 1..{inputs.shape[1]},"
            f" and are in {int(lengths.min())}..{int(lengths.max())}"
        )
    if symbols is not None:
        check_ids(inputs, symbols, f"the {split} inputs")


def check_ids(ids: Tensor, symbols: int, what: str) -> None:
    """DataError that names the first id outside 0 .. symbols - 1."""
    wrong = (ids < 0) | (ids >= symbols)
    if bool(wrong.any()):
        place = [int(i) for i in wrong.nonzero()[0]]
        raise DataError(f"{what} should be in 0..{symbols - 1}, but at {place} there is {int(ids[tuple(place)])}")


def example_batch(examples: Examples, rows: Sequence[int] | Indices) -> Batch:
    """The examples of these rows, time first, trimmed to the longest of them; every row has weight 1."""
    chosen = torch.as_tensor(np.asarray(rows))
    inputs, targets = examples.inputs[chosen], examples.targets[chosen]
    lengths = None if examples.lengths is None else examples.lengths[chosen]
    per_step = targets.dim() > 1 and examples.inputs.dim() > 1 and _has_time_axis(examples)
    if lengths is not None:
        longest = int(lengths.max())
        inputs = inputs[:, :longest]
        targets = targets[:, :longest] if per_step else targets
    return Batch(
        inputs.transpose(0, 1),
        targets.transpose(0, 1) if per_step else targets,
        lengths,
        torch.ones(len(chosen)),
        per_step=per_step,
    )


def _has_time_axis(examples: Examples) -> bool:
    """Whether there is a target for every step: (N, T, k) values, or (N, T) ids."""
    targets = examples.targets
    return targets.dim() == 3 or (targets.dim() == 2 and not targets.is_floating_point())


def shuffled_epoch(examples: Examples, batch_size: int, number: int, seed: int) -> Epoch:
    """All examples in a new order; the last batch takes the remainder."""
    order = epoch_generator(seed, number).permutation(len(examples))
    batches = blocks(len(order), batch_size)
    return Epoch(len(batches), lambda index: example_batch(examples, order[batches[index]]))


def score_examples(
    examples: Examples,
    batch_size: int,
    score: Callable[[Batch], Tensor],
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """What `score` gives for each row of a batch, (B, k), for all examples in their order: float64 (N, k).

    Examples of like length are run together, so `score` has to look at each row alone.
    """
    results: Tensor | None = None
    done = 0
    for rows in _like_lengths(examples, batch_size):
        values = score(example_batch(examples, rows)).double().cpu()
        if results is None:
            results = values.new_zeros(len(examples), values.shape[1])
        results[torch.as_tensor(rows)] = values
        done += len(rows)
        if progress is not None:
            progress(done, len(examples))
    assert results is not None
    return results


def _like_lengths(examples: Examples, batch_size: int) -> Iterator[Indices]:
    if examples.lengths is None:
        order: Indices = np.arange(len(examples), dtype=np.int64)
    else:
        order = np.argsort(examples.lengths.numpy(), kind="stable").astype(np.int64)
    for batch in blocks(len(order), batch_size):
        yield order[batch]


def average(values: Tensor, protocol: str, batch_size: int) -> list[float]:
    """Column means of (N, k): of all rows alike (standard), or of the means of batches in file order (paper).

    As the last batch takes the remainder, its rows count less under "paper" (RRU code, sa_main.py, mnist_main.py).
    """
    if protocol == "paper":
        values = torch.stack([values[batch].mean(0) for batch in blocks(len(values), batch_size)])
    return [float(mean) for mean in values.mean(0)]

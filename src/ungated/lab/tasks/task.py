"""The contract of a task: what is predicted from which data, and how that is scored.

A task cuts its data into batches, puts a head on a recurrent layer, and gives the loss and the metrics. Every
metric exists under two protocols: "standard" (the field's: each real prediction counts once) and "paper" (the
averaging rule that the published numbers of this kind of data come from). Batches are time first, as in torch.nn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ungated.cells.cell import State, map_state
from ungated.lab.errors import DataError, RecipeError
from ungated.rnn import RNN

PROTOCOLS = ("paper", "standard")
SPLITS = ("train", "valid", "test")

#: Called with (done, total) while something long goes on.
Progress = Callable[[int, int], None]

#: Width of what a layer reads -> the recurrent layer of the recipe.
MakeRNN = Callable[[int], RNN]


def choice(default: str, *others: str) -> Any:
    """A setting that takes one of a few words; `check_choices` refuses every other."""
    return field(default=default, metadata={"choices": (default, *others)})


def check_choices(settings: object) -> None:
    """Raise RecipeError if a field made by `choice` has another value than those it may take."""
    for entry in fields(settings):  # type: ignore[arg-type]
        choices, value = entry.metadata.get("choices"), getattr(settings, entry.name)
        if choices is not None and value not in choices:
            words = ", ".join(f'"{word}"' for word in choices)
            raise RecipeError(f"{entry.name} = {value!r} is not one of its values: choose from {words}")


@dataclass(frozen=True)
class Batch:
    """What one update sees.

    inputs: (T, B, m) float, or (T, B) ids. targets: (T, B, ...) if `per_step`, else (B, ...). lengths: (B,) steps
    that count, None if all do. row_weights: (B,), how much each row counts when means over rows or batches are
    combined (`Task.loss` is the mean of its rows under these weights). reset: carried state starts afresh here.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None
    row_weights: Tensor
    per_step: bool = True
    reset: bool = False

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return self.inputs.shape[1]

    @property
    def weight(self) -> float:
        """Number of predictions (for windows of equal weight: of windows); the sum of the row weights."""
        return float(self.row_weights.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; row weights stay where they are."""
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            lengths=None if self.lengths is None else self.lengths.to(device, non_blocking=True),
        )

    def part(self, index: int, parts: int) -> Batch:
        """Rows of part `index` of `parts` near-equal contiguous ones, for several processes or accumulation.

        The same rows every time, so that a stream stays with its carried state. With L_i, w_i a part's loss and
        weight, the loss of the whole batch is sum(w_i L_i) / sum(w_i). Raises DataError if there are fewer rows
        than parts.
        """
        if self.rows < parts:
            raise DataError(f"a batch of {self.rows} rows cannot be divided into {parts} parts: raise batch_size")
        rows = slice(self.rows * index // parts, self.rows * (index + 1) // parts)
        return replace(
            self,
            inputs=self.inputs[:, rows],
            targets=self.targets[:, rows] if self.per_step else self.targets[rows],
            lengths=None if self.lengths is None else self.lengths[rows],
            row_weights=self.row_weights[rows],
        )


class Epoch(Sequence[Batch]):
    """The batches of one pass over the training data, made when asked for: a resumed run starts at any of them."""

    def __init__(self, length: int, make: Callable[[int], Batch]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f"batch {index} of an epoch of {self._length}")
        return self._make(index % self._length)


def epoch_generator(seed: int, number: int) -> np.random.Generator:
    """The random numbers of an epoch's order: they depend on the run's seed and the epoch's number alone."""
    return np.random.default_rng([seed, number])


class Task(ABC):
    """Base of every task. `Settings` is what a recipe's [task] may set, `Model` what its [model] may set for it."""

    kind: ClassVar[str]
    Settings: ClassVar[type]
    Model: ClassVar[type]

    #: What early stopping watches, one of the keys of `evaluate`.
    metric: str
    higher_is_better: bool = False
    #: Whether `loss` hands on a state to the next batch.
    carries_state: bool = False

    def __init__(self, data: Any, settings: Any, *, batch_size: int, protocol: str = "standard") -> None:
        """protocol: "paper" or "standard", what the model is trained under. Raises RecipeError, DataError."""
        check_protocol(protocol)
        if batch_size < 1:
            raise RecipeError(f"batch_size = {batch_size} should be at least 1")
        check_choices(settings)
        self.data, self.settings = data, settings
        self.batch_size, self.protocol = batch_size, protocol

    @abstractmethod
    def model(self, make_rnn: MakeRNN, options: Any) -> nn.Module:
        """The recurrent layer with its head; `model.rnn` is the layer. options: an instance of `Model`."""

    @abstractmethod
    def epoch(self, number: int, seed: int) -> Epoch:
        """The batches of epoch `number` (from 1), shuffled from (seed, number) alone."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, state: State | None = None) -> tuple[Tensor, Tensor, State | None]:
        """(loss to differentiate, detached total for logging, state to hand on).

        The totals of an epoch divided by the weights of its batches give the training loss per prediction.
        """

    @abstractmethod
    def evaluate(
        self, model: nn.Module, split: str, protocol: str, progress: Progress | None = None
    ) -> dict[str, float]:
        """Metrics of the model on "train", "valid" or "test" under a protocol, in evaluation mode."""

    def signature(self) -> dict[str, Any]:
        """What of the data a trained model depends on, for comparison when it meets data again; JSON values."""
        return {"kind": self.kind}


def check_protocol(protocol: str) -> None:
    """Raise RecipeError for an unknown protocol."""
    if protocol not in PROTOCOLS:
        raise RecipeError(f'protocol = {protocol!r} is unknown: choose "paper" or "standard"')


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters (or, without any, its buffers) are."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode without gradients inside the block, the mode of before after it; gives the model's device."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield device_of(model)
    finally:
        model.train(was_training)


def in_full_precision(logits: Tensor) -> Tensor:
    """Logits in at least float32, for the loss: autocast may have made them shorter."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def first_rows(state: State, rows: int) -> State:
    """The carried state (layers, B, n) of the first rows of a batch."""
    return map_state(lambda tensor: tensor[:, :rows].contiguous(), state)


def refuse_bidirectional(rnn: RNN) -> None:
    """Raise RecipeError where a layer that reads backwards would see what it has to predict."""
    if rnn.bidirectional:
        raise RecipeError(
            "bidirectional = true would show the model the very steps it has to predict: leave it out for this task"
        )

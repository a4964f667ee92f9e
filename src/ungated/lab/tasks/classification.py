"""One class for a whole sequence: sentiment of a review, the digit that the pixels show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ungated.cells.cell import State
from ungated.lab.data.families import ClassificationData
from ungated.lab.errors import DataError, RecipeError
from ungated.lab.tasks.example_batches import average, check_examples, check_ids, score_examples, shuffled_epoch
from ungated.lab.tasks.sequence_models import FinalStateModel
from ungated.lab.tasks.task import (
    SPLITS,
    Batch,
    Epoch,
    MakeRNN,
    Progress,
    Task,
    check_protocol,
    evaluating,
    in_full_precision,
)


class ClassificationTask(Task):
    """Softmax over the classes from the final state of the top layer."""

    kind: ClassVar[str] = "classification"

    @dataclass
    class Settings:
        """What a recipe's [task] may set."""

        label_smoothing: float = 0.0  # 0.1 of 2 classes: targets 0.95 and 0.05; in training only

        def __post_init__(self) -> None:
            if not 0.0 <= self.label_smoothing < 1.0:
                raise RecipeError(f"label_smoothing = {self.label_smoothing} should be in [0, 1)")

    @dataclass
    class Model:
        """What a recipe's [model] may set for this task."""

        embedding_size: int | None = None  # where inputs are ids; none: one-hot

    metric = "accuracy"
    higher_is_better = True

    def __init__(
        self, data: ClassificationData, settings: Any = None, *, batch_size: int, protocol: str = "standard"
    ) -> None:
        """Raises DataError for a class or an id outside its range, or a split without examples."""
        super().__init__(data, settings or self.Settings(), batch_size=batch_size, protocol=protocol)
        for split in SPLITS:
            examples = getattr(data, split)
            check_examples(examples, split, data.vocabulary_size)
            check_ids(examples.targets, data.classes, f"the {split} classes")
        if data.vocabulary_size is None and data.train.inputs.dim() != 3:
            raise DataError("inputs of shape (examples, steps) are ids, but the data names no vocabulary_size")

    def model(self, make_rnn: MakeRNN, options: Any = None) -> FinalStateModel:
        return FinalStateModel(
            make_rnn,
            self.data.classes,
            features=self.data.train.inputs.shape[-1],
            symbols=self.data.vocabulary_size,
            embedding_size=(options or self.Model()).embedding_size,
        )

    def epoch(self, number: int, seed: int) -> Epoch:
        return shuffled_epoch(self.data.train, self.batch_size, number, seed)

    def loss(self, model: nn.Module, batch: Batch, state: State | None = None) -> tuple[Tensor, Tensor, State | None]:
        """Mean cross-entropy over the batch, with label smoothing."""
        logits = in_full_precision(model(batch.inputs, batch.lengths))
        loss = F.cross_entropy(logits, batch.targets, label_smoothing=self.settings.label_smoothing)
        return loss, loss.detach() * batch.rows, None

    def evaluate(
        self, model: nn.Module, split: str, protocol: str, progress: Progress | None = None
    ) -> dict[str, float]:
        """{"accuracy" (0 to 1), "cross_entropy" (nats, without label smoothing)}, by the protocol's average."""
        check_protocol(protocol)
        with evaluating(model) as device:

            def score(batch: Batch) -> Tensor:
                batch = batch.to(device)
                logits = in_full_precision(model(batch.inputs, batch.lengths))
                right = logits.argmax(-1) == batch.targets
                return torch.stack([right, F.cross_entropy(logits, batch.targets, reduction="none")], dim=-1)

            scores = score_examples(getattr(self.data, split), self.batch_size, score, progress)
        accuracy, cross_entropy = average(scores, protocol, self.batch_size)
        return {"accuracy": accuracy, "cross_entropy": cross_entropy}

    def signature(self) -> dict[str, Any]:
        sizes = {"classes": self.data.classes, "vocabulary_size": self.data.vocabulary_size}
        return {"kind": self.kind, **sizes, "features": _features(self.data.train.inputs)}


def _features(inputs: Tensor) -> int | None:
    return inputs.shape[-1] if inputs.dim() == 3 else None

"""Real values: of a whole sequence (the sum in `adding`), or at every step (the next row of a table)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ungated.cells.cell import State
from ungated.lab.data.families import RegressionData
from ungated.lab.errors import DataError
from ungated.lab.tasks.example_batches import average, check_examples, score_examples, shuffled_epoch
from ungated.lab.tasks.sequence_models import EveryStepModel, FinalStateModel
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
    refuse_bidirectional,
)


class RegressionTask(Task):
    """Mean squared error. Targets (N, k) are predicted from the final state, targets (N, T, k) at every step."""

    kind: ClassVar[str] = "regression"

    @dataclass
    class Settings:
        """What a recipe's [task] may set: nothing."""

    @dataclass
    class Model:
        """What a recipe's [model] may set for this task: nothing of its own."""

    metric = "mse"

    def __init__(
        self, data: RegressionData, settings: Any = None, *, batch_size: int, protocol: str = "standard"
    ) -> None:
        """Raises DataError for a split without examples and for values that are not finite."""
        super().__init__(data, settings or self.Settings(), batch_size=batch_size, protocol=protocol)
        for split in SPLITS:
            examples = getattr(data, split)
            check_examples(examples, split, None)
            for what in ("inputs", "targets"):
                if not bool(torch.isfinite(getattr(examples, what)).all()):
                    raise DataError(f"the {split} {what} hold values that are not finite: leave those rows out")
        self.every_step = data.train.targets.dim() == 3

    def model(self, make_rnn: MakeRNN, options: Any = None) -> FinalStateModel | EveryStepModel:
        inputs, targets = self.data.train.inputs, self.data.train.targets
        kind = EveryStepModel if self.every_step else FinalStateModel
        model = kind(make_rnn, targets.shape[-1], features=inputs.shape[-1])
        if self.every_step:
            refuse_bidirectional(model.rnn)
        return model

    def epoch(self, number: int, seed: int) -> Epoch:
        return shuffled_epoch(self.data.train, self.batch_size, number, seed)

    def loss(self, model: nn.Module, batch: Batch, state: State | None = None) -> tuple[Tensor, Tensor, State | None]:
        """Mean over sequences of the mean squared error over the values (and the real steps) of each."""
        errors = _errors(model(batch.inputs, batch.lengths), batch)
        return errors.mean(), errors.detach().sum(), None

    def evaluate(
        self, model: nn.Module, split: str, protocol: str, progress: Progress | None = None
    ) -> dict[str, float]:
        """{"mse"}: standard: every predicted step counts alike; paper: mean of batch means, every sequence alike."""
        check_protocol(protocol)
        examples = getattr(self.data, split)
        with evaluating(model) as device:

            def score(batch: Batch) -> Tensor:
                batch = batch.to(device)
                return _errors(model(batch.inputs, batch.lengths), batch)[:, None]

            scores = score_examples(examples, self.batch_size, score, progress)
        if protocol == "standard" and self.every_step and examples.lengths is not None:
            return {"mse": float((scores[:, 0] * examples.lengths).sum() / examples.lengths.sum())}
        return {"mse": average(scores, protocol, self.batch_size)[0]}

    def signature(self) -> dict[str, Any]:
        inputs, targets = self.data.train.inputs, self.data.train.targets
        return {"kind": self.kind, "features": inputs.shape[-1], "targets": targets.shape[-1]}


def _errors(predictions: Tensor, batch: Batch) -> Tensor:
    """Mean squared error of each row, (B,)."""
    predictions = in_full_precision(predictions)
    errors = (predictions - batch.targets.to(predictions.dtype)).square().mean(-1)
    if not batch.per_step:
        return errors
    if batch.lengths is None:
        return errors.mean(0)
    real = torch.arange(len(errors), device=errors.device)[:, None] < batch.lengths
    return errors.masked_fill(~real, 0.0).sum(0) / batch.lengths

"""The copy memory task: symbols to be repeated after a long delay (Arjovsky et al. 2016, section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ungated.cells.cell import State
from ungated.lab.data.families import CopyData
from ungated.lab.errors import DataError
from ungated.lab.tasks.example_batches import average, check_examples, check_ids, score_examples, shuffled_epoch
from ungated.lab.tasks.sequence_models import EveryStepModel
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

BLANK = 0


class CopyTask(Task):
    """Softmax over the symbols at every step. The recall part is where the target is not the blank (id 0)."""

    kind: ClassVar[str] = "copy"

    @dataclass
    class Settings:
        """What a recipe's [task] may set: nothing."""

    @dataclass
    class Model:
        """What a recipe's [model] may set for this task."""

        embedding_size: int | None = None  # none: one-hot, as in the literature

    metric = "accuracy"
    higher_is_better = True

    def __init__(self, data: CopyData, settings: Any = None, *, batch_size: int, protocol: str = "standard") -> None:
        """Raises DataError for an id outside its range, a split without examples or a sequence without recall."""
        super().__init__(data, settings or self.Settings(), batch_size=batch_size, protocol=protocol)
        for split in SPLITS:
            examples = getattr(data, split)
            check_examples(examples, split, data.symbols)
            check_ids(examples.targets, data.symbols, f"the {split} targets")
            if not bool((examples.targets != BLANK).any(dim=1).all()):
                raise DataError(f"a {split} sequence has nothing to recall: all of its targets are blank")

    def model(self, make_rnn: MakeRNN, options: Any = None) -> EveryStepModel:
        size = (options or self.Model()).embedding_size
        model = EveryStepModel(make_rnn, self.data.symbols, symbols=self.data.symbols, embedding_size=size)
        refuse_bidirectional(model.rnn)
        return model

    def epoch(self, number: int, seed: int) -> Epoch:
        return shuffled_epoch(self.data.train, self.batch_size, number, seed)

    def loss(self, model: nn.Module, batch: Batch, state: State | None = None) -> tuple[Tensor, Tensor, State | None]:
        """Mean cross-entropy over all steps, blanks included, as in the literature."""
        logits = in_full_precision(model(batch.inputs, batch.lengths))
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        return loss, loss.detach() * batch.rows, None

    def evaluate(
        self, model: nn.Module, split: str, protocol: str, progress: Progress | None = None
    ) -> dict[str, float]:
        """{"accuracy" (0 to 1), "cross_entropy" (nats)}, both over the recall part alone; each sequence counts alike.

        The protocols differ as in classification: a plain mean, or a mean of batch means.
        """
        check_protocol(protocol)
        with evaluating(model) as device:

            def score(batch: Batch) -> Tensor:
                batch = batch.to(device)
                logits = in_full_precision(model(batch.inputs, batch.lengths))
                recall = batch.targets != BLANK
                right = ((logits.argmax(-1) == batch.targets) & recall).sum(0) / recall.sum(0)
                nll = F.cross_entropy(logits.movedim(-1, 1), batch.targets, reduction="none")
                return torch.stack([right, (nll * recall).sum(0) / recall.sum(0)], dim=-1)

            scores = score_examples(getattr(self.data, split), self.batch_size, score, progress)
        accuracy, cross_entropy = average(scores, protocol, self.batch_size)
        return {"accuracy": accuracy, "cross_entropy": cross_entropy}

    def signature(self) -> dict[str, Any]:
        return {"kind": self.kind, "symbols": self.data.symbols}

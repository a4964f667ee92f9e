"""The training loop of one run: updates, validation, early stopping, and the state from which all of it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ungated.cells.cell import State, map_state
from ungated.lab.errors import DataError, Interrupted
from ungated.lab.tasks.task import Batch
from ungated.lab.training.build import Built
from ungated.lab.training.checkpoint import load_state, save_state, set_aside
from ungated.lab.training.evaluate import autocast, finite, measure
from ungated.lab.training.optimizers import OPTIMIZERS, learning_rate, set_learning_rate
from ungated.lab.training.processes import Processes
from ungated.lab.training.progress import Outlook, Progress
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.signals import StopRequest
from ungated.lab.training.snapshot import Position, capture, restore

#: States take at most about this share of the time, however large they are.
SAVING_SHARE = 0.1


class _Stop(Exception):
    """A stop was requested in the middle of an evaluation."""


class Loop:
    """Trains `built` until the recipe's end. All of it that changes is in the states of snapshot.py."""

    def __init__(
        self,
        built: Built,
        run: RunDirectory,
        *,
        seed: int,
        progress: Progress,
        stop: StopRequest,
        processes: Processes,
        save_every: float,
    ) -> None:
        self.built, self.run, self.seed = built, run, seed
        self.progress, self.stop, self.processes, self.save_every = progress, stop, processes, save_every
        self.recipe, self.task, self.model, self.device = built.recipe, built.task, built.model, built.device
        self.optimizer = OPTIMIZERS[self.recipe.optimizer.name].build(self.model, self.recipe.optimizer)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.position = Position()
        self.best_weights: dict[str, Tensor] = {}
        self.carried: list[State | None] = [None] * self.recipe.training.accumulate
        self.rows = 0  # of the last batch, over all processes
        self._best_on_disk = 0
        self._saved_at = time.monotonic()
        self._saving_took = 0.0

    # Training

    def train(self) -> Position:
        """Go on until training is over. Raises Interrupted on request, with everything saved."""
        training = self.recipe.training
        title = (
            f"{self.recipe.name}: hidden size {self.built.hidden_size:,}, {self.built.parameters:,} parameters,"
            f" {self.device}, seed {self.seed}"
        )
        outlook = Outlook(title, self.task.metric, training.max_epochs, training.patience)
        self.progress.start(outlook, self.position.epoch)
        while not self.position.stopped:
            self._epoch()
        return self.position

    def _epoch(self) -> None:
        at, began = self.position, time.monotonic()
        set_learning_rate(self.optimizer, learning_rate(self.recipe.optimizer, at.epoch))
        batches = self._batches()
        if at.updates == 0 and at.batch == len(batches):
            batches = self._next_pass()
        updates = self.recipe.training.epoch_updates or len(batches)
        self.model.train()
        while at.updates < updates:
            if at.batch == len(batches):
                batches = self._next_pass()
            if not self._update(batches[at.batch]):
                self._save()
                return
            at.batch += 1
            at.updates += 1
            at.step += 1
            self.progress.batch(at.updates, updates, at.loss_sum / at.weight_sum)
            stop, due = self.processes.sum([bool(self.stop), self.processes.first and self._due()])
            if stop or due:
                at.seconds, began = at.seconds + time.monotonic() - began, time.monotonic()
                self._save()
            if stop:
                self._leave()
        self._validate(began)

    def _batches(self) -> Sequence[Batch]:
        batches = self.task.epoch(self.position.data_pass, self.seed)
        if len(batches) == 0:
            raise DataError(f"{self.recipe.dataset} has too little training data for one batch: lower batch_size")
        return batches

    def _next_pass(self) -> Sequence[Batch]:
        self.position.data_pass, self.position.batch = self.position.data_pass + 1, 0
        return self._batches()

    def _update(self, batch: Batch) -> bool:
        """One update of the weights, or, if loss or gradient is not finite, none and the end of training."""
        if batch.reset:
            self.carried = [None] * len(self.carried)
        self.rows, whole = batch.rows, batch.weight
        parts = self.processes.count * len(self.carried)
        self.optimizer.zero_grad(set_to_none=True)
        losses, totals = [], []
        for i, state in enumerate(self.carried):
            part = batch.part(self.processes.rank * len(self.carried) + i, parts) if parts > 1 else batch
            share = part.weight / whole
            with autocast(self.recipe, self.device):
                loss, total, after = self.task.loss(self.model, part.to(self.device), state)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            self.carried[i] = None if after is None else map_state(Tensor.detach, after)
            losses.append(loss.detach() * share)
            totals.append(total)
        self.processes.sum_gradients(self.parameters)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # One transfer from the device for all that is looked at.
        figures = torch.stack([sum(losses, norm.new_zeros(())), sum(totals, norm.new_zeros(())), norm]).tolist()
        loss_value, total_value = self.processes.sum(figures[:2])
        if not (math.isfinite(loss_value) and math.isfinite(figures[2])):
            self._diverge(loss_value, figures[2])
            return False
        self.optimizer.step()
        self.position.loss_sum += total_value
        self.position.weight_sum += whole
        self.position.norm_sum += figures[2]
        return True

    def _diverge(self, loss: float, norm: float) -> None:
        at = self.position
        if math.isfinite(loss):
            what = f"the gradient is not finite (norm {norm}) though the loss is {loss:.4g}"
        else:
            what = f"the loss is not finite ({loss})"
        rate = self.optimizer.param_groups[0]["lr"]
        at.stopped = "diverged"
        at.message = (
            f"training diverged: {what} in epoch {at.epoch}, batch {at.updates + 1}, after {at.step} updates, at"
            f" learning rate {rate:g}; that update was not made; try a lower learning_rate or stronger clipping"
        )

    def _validate(self, began: float) -> None:
        at, training = self.position, self.recipe.training
        valid = self.evaluate("valid", self.recipe.protocol)
        value = valid[self.task.metric]
        higher = self.task.higher_is_better
        if value is not None and (at.best is None or (value > at.best if higher else value < at.best)):
            at.best, at.best_epoch, at.waited = value, at.epoch, 0
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        else:
            at.waited += 1
        entry = {
            "epoch": at.epoch,
            "step": at.step,
            "train_loss": at.loss_sum / at.weight_sum,
            "valid": valid,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": at.norm_sum / at.updates,
            "seconds": round(at.seconds + time.monotonic() - began, 3),
        }
        if self.processes.first:
            self.run.append_metrics(entry)
        self.progress.epoch(entry, at.best, at.waited)
        if training.patience is not None and at.waited >= training.patience:
            at.stopped = "patience"
        elif at.epoch >= training.max_epochs:
            at.stopped = "max_epochs"
        at.epoch, at.updates = at.epoch + 1, 0
        at.loss_sum = at.weight_sum = at.norm_sum = at.seconds = 0.0
        stop, due = self.processes.sum([bool(self.stop), self.processes.first and self._due()])
        if stop or due or at.stopped:
            self._save()
        if stop:
            self._leave()

    def evaluate(self, split: str, protocol: str) -> dict[str, float | None]:
        """The task's metrics on a split, None for what is not finite. A stop request ends it, with a state saved."""

        def shown(done: int, total: int) -> None:
            # Several processes agree on stopping between updates only: none may leave the others alone here.
            if self.stop and self.processes.count == 1:
                raise _Stop
            self.progress.evaluating(split, done, total)

        try:
            metrics = measure(self.model, self.task, self.recipe, split, protocol, shown)
        except _Stop:
            if (
                not self.position.stopped
            ):  # else it is the last evaluation: its state is saved, the weights are the best
                self._save()
            self._leave()
        values = self.processes.first_of([math.nan if value is None else value for value in metrics.values()])
        return {name: finite(value) for name, value in zip(metrics, values, strict=True)}

    # States

    def _due(self) -> bool:
        pause = max(self.save_every, self._saving_took / SAVING_SHARE) if self.save_every else 0.0
        return time.monotonic() - self._saved_at >= pause

    def _save(self) -> None:
        """Save best weights and state; every process has to take part, the first one writes."""
        began = time.monotonic()
        state = capture(self)
        if self.processes.first:
            self.run.sync_metrics()
            self.write_best()
            save_state(self.run.path, state)
        self._saved_at = time.monotonic()
        self._saving_took = self._saved_at - began

    def write_best(self) -> None:
        """Bring best.safetensors up to date."""
        if self._best_on_disk != self.position.best_epoch:
            description = {
                "cell": self.recipe.cell,
                "dataset": self.recipe.dataset,
                "hidden_size": self.built.hidden_size,
                "parameters": self.built.parameters,
                "data": self.task.signature(),
                "epoch": self.position.best_epoch,
            }
            self.run.write_best(self.best_weights, description)
            self._best_on_disk = self.position.best_epoch

    def _leave(self) -> None:
        raise Interrupted(
            f"stopped on request ({self.stop.name or 'another process'}) after {self.position.step} updates, everything"
            f" is saved: `ungated resume {self.run}` goes on"
        )

    def resume(self) -> None:
        """Restore the newest state that is whole, and bring the files beside it to where it was."""
        loaded = load_state(self.run.path)
        if loaded is not None:
            restore(self, loaded.state)
        if self.processes.first:
            for path, sentence in loaded.damaged if loaded else ():
                kept = set_aside(path)
                self.progress.notice(
                    f"{sentence}; going on from the state before it, the damaged one is now {kept.name}"
                )
            self.run.cut_metrics(self.position.epoch - 1)
            self._best_on_disk = -1
            if self.best_weights:
                self.write_best()

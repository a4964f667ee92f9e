"""Monte-Carlo dropout: the probabilities of many passes with dropout, averaged (RHN paper's code, rhn_train.py).

One sample is one stateful pass over the whole stream, with one set of masks z_x, z_i, z_h, z_o drawn before its first
symbol and kept to its last. (Masks that a cell draws anew at every step, as recurrent dropout, stay so.) For each
position the probability of the true symbol is averaged over the passes, arithmetically; the result is the mean of
-ln of the averages. The authors accept only passes whose own perplexity is below 500, since their z_x is one draw for
all symbols ("position" in word_masks.py), and passes without any input are worthless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ungated.cells.cell import Noise, State
from ungated.lab.errors import RunError, UsageError
from ungated.lab.tasks.language import LanguageTask, from_nats
from ungated.lab.tasks.language_model import LanguageModel, Masks
from ungated.lab.tasks.language_scores import piece_length
from ungated.lab.tasks.monte_carlo_samples import Samples
from ungated.lab.tasks.task import Progress, device_of, in_full_precision
from ungated.lab.tasks.word_masks import word_table

#: What the authors' code clips averaged probabilities to.
_LEAST, _MOST = 1e-10, 1.0 - 1e-10

#: Passes in a row, none of them accepted, after which more would be as hopeless.
_HOPELESS = 50


def monte_carlo(
    model: LanguageModel,
    task: LanguageTask,
    split: str,
    *,
    samples: int,
    directory: str | Path,
    identity: dict[str, Any],
    seed: int = 0,
    word_masks: str | None = None,
    accept_below: float | None = None,
    parallel: int = 1,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Draw passes until `samples` of them, those already in the directory included, are accepted; average these.

    identity: JSON values that name weights and data; passes of others are never mixed in. seed: passes drawn with
    another seed, by another process or earlier, add up in the same directory. word_masks: "position" or "type", by
    default the model's. accept_below: the authors' threshold on a pass's own perplexity (500); None accepts all.
    parallel: passes run side by side; what a seed draws depends on it.
    Returns nll and the task's metric of the average; the same with "_paper" at the end, as the authors' code has it
    (one position too many, with probability zero); "one_pass", the metric of the mean nll of the accepted single
    passes; and "samples", "rejected". Raises UsageError for a model without dropout or wrong numbers, RunError if
    passes are hardly ever accepted, CheckpointError for what the directory holds.
    """
    if samples < 1 or parallel < 1:
        raise UsageError(
            f"Monte-Carlo evaluation needs at least one sample and one at a time, got {samples}, {parallel}"
        )
    if accept_below is not None and not accept_below > 1.0:
        raise UsageError(f"a perplexity is never below 1, so accept_below = {accept_below} would accept no pass")
    kind = word_masks or model.word_masks
    if kind not in ("position", "type"):
        raise UsageError(f'the word masks {kind!r} are unknown: choose "position" or "type"')
    if not has_dropout(model):
        raise UsageError("this model has no dropout: all of its Monte-Carlo samples would be the same")
    stream: Tensor = getattr(task.data, split)
    store = Samples(directory, {**identity, "split": split, "word_masks": kind}, len(stream) - 1)
    average = _Average(store.length, accept_below)
    for probabilities in store.all():
        average.add(probabilities)
    index = max((index + 1 for other, index in store.drawn() if other == seed), default=0)
    in_vain = 0
    while average.accepted < samples:
        rows = min(parallel, samples - average.accepted)
        passes = draw_passes(model, stream, seed, index, rows, kind)
        in_vain += rows
        for row, probabilities in enumerate(passes):
            store.save(seed, index + row, probabilities)
            if average.add(probabilities):
                in_vain = 0
        index += rows
        if progress is not None:
            progress(min(average.accepted, samples), samples)
        if in_vain >= _HOPELESS:
            raise RunError(
                f"none of the last {in_vain} Monte-Carlo passes had a perplexity below {accept_below}: accept more,"
                f" or use word masks of kind type"
            )
    return average.metrics(task.metric)


def has_dropout(model: LanguageModel) -> bool:
    """Whether two passes in training mode can differ."""
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        cells = any(noise is not None for noise in model.rnn.noise(2, 1))
    return cells or model.rnn.dropout > 0.0 or model.embedding_dropout > 0.0 or model.output_dropout > 0.0


def draw_passes(
    model: LanguageModel, stream: Tensor, seed: int, index: int, rows: int, word_masks: str
) -> NDArray[np.float32]:
    """Probabilities (rows, N - 1) of the true symbols in that many passes; seed and index decide what is drawn.

    The random generators and the model's mode are left as they were.
    """
    device = device_of(model)
    was_training = model.training
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), torch.no_grad():
        torch.manual_seed(int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        try:
            model.train()
            masks = PassMasks(model, rows, word_masks)
            state: State | None = None
            pieces = []
            length = len(stream) - 1
            piece = piece_length(model.symbols, rows, length)
            for start in range(0, length, piece):
                stop = min(start + piece, length)
                ids = stream[start:stop].long().to(device)[:, None].expand(-1, rows)
                targets = stream[start + 1 : stop + 1].long().to(device)[:, None].expand(-1, rows)
                logits, state = model(ids, state, masks.of(ids))
                nll = F.cross_entropy(in_full_precision(logits).movedim(-1, 1), targets, reduction="none")
                pieces.append(nll.neg().exp().float().cpu())
        finally:
            model.train(was_training)
    return np.ascontiguousarray(torch.cat(pieces).T.numpy())


class PassMasks:
    """One set of masks for each of `rows` passes, kept from their first symbol to their last."""

    def __init__(self, model: LanguageModel, rows: int, word_masks: str) -> None:
        self.model, self.rows = model, rows
        rate, like = model.embedding_dropout, model.embedding.weight.detach()
        self.table = word_table(model.symbols, rows, rate, word_masks, like) if rate > 0.0 else None
        self.output = model.draw_output_mask(rows)
        # Of two steps: a mask whose time dimension is 1 holds for all of them.
        self.cells = model.rnn.noise(2, rows)

    def of(self, ids: Tensor) -> Masks:
        """The masks for a piece ids (T, B) of the stream; those of single steps are drawn here."""
        word = None if self.table is None else self.table.gather(0, ids)
        fresh = self.model.rnn.noise(len(ids), self.rows) if any(map(_has_steps, self.cells)) else self.cells
        return Masks(word, self.output, [_held(kept, new) for kept, new in zip(self.cells, fresh, strict=True)])


def _has_steps(noise: Noise) -> bool:
    masks: Sequence[Tensor] = () if noise is None else (noise,) if isinstance(noise, Tensor) else noise
    return any(mask.shape[0] > 1 for mask in masks)


def _held(kept: Noise, new: Noise) -> Noise:
    """`kept` where it holds for all steps, else `new`."""
    if kept is None or new is None:
        return kept
    if isinstance(kept, Tensor) or isinstance(new, Tensor):
        return new if _has_steps(kept) else kept
    return tuple(n if k.shape[0] > 1 else k for k, n in zip(kept, new, strict=True))


class _Average:
    """Running arithmetic mean of the accepted passes, in double precision."""

    def __init__(self, length: int, accept_below: float | None) -> None:
        self.sum = np.zeros(length)
        self.own_nll = 0.0
        self.accepted = self.rejected = 0
        self.most = math.inf if accept_below is None else math.log(accept_below)

    def add(self, probabilities: NDArray[np.float32]) -> bool:
        """Whether the pass is accepted, by its own perplexity."""
        nll = _nll(probabilities.astype(np.float64)).mean()
        if nll >= self.most:
            self.rejected += 1
            return False
        self.sum += probabilities
        self.own_nll += float(nll)
        self.accepted += 1
        return True

    def metrics(self, metric: str) -> dict[str, float]:
        nll = _nll(self.sum / self.accepted)
        mean = float(nll.mean())
        # The authors' vector has an entry for each of the N symbols of the stream; the last stays zero.
        theirs = float((nll.sum() - math.log(_LEAST)) / (len(nll) + 1))
        return {
            "nll": mean,
            metric: from_nats(mean, metric),
            "nll_paper": theirs,
            f"{metric}_paper": from_nats(theirs, metric),
            "one_pass": from_nats(self.own_nll / self.accepted, metric),
            "samples": float(self.accepted),
            "rejected": float(self.rejected),
        }


def _nll(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = -np.log(np.clip(probabilities, _LEAST, _MOST))
    return result

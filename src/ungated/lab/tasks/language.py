"""Language modelling: the next word, character or byte of a stream.

    standard  one stateful pass over the whole stream, every symbol but the first scored once
    paper     the published procedure of the recipe: the RRU paper's half windows, or the RHN paper's batched rows
              (its published figures are those of the standard pass); see language_scores.py

Which stream of symbols is modelled (with line ends or without, say) is the data set's matter, and decides more than
the protocol.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ungated.cells.cell import State, map_state
from ungated.lab.data.families import LanguageData
from ungated.lab.errors import DataError, RecipeError
from ungated.lab.tasks.batching import window_starts
from ungated.lab.tasks.example_batches import check_ids
from ungated.lab.tasks.language_batches import shuffled_epoch, stateful_epoch, stateful_starts
from ungated.lab.tasks.language_model import LanguageModel
from ungated.lab.tasks.language_scores import batched_rows, every_symbol, half_windows
from ungated.lab.tasks.task import (
    SPLITS,
    Batch,
    Epoch,
    MakeRNN,
    Progress,
    Task,
    check_choices,
    check_protocol,
    choice,
    in_full_precision,
)


class LanguageTask(Task):
    """Next-symbol prediction on streams of ids."""

    kind: ClassVar[str] = "language"

    @dataclass
    class Settings:
        """What a recipe's [task] may set."""

        window: int = 64  # symbols a truncated back-propagation sees
        stateful: bool = True  # the state is carried from window to window; false: shuffled windows
        train_stride: int | None = None  # from window to window, where not stateful; none: window
        streams: str = choice("windows", "symbols")  # what is cut into batch_size streams: RRU's way, RHN's way
        reset_probability: float = 0.0  # of a fresh state before a batch, where stateful
        initial_state: str = choice("cell", "zero")
        loss: str = choice("mean", "sum")  # over a window's steps; over rows it is the mean
        paper_metric: str = choice("half-windows", "batched-rows")  # RRU paper, RHN paper
        evaluation_parts: int = 1  # of the stream, side by side, in the standard pass; 1 is exact
        evaluation_context: int = 512  # unscored symbols before each of several parts

        def __post_init__(self) -> None:
            check_choices(self)
            for name in ("window", "train_stride", "evaluation_parts"):
                value = getattr(self, name)
                if value is not None and value < 1:
                    raise RecipeError(f"{name} = {value} should be at least 1")
            if self.evaluation_context < 0:
                raise RecipeError(f"evaluation_context = {self.evaluation_context} should be at least 0")
            if not 0.0 <= self.reset_probability <= 1.0:
                raise RecipeError(f"reset_probability = {self.reset_probability} should be in [0, 1]")
            if self.stateful and self.train_stride not in (None, self.window):
                raise RecipeError(
                    f"train_stride = {self.train_stride} with stateful = true: a carried state needs windows that"
                    f" follow each other, so leave train_stride out"
                )

    @dataclass
    class Model:
        """What a recipe's [model] may set for this task."""

        embedding_size: int | None = None  # none: by embedding_rule
        embedding_rule: str = choice("hidden", "smaller")  # the hidden size; if not tied, at most the vocabulary
        tied: bool = False  # output matrix = embedding
        embedding_dropout: float = 0.0  # z_x: whole symbols, all occurrences in a row of a window
        output_dropout: float = 0.0  # z_o: one mask for the window
        word_masks: str = choice("position", "type")  # how z_x is drawn
        init_scale: float | None = None  # embedding and output uniform in +- this (RHN); none: the RRU paper's way

        def __post_init__(self) -> None:
            check_choices(self)

    def __init__(
        self, data: LanguageData, settings: Any = None, *, batch_size: int, protocol: str = "standard"
    ) -> None:
        """Raises DataError for a stream that is too short or has an id outside the vocabulary."""
        super().__init__(data, settings or self.Settings(), batch_size=batch_size, protocol=protocol)
        self.metric = "perplexity" if data.unit == "word" else "bits_per_char"
        self.carries_state = self.settings.stateful
        self.symbols = len(data.vocabulary)
        window = self.settings.window
        for split in SPLITS:
            stream = getattr(data, split)
            if len(stream) <= window:
                raise DataError(
                    f"the {split} text has {len(stream)} symbols, but one window with its targets takes {window + 1}:"
                    f" take a longer text or a smaller window"
                )
            check_ids(stream, self.symbols, f"the symbols of the {split} text")
        if self.settings.stateful:
            self._starts = stateful_starts(len(data.train), batch_size, window, self.settings.streams)
        else:
            self._starts = window_starts(len(data.train), window, self.settings.train_stride or window)
        if len(self._starts) == 0:
            raise DataError(
                f"the train text has {len(data.train)} symbols, but {batch_size} streams of one window each take"
                f" {batch_size * (window + 1)}: lower batch_size or window"
            )

    def model(self, make_rnn: MakeRNN, options: Any = None) -> LanguageModel:
        options = options or self.Model()
        return LanguageModel(
            make_rnn,
            self.symbols,
            embedding_size=options.embedding_size,
            embedding_rule=options.embedding_rule,
            tied=options.tied,
            embedding_dropout=options.embedding_dropout,
            output_dropout=options.output_dropout,
            word_masks=options.word_masks,
            init_scale=options.init_scale,
            zero_state=self.settings.initial_state == "zero",
        )

    def epoch(self, number: int, seed: int) -> Epoch:
        stream, settings = self.data.train, self.settings
        if settings.stateful:
            return stateful_epoch(stream, self._starts, settings.window, settings.reset_probability, number, seed)
        return shuffled_epoch(stream, self._starts, settings.window, self.batch_size, number, seed)

    def loss(self, model: nn.Module, batch: Batch, state: State | None = None) -> tuple[Tensor, Tensor, State | None]:
        """Mean nats a symbol, or summed over the window and averaged over rows; the total is in nats, with dropout.

        A state that is handed on carries no gradient.
        """
        logits, after = model(batch.inputs, None if batch.reset else state)
        total = F.cross_entropy(in_full_precision(logits).flatten(0, 1), batch.targets.flatten(), reduction="sum")
        loss = total / (batch.rows if self.settings.loss == "sum" else batch.targets.numel())
        return loss, total.detach(), map_state(Tensor.detach, after) if self.carries_state else None

    def evaluate(
        self, model: nn.Module, split: str, protocol: str, progress: Progress | None = None
    ) -> dict[str, float]:
        """{"nll" (nats a symbol), and "perplexity" (words) or "bits_per_char"}."""
        check_protocol(protocol)
        stream, settings = getattr(self.data, split), self.settings
        if protocol == "standard":
            parts = min(settings.evaluation_parts, len(stream) - 1)
            context = settings.evaluation_context
            nll = every_symbol(model, stream, self.symbols, parts=parts, context=context, progress=progress)
        elif settings.paper_metric == "batched-rows":
            nll = batched_rows(model, stream, window=settings.window, batch_size=self.batch_size, progress=progress)
        else:
            nll = half_windows(
                model,
                stream,
                self.symbols,
                window=settings.window,
                batch_size=self.batch_size,
                streams=settings.stateful,
                progress=progress,
            )
        return {"nll": nll, self.metric: from_nats(nll, self.metric)}

    def signature(self) -> dict[str, Any]:
        vocabulary = json.dumps(self.data.vocabulary, ensure_ascii=True).encode()
        return {
            "kind": self.kind,
            "stream": self.data.stream,
            "symbols": self.symbols,
            "vocabulary": hashlib.sha256(vocabulary).hexdigest(),
        }


def from_nats(nll: float, metric: str) -> float:
    """Mean nats as "perplexity" (infinite where it exceeds what a float can hold) or "bits_per_char"."""
    if metric == "bits_per_char":
        return nll / math.log(2.0)
    return math.exp(nll) if nll < 700.0 else math.inf if nll == nll else math.nan

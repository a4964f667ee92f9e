"""A language model on any recurrent layer: embedding, layers, softmax; with the RHN paper's tying and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ungated.cells.cell import Noise, State, check_rate, map_state
from ungated.dropout import dropout_mask
from ungated.lab.errors import RecipeError
from ungated.lab.tasks.heads import embedding_layer, output_layer
from ungated.lab.tasks.task import MakeRNN, refuse_bidirectional
from ungated.lab.tasks.word_masks import word_mask


@dataclass(frozen=True)
class Masks:
    """Dropout masks of one window: word (T, B), output (1, B, features), those of the cells; None: none."""

    word: Tensor | None = None
    output: Tensor | None = None
    cells: Sequence[Noise] | None = None


class LanguageModel(nn.Module):
    """Logits of the next symbol.

    RRU paper: embedding uniform in (-1, 1), Glorot uniform output matrix, zero output bias, nothing tied. RHN paper:
    everything uniform in +-init_scale, output bias included; if tied, the output matrix is the embedding's.
    Masks of the RHN paper, in training: z_x on whole symbols (`embedding_dropout`), z_o on the top layer's output, one
    mask for the whole window (`output_dropout`); z_i and z_h belong to the RHN cell. Where the embedding is used as
    the output matrix it is never dropped.
    """

    def __init__(
        self,
        make_rnn: MakeRNN,
        symbols: int,
        *,
        embedding_size: int | None = None,
        embedding_rule: str = "hidden",
        tied: bool = False,
        embedding_dropout: float = 0.0,
        output_dropout: float = 0.0,
        word_masks: str = "position",
        init_scale: float | None = None,
        zero_state: bool = False,
    ) -> None:
        """embedding_size None: by `embedding_rule`, "hidden" (the hidden size: RHN's Theano and Torch7 codes) or
        "smaller" (if not tied, the vocabulary where that is smaller: RHN's TensorFlow code).

        zero_state: windows without a carried state begin at zeros instead of the cell's initial state.
        Raises RecipeError where a tied embedding would have another width than the layer's output.
        """
        super().__init__()
        self.symbols, self.zero_state, self.word_masks = symbols, zero_state, word_masks
        self.embedding_dropout = check_rate("embedding_dropout", embedding_dropout)
        self.output_dropout = check_rate("output_dropout", output_dropout)
        if embedding_size is None:
            with torch.device("meta"):  # only to ask for its size: nothing is allocated, no random number drawn
                probe = make_rnn(1)
            embedding_size = probe.output_size if tied else probe.hidden_size
            if embedding_rule == "smaller" and not tied:
                embedding_size = min(symbols, embedding_size)
        elif embedding_size < 1:
            raise RecipeError(f"embedding_size = {embedding_size} should be at least 1")
        self.embedding = embedding_layer(symbols, embedding_size)
        self.rnn = make_rnn(embedding_size)
        refuse_bidirectional(self.rnn)
        self.output = output_layer(self.rnn.output_size, symbols)
        if tied:
            if embedding_size != self.rnn.output_size:
                raise RecipeError(
                    f"tied = true needs an embedding as wide as the layer's output, {self.rnn.output_size}, but"
                    f" embedding_size is {embedding_size}: leave embedding_size out"
                )
            self.output.weight = self.embedding.weight
        if init_scale is not None:
            for tensor in (self.embedding.weight, self.output.weight, self.output.bias):
                nn.init.uniform_(tensor, -init_scale, init_scale)

    def forward(self, ids: Tensor, state: State | None = None, masks: Masks | None = None) -> tuple[Tensor, State]:
        """ids (T, B), carried state or None -> logits (T, B, symbols) of the symbol after each, state after the last.

        masks: used as they are, in training or not; by default drawn anew in training mode.
        """
        if masks is None:
            masks = self.draw_masks(ids) if self.training else Masks()
        if state is None:
            state = self.initial_state(ids.shape[1])
        x = self.embedding(ids)
        if masks.word is not None:
            x = x * masks.word.unsqueeze(-1)
        features, state = self.rnn(x, state, noise=masks.cells)
        if masks.output is not None:
            features = features * masks.output
        return self.output(features), state

    def initial_state(self, batch_size: int) -> State:
        """Where a stream begins: the cell's own initial state, or zeros."""
        state = self.rnn.initial_state(batch_size)
        return map_state(torch.zeros_like, state) if self.zero_state else state

    def draw_masks(self, ids: Tensor) -> Masks:
        """Fresh z_x and z_o for a window; the cells draw theirs themselves."""
        word = None
        if self.embedding_dropout > 0.0:
            like = self.embedding.weight
            word = word_mask(ids, self.symbols, self.embedding_dropout, self.word_masks, like.detach())
        return Masks(word, self.draw_output_mask(ids.shape[1]))

    def draw_output_mask(self, rows: int) -> Tensor | None:
        """Fresh z_o (1, B, features), or None where its rate is 0."""
        if self.output_dropout == 0.0:
            return None
        return dropout_mask(self.output.weight.detach(), (1, rows, self.rnn.output_size), self.output_dropout)

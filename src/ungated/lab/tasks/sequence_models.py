"""Models that read a sequence and say one thing about it, or one thing at every step."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ungated.lab.errors import RecipeError
from ungated.lab.tasks.heads import embedding_layer, output_layer, top_state
from ungated.lab.tasks.task import MakeRNN
from ungated.rnn import RNN


class SequenceModel(nn.Module):
    """What all of them begin with: features, or ids through an embedding (or one-hot), into the recurrent layer."""

    def __init__(
        self, make_rnn: MakeRNN, *, features: int = 1, symbols: int | None = None, embedding_size: int | None = None
    ) -> None:
        """features: of a float input. symbols: number of ids where the inputs are ids; embedding_size None: one-hot.

        Raises RecipeError for an embedding of inputs that are not ids.
        """
        super().__init__()
        self.symbols = symbols
        self.embedding: nn.Embedding | None = None
        if embedding_size is not None:
            if symbols is None:
                raise RecipeError("embedding_size is for inputs that are ids, and these are numbers: leave it out")
            if embedding_size < 1:
                raise RecipeError(f"embedding_size = {embedding_size} should be at least 1")
            self.embedding = embedding_layer(symbols, embedding_size)
        self.rnn: RNN = make_rnn(embedding_size or symbols or features)

    def read(self, inputs: Tensor) -> Tensor:
        """(T, B, m), or ids (T, B) -> what the recurrent layer reads, in its dtype."""
        if self.embedding is not None:
            embedded: Tensor = self.embedding(inputs)
            return embedded
        dtype = next(self.rnn.parameters()).dtype
        if self.symbols is not None:
            return F.one_hot(inputs, self.symbols).to(dtype)
        return inputs.to(dtype)


class FinalStateModel(SequenceModel):
    """A linear map of the top layer's state h after each sequence's last real step.

    As in the RRU paper's classifiers, it is h also where the cell's output is something else (RRU) and where there
    is a second state (LSTM); an RRU's top output map is then unused, but counted as parameters.
    """

    def __init__(
        self,
        make_rnn: MakeRNN,
        outputs: int,
        *,
        features: int = 1,
        symbols: int | None = None,
        embedding_size: int | None = None,
    ) -> None:
        super().__init__(make_rnn, features=features, symbols=symbols, embedding_size=embedding_size)
        self.output = output_layer(self.rnn.directions * self.rnn.hidden_size, outputs)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """inputs (T, B, m) or ids (T, B), lengths (B,) -> (B, outputs)."""
        _, state = self.rnn(self.read(inputs), None, lengths)
        output: Tensor = self.output(top_state(state, self.rnn.directions))
        return output


class EveryStepModel(SequenceModel):
    """A linear map of the recurrent layer's output at every step."""

    def __init__(
        self,
        make_rnn: MakeRNN,
        outputs: int,
        *,
        features: int = 1,
        symbols: int | None = None,
        embedding_size: int | None = None,
    ) -> None:
        super().__init__(make_rnn, features=features, symbols=symbols, embedding_size=embedding_size)
        self.output = output_layer(self.rnn.output_size, outputs)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """inputs (T, B, m) or ids (T, B), lengths (B,) -> (T, B, outputs)."""
        features, _ = self.rnn(self.read(inputs), None, lengths)
        output: Tensor = self.output(features)
        return output

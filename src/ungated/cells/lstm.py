"""Long Short-Term Memory, as the RRU paper's baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ungated.cells.cell import Cell, Noise, check_number, check_rate, glorot_uniform_
from ungated.dropout import dropout_mask

LSTMState = tuple[Tensor, Tensor]


class LSTMCell(Cell):
    """Long Short-Term Memory with forget gate, as the RRU paper's baseline (its BasicLSTMCell.py).

        [i, j, f, o] = x W_x + h W_h + b
        c' = c * sigmoid(f + forget_bias) + sigmoid(i) * Dropout(tanh(j))
        h' = tanh(c') * sigmoid(o)                              output = h', state = (h', c')

    Not in the equations: `forget_bias` is a constant, not a parameter; the dropout mask is fresh at every step and
    touches the candidate only (Semeniuta et al. 2016, arXiv 1603.05118).
    """

    stored_together = (("W_x", "W_h"),)

    def __init__(
        self, input_size: int, hidden_size: int, *, recurrent_dropout: float = 0.0, forget_bias: float = 1.0
    ) -> None:
        """Raises TypeError or ValueError that names the argument."""
        super().__init__(input_size, hidden_size)
        self.recurrent_dropout = check_rate("recurrent_dropout", recurrent_dropout)
        self.forget_bias = check_number("forget_bias", forget_bias)
        m, n = self.input_size, self.hidden_size
        self.W_x = nn.Parameter(torch.empty(m, 4 * n))
        self.W_h = nn.Parameter(torch.empty(n, 4 * n))
        self.b = nn.Parameter(torch.empty(4 * n))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Glorot uniform over the one kernel of the authors' code; bias zero."""
        glorot_uniform_(self.input_size + self.hidden_size, 4 * self.hidden_size, self.W_x, self.W_h)
        self.b.zero_()

    def initial_state(self, batch_size: int) -> LSTMState:
        """(h, c), each (B, n), zeros."""
        return (self.b.new_zeros(batch_size, self.hidden_size), self.b.new_zeros(batch_size, self.hidden_size))

    def noise(self, time: int, batch: int) -> Noise:
        """A mask (T, B, n) for the candidate, fresh at every step, row and unit."""
        if self.recurrent_dropout == 0.0:
            return None
        return dropout_mask(self.b, (time, batch, self.hidden_size), self.recurrent_dropout)

    def project(self, x: Tensor, noise: Noise = None) -> Tensor:
        """x W_x + b: (T, B, m) -> (T, B, 4n), in the order i, j, f, o."""
        return x @ self.W_x + self.b

    def step(self, drive: Tensor, state: LSTMState, noise: Tensor | None = None) -> tuple[Tensor, LSTMState]:
        """drive (B, 4n), (h, c), mask (B, n) -> h' (B, n), (h', c')."""
        h, c = state
        i, j, f, o = (drive + h @ self.W_h).chunk(4, dim=-1)
        j = torch.tanh(j)
        if noise is not None:
            j = j * noise
        c = c * torch.sigmoid(f + self.forget_bias) + torch.sigmoid(i) * j
        h = torch.tanh(c) * torch.sigmoid(o)
        return h, (h, c)

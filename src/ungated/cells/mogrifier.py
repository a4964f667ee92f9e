"""The Mogrifier LSTM."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ungated.cells.cell import Cell, Noise, check_rate, check_size
from ungated.cells.lstm import LSTMState
from ungated.dropout import dropout_mask


class MogrifierLSTMCell(Cell):
    """Mogrifier LSTM, Melis et al. 2020, arXiv 1909.01792, as the RRU paper's baseline (its MogrifierLSTMCell.py).

    Mutual gating, rounds k = 0, 1, ..., each on the partner as it stands then:

        x <- x * 2 sigmoid((h A[k]) B[k] + beta[k])             k even
        h <- h * 2 sigmoid((x A[k]) B[k] + beta[k])             k odd

    then, with the gated x and h and the ungated c:

        [j, o, f, i] = x W_x + h W_h + [b_j, b_o, b_f, b_i]
        c' = sigmoid(f) * c + min(1 - sigmoid(f), sigmoid(i)) * Dropout(tanh(j))
        h' = sigmoid(o) * tanh(c')                              output = h', state = (h', c')

    Not in the equations: the capped input gate and the low rank of the gating matrices, used even where `rank`
    exceeds the input size; no forget bias; the dropout mask is fresh at every step.
    What enters the rounds depends on h, so nothing of the input can be computed ahead of time.
    """

    stored_together = (("W_x", "W_h"),)

    def __init__(
        self, input_size: int, hidden_size: int, *, rounds: int = 5, rank: int = 40, recurrent_dropout: float = 0.0
    ) -> None:
        """Raises TypeError or ValueError that names the argument."""
        super().__init__(input_size, hidden_size)
        self.recurrent_dropout = check_rate("recurrent_dropout", recurrent_dropout)
        self.rounds = 0 if rounds == 0 and type(rounds) is int else check_size("rounds", rounds)
        self.rank = check_size("rank", rank)
        m, n = self.input_size, self.hidden_size
        self.W_x = nn.Parameter(torch.empty(m, 4 * n))
        self.W_h = nn.Parameter(torch.empty(n, 4 * n))
        self.b_j = nn.Parameter(torch.empty(n))
        self.b_o = nn.Parameter(torch.empty(n))
        self.b_f = nn.Parameter(torch.empty(n))
        self.b_i = nn.Parameter(torch.empty(n))
        sizes = [(n, m) if k % 2 == 0 else (m, n) for k in range(rounds)]
        self.A = nn.ParameterList([torch.empty(source, rank) for source, _ in sizes])
        self.B = nn.ParameterList([torch.empty(rank, target) for _, target in sizes])
        self.beta = nn.ParameterList([torch.empty(target) for _, target in sizes])
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal, truncated at two standard deviations: sqrt(1.3 / fan_in) for W, (fan_in rank)^(-1/4) for A and B."""
        truncated_normal_(self.W_x, math.sqrt(1.3 / self.input_size))
        truncated_normal_(self.W_h, math.sqrt(1.3 / self.hidden_size))
        for A, B in zip(self.A, self.B, strict=True):
            scale = (A.shape[0] * self.rank) ** -0.25
            truncated_normal_(A, scale)
            truncated_normal_(B, scale)
        for bias in (self.b_j, self.b_o, self.b_f, self.b_i, *self.beta):
            bias.zero_()

    def initial_state(self, batch_size: int) -> LSTMState:
        """(h, c), each (B, n), zeros."""
        return (self.b_j.new_zeros(batch_size, self.hidden_size), self.b_j.new_zeros(batch_size, self.hidden_size))

    def noise(self, time: int, batch: int) -> Noise:
        """A mask (T, B, n) for the candidate, fresh at every step, row and unit."""
        if self.recurrent_dropout == 0.0:
            return None
        return dropout_mask(self.b_j, (time, batch, self.hidden_size), self.recurrent_dropout)

    def step(self, drive: Tensor, state: LSTMState, noise: Tensor | None = None) -> tuple[Tensor, LSTMState]:
        """drive = x (B, m), (h, c), mask (B, n) -> h' (B, n), (h', c')."""
        x, (h, c) = drive, state
        for k, (A, B, beta) in enumerate(zip(self.A, self.B, self.beta, strict=True)):
            if k % 2 == 0:
                x = x * (2.0 * torch.sigmoid(h @ A @ B + beta))
            else:
                h = h * (2.0 * torch.sigmoid(x @ A @ B + beta))
        bias = torch.cat([self.b_j, self.b_o, self.b_f, self.b_i])
        j, o, f, i = (x @ self.W_x + h @ self.W_h + bias).chunk(4, dim=-1)
        j = torch.tanh(j)
        if noise is not None:
            j = j * noise
        f = torch.sigmoid(f)
        c = f * c + torch.minimum(1.0 - f, torch.sigmoid(i)) * j
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


def truncated_normal_(tensor: Tensor, std: float) -> None:
    nn.init.trunc_normal_(tensor, std=std, a=-2.0 * std, b=2.0 * std)

"""The Gated Recurrent Unit, as the RRU paper's baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ungated.cells.cell import Cell, Noise, check_number, check_rate, glorot_uniform_
from ungated.dropout import dropout_mask


class GRUCell(Cell):
    """Gated Recurrent Unit, Cho et al. 2014, arXiv 1406.1078, as the RRU paper's baseline (its GRUCell.py).

        [r, u] = sigmoid(x W_xg + h W_hg + b_g)
        c      = tanh(x W_xc + (r * h) W_hc + b_c)              reset="before" the product, the paper's and Cho's form
        c      = tanh(x W_xc + r * (h W_hc + b_hc) + b_c)       reset="after" it, as torch.nn.GRU
        h'     = u * h + (1 - u) * Dropout(c)                   output = h'

    Not in the equations: b_g starts at `gate_bias` = 1; the dropout mask is fresh at every step (Semeniuta et al.
    2016, arXiv 1603.05118).
    u keeps: it is torch.nn.GRU's z.
    """

    stored_together = (("W_xg", "W_hg"), ("W_xc", "W_hc"))

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        recurrent_dropout: float = 0.0,
        reset: str = "before",
        gate_bias: float = 1.0,
    ) -> None:
        """Raises TypeError or ValueError that names the argument."""
        super().__init__(input_size, hidden_size)
        self.recurrent_dropout = check_rate("recurrent_dropout", recurrent_dropout)
        if reset not in ("before", "after"):
            raise ValueError(f'reset should be "before" or "after" the product, got {reset!r}')
        self.reset, self.gate_bias = reset, check_number("gate_bias", gate_bias)
        m, n = self.input_size, self.hidden_size
        self.W_xg = nn.Parameter(torch.empty(m, 2 * n))
        self.W_hg = nn.Parameter(torch.empty(n, 2 * n))
        self.b_g = nn.Parameter(torch.empty(2 * n))
        self.W_xc = nn.Parameter(torch.empty(m, n))
        self.W_hc = nn.Parameter(torch.empty(n, n))
        self.b_c = nn.Parameter(torch.empty(n))
        if reset == "after":
            self.b_hc = nn.Parameter(torch.empty(n))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Glorot uniform over the matrices the authors' code stores as one; gate biases at `gate_bias`."""
        m, n = self.input_size, self.hidden_size
        glorot_uniform_(m + n, 2 * n, self.W_xg, self.W_hg)
        glorot_uniform_(m + n, n, self.W_xc, self.W_hc)
        self.b_g.fill_(self.gate_bias)
        self.b_c.zero_()
        if self.reset == "after":
            self.b_hc.zero_()

    def noise(self, time: int, batch: int) -> Noise:
        """A mask (T, B, n) for c, fresh at every step, row and unit."""
        if self.recurrent_dropout == 0.0:
            return None
        return dropout_mask(self.b_c, (time, batch, self.hidden_size), self.recurrent_dropout)

    def project(self, x: Tensor, noise: Noise = None) -> Tensor:
        """All input products: (T, B, m) -> (T, B, 3n), in the order r, u, c."""
        return torch.cat([x @ self.W_xg + self.b_g, x @ self.W_xc + self.b_c], dim=-1)

    def step(self, drive: Tensor, state: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """drive (B, 3n), h (B, n), mask (B, n) -> h' (B, n) twice."""
        n = self.hidden_size
        r, u = torch.sigmoid(drive[:, : 2 * n] + state @ self.W_hg).chunk(2, dim=-1)
        from_x = drive[:, 2 * n :]
        if self.reset == "before":
            c = torch.tanh(from_x + (r * state) @ self.W_hc)
        else:
            c = torch.tanh(from_x + r * (state @ self.W_hc + self.b_hc))
        if noise is not None:
            c = c * noise
        h = u * state + (1.0 - u) * c
        return h, h

"""The Residual Recurrent Unit."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ungated.cells.cell import Cell, Noise, check_number, check_rate, check_size, glorot_uniform_
from ungated.dropout import dropout_mask

EPSILON = 1e-6  # of the normalisation, RRUCell.py
S_SCALE = 10.0


class RRUCell(Cell):
    """Residual Recurrent Unit, Zakovskis et al., "Gates are not what you need in RNNs", arXiv 2108.00527, eqs. 1-6.

        j   = ReLU(Normalize(x W_x + h W_h + b_j))
        j   = ReLU(j W_k + b_k)                        repeated relu_layers - 1 times
        d   = Dropout(j)
        c   = d W_c + b_c
        h'  = sigmoid(10 S) * h + Z * c
        o   = d W_o + b_o

    Sizes: input m, state n = hidden_size, middle g = round(expansion * (m + n)), output p = output_size.

    Not in the equations but in the authors' code: Normalize divides by the root mean square of the g entries (no mean
    subtracted, no gain); S is stored at one tenth, so that an optimiser of Adam's kind moves the logit ten times as
    fast; sigmoid(10 S) starts uniform in (0.01, 0.99) and Z at zero; the dropout mask is fresh at every step.
    The state starts at zero but for its first unit, sqrt(n) / 4 (section 3 of the paper).

    Ablations of the paper's section 7: `normalize=False`; `rezero="scalar"` (one Z for all units); `output_relu=True`
    (ReLU over c and o); `residual="one"` (h' = h + Z * c, no S) or a number (every sigmoid(10 S) starts there).
    """

    stored_together = (("W_x", "W_h"), ("W_c", "W_o"), ("b_c", "b_o"))

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        output_size: int | None = None,
        expansion: float = 2.0,
        relu_layers: int = 1,
        recurrent_dropout: float = 0.0,
        normalize: bool = True,
        rezero: str = "vector",
        output_relu: bool = False,
        residual: str | float = "learned",
    ) -> None:
        """Raises TypeError or ValueError that names the argument."""
        super().__init__(input_size, hidden_size, output_size)
        self.relu_layers = check_size("relu_layers", relu_layers)
        self.recurrent_dropout = check_rate("recurrent_dropout", recurrent_dropout)
        m, n, p = self.input_size, self.hidden_size, self.output_size
        # Half to even, as in the authors' code: it decides the parameter counts.
        self.middle_size = round(check_number("expansion", expansion) * (m + n))
        if self.middle_size < 1:
            raise ValueError(f"expansion should give a middle size of at least 1, got {expansion} * ({m} + {n})")
        if rezero not in ("vector", "scalar"):
            raise ValueError(f'rezero should be "vector" or "scalar", got {rezero!r}')
        if residual not in ("learned", "one") and not (isinstance(residual, float) and 0.0 < residual < 1.0):
            raise ValueError(f'residual should be "learned", "one" or a number in (0, 1), got {residual!r}')
        self.expansion, self.normalize, self.output_relu = expansion, normalize, output_relu
        self.rezero, self.residual = rezero, residual
        g = self.middle_size
        self.W_x = nn.Parameter(torch.empty(m, g))
        self.W_h = nn.Parameter(torch.empty(n, g))
        self.b_j = nn.Parameter(torch.empty(g))
        self.W_k = nn.ParameterList([torch.empty(g, g) for _ in range(relu_layers - 1)])
        self.b_k = nn.ParameterList([torch.empty(g) for _ in range(relu_layers - 1)])
        self.W_c = nn.Parameter(torch.empty(g, n))
        self.b_c = nn.Parameter(torch.empty(n))
        self.W_o = nn.Parameter(torch.empty(g, p))
        self.b_o = nn.Parameter(torch.empty(p))
        if residual == "one":
            self.register_parameter("S", None)
        else:
            self.S = nn.Parameter(torch.empty(n))
        self.Z = nn.Parameter(torch.empty(n if rezero == "vector" else 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as the authors' code does: Glorot uniform over the matrices it stores as one."""
        m, n, g, p = self.input_size, self.hidden_size, self.middle_size, self.output_size
        glorot_uniform_(m + n, g, self.W_x, self.W_h)
        for W in self.W_k:
            glorot_uniform_(g, g, W)
        glorot_uniform_(g, n + p, self.W_c, self.W_o)
        for bias in (self.b_j, *self.b_k, self.b_c, self.b_o, self.Z):
            bias.zero_()
        if self.S is not None:
            if isinstance(self.residual, float):
                self.S.fill_(math.log(self.residual / (1.0 - self.residual)) / S_SCALE)
            else:
                self.S.uniform_(0.01, 0.99).logit_().div_(S_SCALE)

    def initial_state(self, batch_size: int) -> Tensor:
        """(B, n): zeros but for the first unit, sqrt(n) / 4."""
        state = self.b_c.new_zeros(batch_size, self.hidden_size)
        state[:, 0] = 0.25 * math.sqrt(self.hidden_size)
        return state

    def noise(self, time: int, batch: int) -> Noise:
        """A mask (T, B, g) for d, fresh at every step, row and unit."""
        if self.recurrent_dropout == 0.0:
            return None
        return dropout_mask(self.b_j, (time, batch, self.middle_size), self.recurrent_dropout)

    def project(self, x: Tensor, noise: Noise = None) -> Tensor:
        """x W_x + b_j: (T, B, m) -> (T, B, g)."""
        return x @ self.W_x + self.b_j

    def step(self, drive: Tensor, state: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """drive (B, g), h (B, n), mask (B, g) -> d (B, g), new h (B, n)."""
        j = drive + state @ self.W_h
        if self.normalize:
            j = j * torch.rsqrt(j.square().mean(dim=-1, keepdim=True) + EPSILON)
        j = torch.relu(j)
        for W, b in zip(self.W_k, self.b_k, strict=True):
            j = torch.relu(j @ W + b)
        d = j if noise is None else j * noise
        c = d @ self.W_c + self.b_c
        if self.output_relu:
            c = torch.relu(c)
        carried = state if self.S is None else torch.sigmoid(S_SCALE * self.S) * state
        return d, carried + self.Z * c

    def readout(self, features: Tensor) -> Tensor:
        """d W_o + b_o: (T, B, g) -> (T, B, p)."""
        output = features @ self.W_o + self.b_o
        return F.relu(output) if self.output_relu else output

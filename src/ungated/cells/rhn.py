"""The Recurrent Highway Network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ungated.cells.cell import Cell, Noise, check_number, check_rate, check_size
from ungated.dropout import dropout_mask


class RHNCell(Cell):
    """Recurrent Highway Network, Zilly et al. 2017, arXiv 1607.03474, eqs. 6-9, as the authors' TensorFlow code.

        s_l = h_l * t_l + s_{l-1} * (1 - t_l)                   l = 1..depth; s_0 = state, output = s_depth
        h_l = tanh   ([l = 1] (x * z_i) W_H + (s_{l-1} * z_h) R_H[l] + b_H[l])
        t_l = sigmoid([l = 1] (x * z_i) W_T + (s_{l-1} * z_h) R_T[l] + b_T[l])

    `depth` is inside one time step and is not the number of layers. z_i, z_h are variational dropout masks of rates
    `input_dropout`, `state_dropout`: drawn once for a whole sequence (a training window), the same at every time step
    and micro-step; the carried s_{l-1} is never dropped. `tie_masks=False` draws them separately for H and T, as
    the authors' Torch7 code.

    Not in the equations: everything starts uniform in +-`init_scale`, biases of H included, but for the biases of T,
    which start at `transform_bias` at every micro-step (-2 for PTB, -4 for characters), so that early steps copy.
    """

    stored_together = (("W_H", "R_H.0"), ("W_T", "R_T.0"))  # the input enters micro-step 1 only

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        depth: int = 10,
        transform_bias: float = -2.0,
        init_scale: float = 0.04,
        input_dropout: float = 0.0,
        state_dropout: float = 0.0,
        tie_masks: bool = True,
    ) -> None:
        """Raises TypeError or ValueError that names the argument."""
        super().__init__(input_size, hidden_size)
        self.depth = check_size("depth", depth)
        self.input_dropout = check_rate("input_dropout", input_dropout)
        self.state_dropout = check_rate("state_dropout", state_dropout)
        self.transform_bias = check_number("transform_bias", transform_bias)
        self.init_scale = check_number("init_scale", init_scale)
        if init_scale < 0.0:
            raise ValueError(f"init_scale should be at least 0, got {init_scale}")
        self.tie_masks = tie_masks
        m, n = self.input_size, self.hidden_size
        self.W_H = nn.Parameter(torch.empty(m, n))
        self.W_T = nn.Parameter(torch.empty(m, n))
        self.R_H = nn.ParameterList([torch.empty(n, n) for _ in range(depth)])
        self.R_T = nn.ParameterList([torch.empty(n, n) for _ in range(depth)])
        self.b_H = nn.ParameterList([torch.empty(n) for _ in range(depth)])
        self.b_T = nn.ParameterList([torch.empty(n) for _ in range(depth)])
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-init_scale, biases of T at transform_bias."""
        for tensor in (self.W_H, self.W_T, *self.R_H, *self.R_T, *self.b_H):
            tensor.uniform_(-self.init_scale, self.init_scale)
        for bias in self.b_T:
            bias.fill_(self.transform_bias)

    def noise(self, time: int, batch: int) -> Noise:
        """z_i (1, 1 or 2, B, m) and z_h (1, 1 or 2, B, n): one draw for all steps; first for H, last for T."""
        if self.input_dropout == 0.0 and self.state_dropout == 0.0:
            return None
        masks = 1 if self.tie_masks else 2
        return (
            dropout_mask(self.W_H, (1, masks, batch, self.input_size), self.input_dropout),
            dropout_mask(self.W_H, (1, masks, batch, self.hidden_size), self.state_dropout),
        )

    def project(self, x: Tensor, noise: Noise = None) -> Tensor:
        """The input's part of micro-step 1: (T, B, m) -> (T, B, 2n), H then T."""
        x_H = x_T = x
        if noise is not None:
            z_i = noise[0][0]
            x_H, x_T = x * z_i[0], x * z_i[-1]
        return torch.cat([x_H @ self.W_H, x_T @ self.W_T], dim=-1)

    def step(self, drive: Tensor, state: Tensor, noise: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """drive (B, 2n), s (B, n), masks -> s_depth (B, n) twice."""
        s = state
        from_x: tuple[Tensor, ...] | None = drive.chunk(2, dim=-1)
        for R_H, R_T, b_H, b_T in zip(self.R_H, self.R_T, self.b_H, self.b_T, strict=True):
            s_H = s_T = s
            if noise is not None:
                z_h = noise[1]
                s_H, s_T = s * z_h[0], s * z_h[-1]
            a_H, a_T = s_H @ R_H + b_H, s_T @ R_T + b_T
            if from_x is not None:
                a_H, a_T, from_x = a_H + from_x[0], a_T + from_x[1], None
            h, t = torch.tanh(a_H), torch.sigmoid(a_T)
            s = h * t + s * (1.0 - t)
        return s, s

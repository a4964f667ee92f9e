"""The papers' cells as layers of their own: RRU, RHN, GRU, LSTM and Mogrifier LSTM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from ungated.cells import GRUCell, LSTMCell, MogrifierLSTMCell, RHNCell, RRUCell
from ungated.rnn import RNN


class LayerOptions(TypedDict, total=False):
    """What every layer takes besides its sizes and its cell's options: see `RNN`."""

    batch_first: bool
    dropout: float
    bidirectional: bool
    device: torch.device | str | None
    dtype: torch.dtype | None


class RRU(RNN):
    """Residual Recurrent Unit layers, Zakovskis et al., arXiv 2108.00527: equations and options in `RRUCell`.

    The output has `output_size` features (default `hidden_size`), and the next layer reads those.
    `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        output_size: int | None = None,
        expansion: float = 2.0,
        relu_layers: int = 1,
        recurrent_dropout: float = 0.0,
        normalize: bool = True,
        rezero: str = "vector",
        output_relu: bool = False,
        residual: str | float = "learned",
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {
            "output_size": output_size,
            "expansion": expansion,
            "relu_layers": relu_layers,
            "recurrent_dropout": recurrent_dropout,
            "normalize": normalize,
            "rezero": rezero,
            "output_relu": output_relu,
            "residual": residual,
        }
        super().__init__(RRUCell, input_size, hidden_size, num_layers, **layer, **options)


class RHN(RNN):
    """Recurrent Highway Network layers, Zilly et al., arXiv 1607.03474: equations and options in `RHNCell`.

    `depth` counts micro-steps inside one time step, `num_layers` stacked layers (1 in all published results).
    `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        depth: int = 10,
        transform_bias: float = -2.0,
        init_scale: float = 0.04,
        input_dropout: float = 0.0,
        state_dropout: float = 0.0,
        tie_masks: bool = True,
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {
            "depth": depth,
            "transform_bias": transform_bias,
            "init_scale": init_scale,
            "input_dropout": input_dropout,
            "state_dropout": state_dropout,
            "tie_masks": tie_masks,
        }
        super().__init__(RHNCell, input_size, hidden_size, num_layers, **layer, **options)


class GRU(RNN):
    """Gated Recurrent Unit layers, Cho et al., arXiv 1406.1078: equations and options in `GRUCell`.

    `reset="after"` is torch.nn.GRU's form. `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        recurrent_dropout: float = 0.0,
        reset: str = "before",
        gate_bias: float = 1.0,
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {"recurrent_dropout": recurrent_dropout, "reset": reset, "gate_bias": gate_bias}
        super().__init__(GRUCell, input_size, hidden_size, num_layers, **layer, **options)

    @classmethod
    def from_torch(cls, source: nn.GRU) -> Self:
        """The same function as `source`, with its weights copied; its reset="after" form."""
        layer = cls(reset="after", **_layer_options(source))
        n = source.hidden_size
        for cell, (w_ih, w_hh, b_ih, b_hh) in zip(layer.cells, _torch_weights(source), strict=True):
            assert isinstance(cell, GRUCell)
            with torch.no_grad():
                cell.W_xg.copy_(w_ih[: 2 * n].T)
                cell.W_hg.copy_(w_hh[: 2 * n].T)
                cell.b_g.copy_(b_ih[: 2 * n] + b_hh[: 2 * n])
                cell.W_xc.copy_(w_ih[2 * n :].T)
                cell.W_hc.copy_(w_hh[2 * n :].T)
                cell.b_c.copy_(b_ih[2 * n :])
                cell.b_hc.copy_(b_hh[2 * n :])
        return layer


class LSTM(RNN):
    """Long Short-Term Memory layers: equations and options in `LSTMCell`; the state is (h, c).

    `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        recurrent_dropout: float = 0.0,
        forget_bias: float = 1.0,
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {"recurrent_dropout": recurrent_dropout, "forget_bias": forget_bias}
        super().__init__(LSTMCell, input_size, hidden_size, num_layers, **layer, **options)

    @classmethod
    def from_torch(cls, source: nn.LSTM) -> Self:
        """The same function as `source`, with its weights copied; forget_bias 0. ValueError if it has projections."""
        if source.proj_size:
            raise ValueError(f"LSTM.from_torch: proj_size should be 0, got {source.proj_size}")
        layer = cls(forget_bias=0.0, **_layer_options(source))
        for cell, (w_ih, w_hh, b_ih, b_hh) in zip(layer.cells, _torch_weights(source), strict=True):
            assert isinstance(cell, LSTMCell)
            # torch orders the gates i, f, g, o; the paper's code i, j, f, o, where j is g.
            i, f, g, o = torch.arange(4 * source.hidden_size, device=w_ih.device).chunk(4)
            order = torch.cat([i, g, f, o])
            with torch.no_grad():
                cell.W_x.copy_(w_ih[order].T)
                cell.W_h.copy_(w_hh[order].T)
                cell.b.copy_((b_ih + b_hh)[order])
        return layer


class MogrifierLSTM(RNN):
    """Mogrifier LSTM layers, Melis et al., arXiv 1909.01792: equations and options in `MogrifierLSTMCell`.

    The state is (h, c). `batch_first`, `dropout`, `bidirectional`, `device` and `dtype` as `RNN`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        rounds: int = 5,
        rank: int = 40,
        recurrent_dropout: float = 0.0,
        **layer: Unpack[LayerOptions],
    ) -> None:
        options: dict[str, Any] = {"rounds": rounds, "rank": rank, "recurrent_dropout": recurrent_dropout}
        super().__init__(MogrifierLSTMCell, input_size, hidden_size, num_layers, **layer, **options)


def _layer_options(source: nn.RNNBase) -> dict[str, Any]:
    weight = source.weight_ih_l0
    return {
        "input_size": source.input_size,
        "hidden_size": source.hidden_size,
        "num_layers": source.num_layers,
        "batch_first": source.batch_first,
        "dropout": source.dropout,
        "bidirectional": source.bidirectional,
        "device": weight.device,
        "dtype": weight.dtype,
    }


def _torch_weights(source: nn.RNNBase) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """W_ih, W_hh, b_ih, b_hh of every layer and direction, biases zero where `source` has none."""
    for layer in range(source.num_layers):
        for suffix in ("", "_reverse") if source.bidirectional else ("",):
            w_ih, w_hh = (getattr(source, f"weight_{kind}_l{layer}{suffix}") for kind in ("ih", "hh"))
            if source.bias:
                b_ih, b_hh = (getattr(source, f"bias_{kind}_l{layer}{suffix}") for kind in ("ih", "hh"))
            else:
                b_ih = b_hh = w_ih.new_zeros(w_ih.shape[0])
            yield w_ih, w_hh, b_ih, b_hh

"""The peers: what others made that does the same work, each as a torch module called x (T, B, I) -> output, state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ungated.lab.bench.cases import Case
from ungated.sizing import size_for


class CannotRun(Exception):
    """Why a peer is not measured: one line."""


def make_peer(name: str, case: Case, parameters: int, size: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The peer of that name for a case in which ours has `parameters` and hidden size `size`. Raises CannotRun."""
    if name not in PEERS:
        raise CannotRun(f"there is no peer {name!r}")
    make = partial(PEERS[name], case, device, dtype)
    if case.same_size:
        return make(size)
    counted = partial(_gru if name == "nn.GRU" else _lstm, case, torch.device("meta"), dtype)  # the others are LSTMs
    return make(size_for(counted, parameters))


def _lstm(case: Case, device: torch.device, dtype: torch.dtype, size: int) -> nn.Module:
    return nn.LSTM(case.input_size, size, case.layers, device=device, dtype=dtype)


def _gru(case: Case, device: torch.device, dtype: torch.dtype, size: int) -> nn.Module:
    return nn.GRU(case.input_size, size, case.layers, device=device, dtype=dtype)


def _lstm_cell(case: Case, device: torch.device, dtype: torch.dtype, size: int) -> nn.Module:
    if case.mode != "stream" or case.layers > 1:
        raise CannotRun("it runs one step of one layer")
    return nn.LSTMCell(case.input_size, size, device=device, dtype=dtype)


class _OtherInput(nn.Module):
    """A layer that reads features of its own width: fresh ones, of the same T and B."""

    def __init__(self, layer: nn.Module, input_size: int) -> None:
        super().__init__()
        self.layer, self.input_size = layer, input_size
        self.x: Tensor | None = None

    def forward(self, x: Tensor, state: Any = None) -> Any:
        if self.x is None:
            self.x = torch.randn(*x.shape[:2], self.input_size, device=x.device, dtype=x.dtype)
        return self.layer(self.x, state)


def _persistent_lstm(case: Case, device: torch.device, dtype: torch.dtype, size: int) -> nn.Module:
    if dtype != torch.float16:
        raise CannotRun("cuDNN keeps its weights on the chip in float16 only")
    return _OtherInput(nn.LSTM(128, 768, device=device, dtype=dtype), 128)


class _FlashRNN(nn.Module):
    """NX-AI's FlashRNN as an LSTM layer of one head; it leaves the product with the input to its caller."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype, size: int) -> None:
        super().__init__()
        self.run: Callable[..., Any] = import_module("flashrnn").flashrnn
        self.W = nn.Linear(case.input_size, 4 * size, bias=False, device=device, dtype=dtype)
        self.R = nn.Parameter(torch.randn(4, 1, size, size, device=device, dtype=dtype) / size**0.5)
        self.b = nn.Parameter(torch.zeros(4, 1, size, device=device, dtype=dtype))

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, Any]:
        (T, B), size = x.shape[:2], self.R.shape[-1]
        drive = self.W(x).transpose(0, 1).reshape(B, T, 4, 1, size).contiguous()
        states, last = self.run(drive, self.R, self.b, function="lstm", backend="cuda_fused")
        return states[0].reshape(B, T, size).transpose(0, 1), last


def _flashrnn(case: Case, device: torch.device, dtype: torch.dtype, size: int) -> nn.Module:
    _require("flashrnn", case, device)
    return _FlashRNN(case, device, dtype, size)


def _haste(case: Case, device: torch.device, dtype: torch.dtype, size: int) -> nn.Module:
    _require("haste_pytorch", case, device)
    if dtype != torch.float32:
        raise CannotRun("it computes in float32 only")
    layer: nn.Module = import_module("haste_pytorch").LSTM(case.input_size, size)
    return layer


def _require(package: str, case: Case, device: torch.device) -> None:
    if find_spec(package) is None:
        raise CannotRun(f"the package {package} is not installed")
    if device.type != "cuda":
        raise CannotRun("it runs on CUDA only")
    if case.layers > 1 or case.mode == "stream":
        raise CannotRun("it runs whole sequences through one layer")


PEERS: dict[str, Callable[[Case, torch.device, torch.dtype, int], nn.Module]] = {
    "nn.LSTM": _lstm,
    "nn.GRU": _gru,
    "nn.LSTMCell": _lstm_cell,
    "nn.LSTM 768, input 128": _persistent_lstm,
    "FlashRNN LSTM": _flashrnn,
    "haste LSTM": _haste,
}

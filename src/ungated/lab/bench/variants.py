"""Everything that runs one case: ours by each path that can, and the peers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import ungated
from ungated.lab.bench.cases import REFERENCE, WITHOUT_DROPOUT, Case
from ungated.lab.bench.peers import CannotRun, make_peer
from ungated.scan import BACKENDS, choose
from ungated.sizing import count_parameters, size_for

COMPILED = "compiled loop"

#: The kind of ours that has its weights prepared before the first step.
STREAM = "stream"


@dataclass
class Variant:
    """One way to run a case.

    kind: what it is, whatever its dtype: a path of ours, a peer's name. role: "ours", "peer", or "base", which is ours
    doing less. module: called x, state -> output, state. path: the backend that is forced meanwhile.
    """

    name: str
    kind: str
    role: str
    module: nn.Module
    x: Tensor
    mode: str
    path: str = "auto"
    function: Callable[..., Any] | None = None  # instead of the module, which still holds the parameters
    _gradient: Tensor | None = field(default=None, repr=False)

    def prepare(self) -> None:
        """Before every run, untimed."""
        self.module.zero_grad(set_to_none=True)

    def run(self) -> None:
        """A training step without optimiser, a whole sequence without gradients, or T calls of one step each."""
        with ungated.backend(self.path), torch.set_grad_enabled(self.mode == "train"):
            if self.mode == "stream":
                self._stream()
                return
            output = self.forward()
            if self.mode == "train":
                self.backward(output)

    def forward(self) -> Tensor:
        run = self.module if self.function is None else self.function
        output: Tensor = run(self.x)[0]
        return output

    def backward(self, output: Tensor) -> None:
        """From a gradient of every output: fixed, and made once."""
        if self._gradient is None:
            self._gradient = torch.randn_like(output)
        output.backward(self._gradient)  # type: ignore[no-untyped-call]

    def _stream(self) -> None:
        module, state = self.module, None
        if self.function is not None:
            for x in self.x:
                self.function(x)
        elif isinstance(module, ungated.RNN):
            for x in self.x:
                _, state = module.step(x, state)
        elif isinstance(module, nn.LSTMCell):
            for x in self.x:
                state = module(x, state)
        else:
            for x in self.x.unsqueeze(1):
                _, state = module(x, state)


@dataclass(frozen=True)
class Line:
    """The variants of one case, those left out with the reason, and the path of ours that runs unasked."""

    variants: list[Variant]
    left_out: dict[str, str]
    auto: str
    size: int
    parameters: int


def line_up(case: Case, device: torch.device, dtypes: tuple[str, ...], compiled: bool) -> Line:
    """Everything that can run a case. dtypes: ours has the first, peers are made in each."""
    first = _dtype(dtypes[0])
    layer = _ours(case, device, first)
    x = torch.randn(case.T, case.B, case.input_size, device=device, dtype=first)
    size, parameters = layer.hidden_size, count_parameters(layer)
    found, left_out, auto = _paths(case, layer, x)
    if compiled and case.mode == "train":
        found.append(_compiled(case, layer, x))
    for name in case.peers:
        for dtype in dtypes:
            full = f"{name} {dtype}" if len(dtypes) > 1 else name
            try:
                module = make_peer(name, case, parameters, size, device, _dtype(dtype)).train(case.mode == "train")
            except CannotRun as error:
                left_out[full] = str(error)
                continue
            found.append(Variant(full, name, "peer", module, x.to(_dtype(dtype)), case.mode))
    return Line(found, left_out, auto, size, parameters)


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _ours(case: Case, device: torch.device, dtype: torch.dtype) -> ungated.RNN:
    dropout = {"recurrent_dropout": case.dropout} if case.dropout else {}

    def make(size: int) -> ungated.RNN:
        layer: ungated.RNN = getattr(ungated, case.layer)(
            case.input_size, size, num_layers=case.layers, **case.options, **dropout
        )
        return layer

    layer = make(case.size or size_for(make, case.parameters))
    for cell in layer.cells:
        if isinstance(cell, ungated.RRUCell):  # Z starts at zero: the state would decay to numbers slow to multiply
            nn.init.uniform_(cell.Z, -0.1, 0.1)
    return layer.to(device=device, dtype=dtype).train(case.mode == "train")


def _paths(case: Case, layer: ungated.RNN, x: Tensor) -> tuple[list[Variant], dict[str, str], str]:
    cell: Any = layer.cells[0]
    steps = x[:1] if case.mode == "stream" else x
    found: list[Variant] = []
    left_out: dict[str, str] = {}
    with torch.no_grad():
        drive, state = cell.project(steps), cell.initial_state(case.B)
    for path in (*(name for name in BACKENDS if name not in ("auto", "reference")), "reference"):
        try:
            choose(cell, drive, state, backend=path)
        except RuntimeError as error:
            left_out[path] = str(error).partition(": ")[2]
            continue
        if path == "reference" and case.mode != "stream":
            found.append(Variant(REFERENCE, REFERENCE, "peer", layer, x, case.mode, path))
            continue
        found.append(Variant(path, path, "ours", layer, x, case.mode, path))
        if case.dropout:
            plain = copy.deepcopy(layer)
            for each in plain.cells:
                each.recurrent_dropout = 0.0  # type: ignore[assignment]
            found.append(Variant(f"{path} {WITHOUT_DROPOUT}", WITHOUT_DROPOUT, "base", plain, x, case.mode, path))
    if case.mode != "train":
        found.append(Variant(STREAM, STREAM, "ours", layer, x, case.mode, function=_stream_of(case, layer)))
    return found, left_out, choose(cell, drive, state).path


def _stream_of(case: Case, layer: ungated.RNN) -> Callable[[Tensor], tuple[Tensor]]:
    stream = ungated.Stream(layer, case.B)
    return lambda x: (stream(x),)


def _compiled(case: Case, layer: ungated.RNN, x: Tensor) -> Variant:
    mode = "reduce-overhead" if x.is_cuda else "default"  # the former captures a CUDA graph
    function = torch.compile(layer, dynamic=False, mode=mode)
    return Variant(COMPILED, COMPILED, "peer", layer, x, case.mode, "reference", function)

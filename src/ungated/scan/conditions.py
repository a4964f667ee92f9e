"""When hand-derived operators can stand in for the reference loop."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ungated.cells.cell import Noise, State

HALF = (torch.bfloat16, torch.float16)

# Of others (meta), torch.is_autocast_enabled raises. Asked once: an older compiler cannot trace this question.
_WITH_AUTOCAST = tuple(
    device for device in ("cpu", "cuda", "xpu", "mps", "mtia", "hpu", "xla") if torch.amp.is_autocast_available(device)
)


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype that autocast is to on this type of device; None where it is off or unknown."""
    if device in _WITH_AUTOCAST and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def why_not(drive: Tensor, state: State, noise: Noise, lengths: Tensor | None, weights: Iterable[Tensor]) -> str:
    """Why the operators cannot run a scan over these tensors; empty if they can."""
    masks, states = _row(noise), _row(state)
    tensors = [drive, *states, *masks, *weights]
    dtype, device, autocast = states[0].dtype, drive.device, autocast_dtype(drive.device.type)
    if any(type(tensor) not in (Tensor, nn.Parameter) for tensor in tensors):
        return "a tensor has a class of its own"
    if any(tensor.device != device for tensor in tensors) or (lengths is not None and lengths.device != device):
        return "tensors are on different devices"
    if any(tensor.dtype != dtype for tensor in tensors[1:]) or drive.dtype not in (dtype, autocast):
        return "dtypes are mixed"
    if dtype not in (torch.float64, torch.float32, *HALF):
        return f"it does not compute in {dtype}"
    if dtype in HALF and autocast not in (None, dtype):
        return "autocast is to another half dtype than the weights'"
    if any(tensor.numel() == 0 for tensor in (drive, *states)):
        return "there is nothing to run over"
    if any(mask.requires_grad for mask in masks):
        return "the noise wants a gradient"
    return _transform(tensors)


def _transform(tensors: list[Tensor]) -> str:
    """The program transformation under way that the operators have no rule for, if any."""
    # Read, not asked: to is_exporting() torch 2.11 says yes within any compiled function.
    exported = torch.compiler._is_exporting_flag
    if torch.compiler.is_compiling():
        # All that the compiler can be asked: what else torch.func does reaches the operators through its graph.
        inside = any(torch._C._functorch.is_batchedtensor(tensor) for tensor in tensors)
    else:
        inside = torch._C._functorch.peek_interpreter_stack() is not None
        exported = exported or torch._C._is_tracing()
    if exported:
        return "an exported program should hold torch's own operators alone"
    if inside:
        return "a transformation of torch.func is under way"
    if forward_ad._current_level >= 0 and any(_is_dual(tensor) for tensor in tensors):
        return "forward-mode derivatives are asked for"
    return ""


def _is_dual(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def _row(tensors: State | Noise) -> list[Tensor]:
    return [] if tensors is None else [tensors] if isinstance(tensors, Tensor) else list(tensors)

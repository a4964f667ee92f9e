"""Kernels as Python calls them: their source put together, their arguments, their launch, and what may go wrong."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ungated.scan.cpu.compiler import Unavailable
from ungated.scan.cpu.library import mask_step
from ungated.scan.cuda.cubins import cubin
from ungated.scan.cuda.driver import Function, LaunchError, driver
from ungated.scan.cuda.plan import Device, Plan, Work, plan, teams_at_once
from ungated.scan.products import tf32_allowed

SOURCE = Path(__file__).parent / "kernels"

#: What a block waits for another before it gives up, in nanoseconds.
PATIENCE = 5_000_000_000

_COMMON = (
    "T B first blocks patience mask_step",
    "",
    "drive lengths mask exchange counters scratch flag spoil_0 spoil_1 spoil_2",
)
#: Of each kernel: integers, real numbers and pointers among its own arguments.
_ARGUMENTS = {
    "rru_forward": ("save", "epsilon", "h0 W_h W_k b_k W_c s Z Zb a r d inner h"),
    "lstm_forward": ("save", "forget_bias", "h0 c0 W_h features last_h last_c gates c h"),
    "lstm_backward": ("", "", "c0 W_h gates c grad_features grad_h grad_c G_z G_h0 G_c0"),
    "gru_before_forward": ("save", "", "h0 W_hg W_hc features last gates h"),
    "gru_before_backward": ("", "", "h0 W_hg W_hc features gates h grad_features grad_h G_z G_h0"),
    "gru_after_forward": ("save", "", "h0 W_hg W_hc b_hc features last gates h q"),
    "gru_after_backward": ("", "", "h0 W_hg W_hc features gates h q grad_features grad_h G_z G_c G_h0"),
    "rhn_forward": ("save", "", "s0 R_H R_T b_H b_T features last gates inner s"),
    "rhn_backward": ("", "", "s0 R_H R_T features gates inner s grad_features grad_s G_z G_s0"),
    "mogrifier_forward": (
        "save",
        "",
        "h0 c0 W_x W_h b A_x B_x A_h B_h beta_x beta_h features last_h last_c gates c e_x e_h h",
    ),
    "mogrifier_backward": (
        "",
        "",
        "c0 W_x W_h A_x B_x A_h B_h gates c e_x e_h after_x after_h grad_features grad_h grad_c G_z G_e_x G_e_h G_x "
        "G_h0 G_c0",
    ),
    "rru_backward": ("", "", "W_h W_k W_c s Z a r d inner V grad_d grad_h G_a G_k G_h mean"),
}
_SPOILED = 3

Argument = Tensor | int | float | None
Arguments = dict[str, Argument]


class Runnable(Protocol):
    """A kernel that can be launched."""

    def launch(self, blocks: int, arguments: ctypes.Structure, *, cooperative: bool) -> None: ...


class GPU:
    """The GPUs that torch sees."""

    def device(self, index: int) -> Device:
        """Raises Unavailable."""
        found = torch.cuda.get_device_properties(index)
        if found.major < 8:
            raise Unavailable(f"{found.name} is older than compute capability 8.0")
        return Device(found.multi_processor_count, driver().shared_bytes(index), f"sm_{found.major}{found.minor}")

    def function(self, made: Plan, index: int) -> Runnable:
        """Raises Unavailable."""
        function = Function(
            cubin(source(made), self.device(index).arch), "scan", index, made.threads, made.shared_bytes
        )
        if function.resident < made.ctas:
            raise Unavailable(f"{made.ctas} blocks should run at once, of which the GPU holds {function.resident}")
        return function

    def flag(self) -> Tensor:
        """An integer that kernels set where a scan stopped, and the host reads without waiting for them."""
        return torch.zeros(1, dtype=torch.int32, pin_memory=True)


_gpu = GPU()


def unavailable(work: Work, reduced: torch.dtype | None, batch: int, index: int) -> str:
    """Why the work cannot run on this GPU, empty if it can; compiles its kernel, if that was not done yet."""
    return _tried(work, mode_of(reduced), batch, index)


def taken(work: Work, drive: Tensor, reduced: torch.dtype | None) -> Work:
    """Of the ways to do the work, the one that its plan takes for a drive (T, B, ...). Raises Unavailable."""
    return _prepared(work, mode_of(reduced), drive.shape[1], drive.device.index or 0)[0].work


def stacked(tensors: Sequence[Tensor]) -> Tensor | None:
    """As a kernel takes a list."""
    return torch.stack(list(tensors)) if tensors else None


@cache
def _tried(work: Work, mode: str, batch: int, index: int) -> str:
    try:
        _prepared(work, mode, batch, index)
    except Unavailable as error:
        return str(error)
    return ""


def mode_of(reduced: torch.dtype | None) -> str:
    """In what products take their factors, of float32 tensors: `reduced`, else what torch allows for its own."""
    if reduced is not None:
        return "BF16" if reduced == torch.bfloat16 else "FP16"
    return "TF32" if tf32_allowed() else "FP32"


def source(made: Plan, device: Path = SOURCE / "device.h") -> str:
    """The whole source of a plan's kernel. device: what it takes from the machine."""
    parts = [(SOURCE / f"{name}.h").read_text() for name in ("factors", "team", "product", "row_sums", "gates")]
    kernel = (SOURCE / f"{made.work.kernel}.cu").read_text()
    return "\n".join([device.read_text(), made.constants, _structure(made.work.kernel), *parts, kernel])


def run(
    work: Work,
    drive: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    reduced: torch.dtype | None,
    spoiled: Sequence[Tensor],
    **arguments: Argument,
) -> None:
    """Run a kernel over all steps and rows of a drive (T, B, ...), on torch's current stream.

    Tensors are float32, those for results contiguous; None is a null pointer. spoiled: the results that become NaN
    should a block never come. Raises LaunchError if the kernel cannot be launched, or if an earlier one stopped.
    """
    (T, B), device, index = drive.shape[:2], drive.device, drive.device.index or 0
    made, properties, function = _prepared(work, mode_of(reduced), B, index)
    flag = _flag(index)
    if int(flag):
        flag.zero_()
        raise LaunchError("an earlier scan on this GPU stopped: its blocks waited too long for each other")
    dense = {name: value.contiguous() if isinstance(value, Tensor) else value for name, value in arguments.items()}
    dense |= {
        "drive": drive.contiguous(),
        "T": T,
        "B": B,
        "mask": None if mask is None else mask.contiguous(),
        "mask_step": mask_step(mask),
    }
    dense |= {"lengths": None if lengths is None else lengths.long().contiguous()}
    scratch = torch.empty(made.scratch_bytes, dtype=torch.uint8, device=device)
    dense |= {"patience": PATIENCE, "scratch": scratch, "flag": flag}
    dense |= {f"spoil_{i}": tensor for i, tensor in enumerate(spoiled)}
    dense |= {f"spoil_{i}_size": tensor.numel() for i, tensor in enumerate(spoiled)}
    teams = teams_at_once(made, B, properties)
    for first in range(0, B, teams * made.rows):
        count = min(teams, -(-(B - first) // made.rows))
        counters = 128 * (1 + count)
        zeros = torch.zeros(counters + count * made.exchange_bytes, dtype=torch.uint8, device=device)
        dense |= {"first": first, "blocks": count * made.ctas, "counters": zeros, "exchange": zeros[counters:]}
        cooperative = made.ctas > 1 or made.streamed
        function.launch(count * made.ctas, _filled(work.kernel, dense), cooperative=cooperative)


@cache
def _prepared(work: Work, mode: str, batch: int, index: int) -> tuple[Plan, Device, Runnable]:
    device = _gpu.device(index)
    made = plan(work, mode, batch, device)
    if made is None:
        raise Unavailable("its sizes do not fit the GPU")
    return made, device, _function(made, index)


@cache
def _function(made: Plan, index: int) -> Runnable:
    return _gpu.function(made, index)


@cache
def _flag(index: int) -> Tensor:
    return _gpu.flag()


def _members(kernel: str) -> list[tuple[str, str]]:
    """(type, name) of the kernel's arguments, eight bytes each."""
    groups = [f"{ours} {its}".split() for ours, its in zip(_COMMON, _ARGUMENTS[kernel], strict=True)]
    groups[0] += [f"spoil_{i}_size" for i in range(_SPOILED)]
    return [
        (kind, name) for kind, names in zip(("long long", "double", "float*"), groups, strict=True) for name in names
    ]


def _structure(kernel: str) -> str:
    members = " ".join(f"{kind} {name};" for kind, name in _members(kernel))
    return f"struct Arguments {{ {members} }};"


def _filled(kernel: str, values: dict[str, Argument]) -> ctypes.Structure:
    types = {"long long": ctypes.c_int64, "double": ctypes.c_double, "float*": ctypes.c_void_p}
    fields = [(name, types[kind]) for kind, name in _members(kernel)]
    structure = type("Arguments", (ctypes.Structure,), {"_fields_": fields})
    filled: ctypes.Structure = structure(
        **{name: v.data_ptr() if isinstance(v, Tensor) else v or 0 for name, v in values.items()}
    )
    return filled

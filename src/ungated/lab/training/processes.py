"""The processes that train one model together; usually one.

`torchrun --nproc-per-node=N -m ungated ...` starts N of them. Each takes its rows of every batch, the gradients are
summed, and every process makes the same update; only the first writes. Run directory and data have to be visible to
all. Nothing is pickled: what is exchanged are tensors of known shape.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ungated.cells.cell import State, map_state
from ungated.lab.errors import RunError


class Processes:
    """One process alone: every exchange gives back what it was given."""

    rank = 0
    count = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and shows progress."""
        return self.rank == 0

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each parameter's gradient by its sum over the processes."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of some numbers over the processes, in double precision."""
        return list(values)

    def first_of(self, values: Sequence[float]) -> list[float]:
        """The numbers of the first process."""
        return list(values)

    def whole_state(self, state: State | None, rows: int) -> State | None:
        """The carried state (layers, B, n) of all `rows` rows, from each process's own."""
        return state

    def each(self, value: Tensor) -> list[Tensor]:
        """A tensor of equal shape from each process, in order; on the CPU."""
        return [value]

    def together(self, work: Callable[[], Any]) -> None:
        """Let the first process do something the others wait for, and stop all if it fails."""
        work()


class TorchProcesses(Processes):
    """Several, joined by torch.distributed: NCCL for gradients on GPUs, Gloo for everything else."""

    def __init__(self, device: torch.device) -> None:
        """Join the group that torchrun's environment variables describe; it lasts as long as this process."""
        if not dist.is_initialized():  # a second group could not be made: torchrun's store keeps the first one's keys
            # Its functions hold the group that there is when they are imported, which torch does by itself in places.
            # Held for ever, its threads outlive the interpreter, and abort the process where they then need it.
            import torch.distributed.nn.functional  # noqa: F401

            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)
        self.rank = dist.get_rank()
        self.count = dist.get_world_size()

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        for parameter in parameters:
            if parameter.grad is None:  # unused here, but perhaps not in another process's rows
                parameter.grad = torch.zeros_like(parameter)
        by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for parameter in parameters:
            assert parameter.grad is not None
            by_kind.setdefault((parameter.device, parameter.dtype), []).append(parameter.grad)
        for gradients in by_kind.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    def sum(self, values: Sequence[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def first_of(self, values: Sequence[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(tensor, src=0)
        return tensor.tolist()

    def whole_state(self, state: State | None, rows: int) -> State | None:
        if state is None:
            return None

        def gather(own: Tensor) -> Tensor:
            parts = []
            for rank in range(self.count):
                held = own.cpu().contiguous()
                if rank != self.rank:
                    count = rows * (rank + 1) // self.count - rows * rank // self.count
                    held = held.new_empty(own.shape[0], count, *own.shape[2:])
                dist.broadcast(held, src=rank)
                parts.append(held)
            return torch.cat(parts, dim=1)

        return map_state(gather, state)

    def each(self, value: Tensor) -> list[Tensor]:
        values = [torch.empty_like(value, device="cpu") for _ in range(self.count)]
        dist.all_gather(values, value.cpu().contiguous())
        return values

    def together(self, work: Callable[[], Any]) -> None:
        failure: Exception | None = None
        if self.first:
            try:
                work()
            except Exception as error:
                failure = error
        failed = self.first_of([0.0 if failure is None else 1.0])[0]
        if failure is not None:
            raise failure
        if failed:
            raise RunError(f"process {self.rank} stops because the first process did")


def join(device: torch.device) -> Processes:
    """The processes of this run: several when torchrun started this one, else this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        return TorchProcesses(device)
    return Processes()

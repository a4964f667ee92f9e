"""The optimiser behind the RRU paper's numbers, which the paper calls RAdam and is not."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

CLIP_FLOOR = 0.01  # keeps the clip bound positive before any gradient has been seen


def rectification(step: int, beta2: float) -> float | None:
    """r_t of Liu et al. 2020 (arXiv 1908.03265) at step t = 1, 2, ...; None while rho_t < 5 (no rectification yet)."""
    rho_infinity = 2.0 / (1.0 - beta2) - 1.0
    decayed = beta2**step
    rho = rho_infinity - 2.0 * step * decayed / (1.0 - decayed)
    if rho < 5.0:
        return None
    ratio = (rho - 4.0) * (rho - 2.0) * rho_infinity / ((rho_infinity - 4.0) * (rho_infinity - 2.0) * rho)
    return math.sqrt(ratio)


class RectifiedLaProp(Optimizer):
    """LaProp with RAdam's rectification and an adaptive clip per tensor: the RRU authors' RAdam.py, as coded.

    For each tensor, with its gradient g and step t = 1, 2, ...:

        c_t = clip_multiplier * sqrt(sum(v_{t-1}) / (1 - beta2^t)) + 0.01       bound on the norm of g
        g   = g * min(1, c_t / |g|)
        v_t = beta2 v_{t-1} + (1 - beta2) g^2                                    v^ = v_t / (1 - beta2^t)
        m_t = beta1 m_{t-1} + (1 - beta1) g / (sqrt(v^) + eps)                   m^ = m_t / (1 - beta1^t)
        theta = theta - lr r_t m^

    with r_t from `rectification`, and 1 for the first five steps. What sets it apart from `torch.optim.RAdam`: the
    gradient is normalised before it is averaged (LaProp, Ziyin et al. 2020, arXiv 2002.04839); the first steps are of
    full size, about lr per entry; the clip bound follows the running size of the tensor's own gradient.

    Groups with `lookup=True` hold embedding tables. Their gradient is sparse in the authors' code, which then takes
    the order of Adam: m is the average of the clipped g, and the step is lr r_t m^ / (sqrt(v^) + eps), or lr m^,
    not normalised, for the first five. Rows that are not in the batch go on moving with their decaying m.

    Clipping is per *tensor*, so it matters what counts as one: `tensors` of a group lists how many consecutive
    parameters form each tensor, e.g. [2, 1] for (W_x, W_h) stored as one and a bias. Default: each stands alone.
    A member without gradient counts as zeros as long as another member has one.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
        clip_multiplier: float | None = 10.0,
    ) -> None:
        """`clip_multiplier` None: no clipping. Raises ValueError for settings out of range."""
        if not lr >= 0.0:
            raise ValueError(f"lr should be at least 0, got {lr}")
        if not (0.0 <= betas[0] < 1.0 and 0.0 <= betas[1] < 1.0):
            raise ValueError(f"betas should be in [0, 1), got {betas}")
        if not eps >= 0.0:
            raise ValueError(f"eps should be at least 0, got {eps}")
        if clip_multiplier is not None and not clip_multiplier > 0.0:
            raise ValueError(f"clip_multiplier should be above 0, or None for no clipping, got {clip_multiplier}")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "clip_multiplier": clip_multiplier,
            "lookup": False,
            "tensors": None,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; raises ValueError where `tensors` does not add up to the group's parameters."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["tensors"] is None:
            group["tensors"] = [1] * len(group["params"])
        if any(size < 1 for size in group["tensors"]) or sum(group["tensors"]) != len(group["params"]):
            count = len(group["params"])
            self.param_groups.pop()
            raise ValueError(f"tensors should be positive and add up to {count} parameters, got {group['tensors']}")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every tensor that has a gradient; `p.grad` is left as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for (step, _, _), tensors in self._ready(group).items():
                self._update(group, step, tensors)
        return loss

    def _ready(self, group: dict[str, Any]) -> dict[tuple[int, torch.device, torch.dtype], list[list[Tensor]]]:
        """The group's tensors that have a gradient, by the step they are about to take, device and dtype."""
        ready = defaultdict(list)
        start = 0
        for size in group["tensors"]:
            members: list[Tensor] = group["params"][start : start + size]
            start += size
            if all(member.grad is None for member in members):
                continue
            for member in members:
                state = self.state[member]
                if not state:
                    # On the CPU, as torch keeps it: reading it must not wait for a device.
                    state["step"] = torch.tensor(0.0)
                    state["m"] = torch.zeros_like(member, memory_format=torch.preserve_format)
                    state["v"] = torch.zeros_like(member, memory_format=torch.preserve_format)
                state["step"] += 1
            first = members[0]
            ready[int(self.state[first]["step"]), first.device, first.dtype].append(members)
        return ready

    def _update(self, group: dict[str, Any], step: int, tensors: list[list[Tensor]]) -> None:
        """Step number `step` of these tensors, all their parameters at once."""
        (beta1, beta2), eps = group["betas"], group["eps"]
        params = [member for members in tensors for member in members]
        grads = [_gradient(param) for param in params]
        m = [self.state[param]["m"] for param in params]
        v = [self.state[param]["v"] for param in params]
        correction1, correction2 = 1.0 - beta1**step, 1.0 - beta2**step

        if group["clip_multiplier"] is not None:
            sizes = tuple(len(members) for members in tensors)
            grads = _clip(grads, v, sizes, group["clip_multiplier"], correction2)

        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1.0 - beta2)
        denominator = torch._foreach_div(v, correction2)
        torch._foreach_sqrt_(denominator)
        torch._foreach_add_(denominator, eps)

        r = rectification(step, beta2)
        scale = -group["lr"] * (1.0 if r is None else r) / correction1
        averaged = grads if group["lookup"] else torch._foreach_div(grads, denominator)
        torch._foreach_mul_(m, beta1)
        torch._foreach_add_(m, averaged, alpha=1.0 - beta1)
        if group["lookup"] and r is not None:
            torch._foreach_addcdiv_(params, m, denominator, scale)
        else:
            torch._foreach_add_(params, m, alpha=scale)


def _gradient(param: Tensor) -> Tensor:
    if param.grad is None:
        return torch.zeros_like(param, memory_format=torch.preserve_format)
    return param.grad.to_dense() if param.grad.is_sparse else param.grad


def _clip(
    grads: list[Tensor], v: list[Tensor], sizes: tuple[int, ...], multiplier: float, correction: float
) -> list[Tensor]:
    """New gradients, each tensor's norm at most multiplier * sqrt(sum(v) / correction) + 0.01."""
    rows, owner = _membership(sizes, grads[0].device)
    squares = torch.stack(torch._foreach_norm(grads, 2)).square()
    masses = torch.stack(torch._foreach_norm(v, 1))  # v is nowhere negative: its sum
    # A gather and a sum over rows, not index_add: that adds in any order on CUDA.
    norm = torch.nn.functional.pad(squares, (0, 1))[rows].sum(dim=1).sqrt()
    mass = torch.nn.functional.pad(masses, (0, 1))[rows].sum(dim=1)
    bound = multiplier * torch.sqrt(mass / correction) + CLIP_FLOOR
    factors = (bound / torch.maximum(norm, bound))[owner]
    return [grad * factor for grad, factor in zip(grads, factors.unbind(), strict=True)]


@functools.lru_cache(maxsize=64)
def _membership(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The places of each tensor's members, filled up with the place past the end; the tensor of each member."""
    total, widest = sum(sizes), max(sizes)
    rows, start = [], 0
    for size in sizes:
        rows.append([*range(start, start + size), *([total] * (widest - size))])
        start += size
    owner = [index for index, size in enumerate(sizes) for _ in range(size)]
    return torch.tensor(rows, device=device), torch.tensor(owner, device=device)

"""Optimisers by name: what a recipe's [optimizer] may say, and how each is built for a model.

    kind = OPTIMIZERS["rectified-laprop"]
    settings = kind.Settings(learning_rate=0.005, clip_multiplier=1.5)
    optimizer = kind.build(model, settings)
    set_learning_rate(optimizer, learning_rate(settings, epoch))       before each epoch 1, 2, ...

`optimizer.step()` is all a training loop has to call: clipping happens in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ungated.cells.cell import Cell
from ungated.lab.training.rectified_laprop import RectifiedLaProp, rectification

__all__ = [
    "OPTIMIZERS",
    "OptimizerKind",
    "OptimizerSettings",
    "RectifiedLaProp",
    "learning_rate",
    "rectification",
    "set_learning_rate",
]


@dataclass
class OptimizerSettings:
    """What every optimiser has. The rate is divided by `decay` once for each epoch past `decay_after`."""

    name: str = ""
    learning_rate: float = 1e-3
    decay: float = 1.0
    decay_after: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError that names the setting."""
        _check_range("learning_rate", self.learning_rate, above=0.0)
        _check_range("decay", self.decay, above=0.0)
        _check_range("decay_after", self.decay_after, least=0.0)


@dataclass
class RectifiedLaPropSettings(OptimizerSettings):
    """The RRU papers' optimiser; `clip_multiplier` 1.5 for music, 10 for language, 5 for IMDB and MNIST."""

    name: str = "rectified-laprop"
    clip_multiplier: float | None = 10.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_multiplier is not None:
            _check_range("clip_multiplier", self.clip_multiplier, above=0.0)
        _check_adaptive(self.beta1, self.beta2, self.eps)


@dataclass
class ClippedSettings(OptimizerSettings):
    """Global clipping: the gradient of all parameters together is scaled down to the norm `clip_norm`."""

    clip_norm: float | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_norm is not None:
            _check_range("clip_norm", self.clip_norm, above=0.0)
        _check_range("weight_decay", self.weight_decay, least=0.0)


@dataclass
class SGDSettings(ClippedSettings):
    """`weight_decay` / 2 times the sum of squares of all parameters is part of the loss, so it is clipped too."""

    name: str = "sgd"
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("momentum", self.momentum, least=0.0)
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum above 0")


@dataclass
class AdamSettings(ClippedSettings):
    """As torch.optim.Adam; `weight_decay` / 2 times the sum of squares is part of the loss."""

    name: str = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_adaptive(self.beta1, self.beta2, self.eps)


@dataclass
class AdamWSettings(AdamSettings):
    """As torch.optim.AdamW: `weight_decay` shrinks the parameters directly, lr * weight_decay a step."""

    name: str = "adamw"
    weight_decay: float = 0.01


@dataclass
class RAdamSettings(AdamSettings):
    """As torch.optim.RAdam; `weight_decay` / 2 times the sum of squares is part of the loss."""

    name: str = "radam"


@dataclass
class RMSpropSettings(ClippedSettings):
    """As torch.optim.RMSprop; `weight_decay` / 2 times the sum of squares is part of the loss."""

    name: str = "rmsprop"
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("alpha", self.alpha, least=0.0, below=1.0)
        _check_range("eps", self.eps, above=0.0)
        _check_range("momentum", self.momentum, least=0.0)


def learning_rate(settings: OptimizerSettings, epoch: int) -> float:
    """The rate of epoch 1, 2, ...: learning_rate / decay^max(epoch - decay_after, 0), as the RHN authors' code."""
    return settings.learning_rate / settings.decay ** max(epoch - settings.decay_after, 0)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _build_rectified_laprop(model: nn.Module, settings: RectifiedLaPropSettings) -> RectifiedLaProp:
    return RectifiedLaProp(
        _groups_by_tensor(model),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        clip_multiplier=settings.clip_multiplier,
    )


def _build_sgd(model: nn.Module, settings: SGDSettings) -> Optimizer:
    optimizer = torch.optim.SGD(
        _trainable(model),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
    )
    return _clipped(optimizer, settings, loss_decay=settings.weight_decay)


def _build_adam(model: nn.Module, settings: AdamSettings) -> Optimizer:
    return _clipped(torch.optim.Adam(_trainable(model), **_adam(settings)), settings, settings.weight_decay)


def _build_adamw(model: nn.Module, settings: AdamWSettings) -> Optimizer:
    optimizer = torch.optim.AdamW(_trainable(model), weight_decay=settings.weight_decay, **_adam(settings))
    return _clipped(optimizer, settings, loss_decay=0.0)


def _build_radam(model: nn.Module, settings: RAdamSettings) -> Optimizer:
    return _clipped(torch.optim.RAdam(_trainable(model), **_adam(settings)), settings, settings.weight_decay)


def _build_rmsprop(model: nn.Module, settings: RMSpropSettings) -> Optimizer:
    optimizer = torch.optim.RMSprop(
        _trainable(model),
        lr=settings.learning_rate,
        alpha=settings.alpha,
        eps=settings.eps,
        momentum=settings.momentum,
    )
    return _clipped(optimizer, settings, loss_decay=settings.weight_decay)


class OptimizerKind(NamedTuple):
    """A settings dataclass and build(model, settings) -> torch.optim.Optimizer."""

    Settings: type[OptimizerSettings]
    build: Callable[[nn.Module, Any], Optimizer]


OPTIMIZERS: dict[str, OptimizerKind] = {
    "rectified-laprop": OptimizerKind(RectifiedLaPropSettings, _build_rectified_laprop),
    "sgd": OptimizerKind(SGDSettings, _build_sgd),
    "adam": OptimizerKind(AdamSettings, _build_adam),
    "adamw": OptimizerKind(AdamWSettings, _build_adamw),
    "radam": OptimizerKind(RAdamSettings, _build_radam),
    "rmsprop": OptimizerKind(RMSpropSettings, _build_rmsprop),
}


def _groups_by_tensor(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups for RectifiedLaProp: what a cell stores together is one tensor, embedding tables are lookups.

    An embedding table that another module shares is no lookup: as a softmax matrix, its gradient is dense.
    """
    tensors: list[list[Tensor]] = []
    placed: set[Tensor] = set()

    def place(members: list[Tensor]) -> None:
        members = [member for member in members if member.requires_grad and member not in placed]
        placed.update(members)
        if members:
            tensors.append(members)

    owners: dict[Tensor, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append(module)
        if isinstance(module, Cell):
            named = dict(module.named_parameters())
            for names in module.stored_together:
                if unknown := [name for name in names if name not in named]:
                    raise ValueError(f"{type(module).__name__}.stored_together names no parameter: {unknown[0]}")
                place([named[name] for name in names])
    for parameter in model.parameters():
        place([parameter])

    tables = [all(isinstance(owner, nn.Embedding) for owner in owners[members[0]]) for members in tensors]
    groups = []
    for lookup in (False, True):
        chosen = [members for members, is_table in zip(tensors, tables, strict=True) if is_table == lookup]
        if chosen:
            params = [member for members in chosen for member in members]
            groups.append({"params": params, "tensors": [len(members) for members in chosen], "lookup": lookup})
    return groups


def _trainable(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _adam(settings: AdamSettings) -> dict[str, Any]:
    return {"lr": settings.learning_rate, "betas": (settings.beta1, settings.beta2), "eps": settings.eps}


def _clipped(optimizer: Optimizer, settings: ClippedSettings, loss_decay: float) -> Optimizer:
    """The optimiser, whose step first adds the gradient of loss_decay / 2 * sum(theta^2), then clips the global norm.

    The decay comes before the clip because it is part of the loss there (RHN authors' code); torch's own
    `weight_decay` would come after it.
    """
    if settings.clip_norm is None and loss_decay == 0.0:
        return optimizer

    @torch.no_grad()
    def prepare(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        params = [param for group in optimizer.param_groups for param in group["params"] if param.grad is not None]
        if loss_decay != 0.0 and params:
            torch._foreach_add_([param.grad for param in params], params, alpha=loss_decay)
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(params, settings.clip_norm)

    optimizer.register_step_pre_hook(prepare)
    return optimizer


def _check_adaptive(beta1: float, beta2: float, eps: float) -> None:
    _check_range("beta1", beta1, least=0.0, below=1.0)
    _check_range("beta2", beta2, least=0.0, below=1.0)
    _check_range("eps", eps, above=0.0)


def _check_range(
    name: str, value: float, *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf
) -> None:
    if value > above and value >= least and value < below:
        return
    bounds = [f"above {above:g}" if above > -math.inf else "", f"at least {least:g}" if least > -math.inf else ""]
    bounds.append(f"below {below:g}" if below < math.inf else "finite")
    raise ValueError(f"{name} should be {' and '.join(bound for bound in bounds if bound)}, got {value:g}")

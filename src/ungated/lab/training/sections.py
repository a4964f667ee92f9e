"""The sections of a recipe that are the same for every data set, task and cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LARGEST_STACK = 1000  # layers

Protocol = Literal["paper", "standard"]


@dataclass
class Published:
    """The number a recipe is to reach, as published: on the test set, and on validation where that is given too."""

    metric: str
    value: float
    protocol: Protocol
    source: str
    valid: float | None = None


@dataclass
class ModelSettings:
    """What every model has; the task adds its own (embedding size, tying, ...).

    The size is `hidden_size`, or, where that is none, the largest with at most `parameters` trainable parameters in
    the whole model. `dropout` acts between layers.
    """

    parameters: int | None = None
    hidden_size: int | None = None
    num_layers: int = 1
    dropout: float = 0.0
    bidirectional: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError that names the setting."""
        for name in ("parameters", "hidden_size", "num_layers"):
            _at_least_one(name, getattr(self, name))
        if self.num_layers > LARGEST_STACK:
            raise ValueError(f"num_layers should be at most {LARGEST_STACK:,}, got {self.num_layers:,}")
        if self.parameters is None and self.hidden_size is None:
            raise ValueError("a model needs a size: parameters (a budget) or hidden_size")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is a probability of dropping and should be in [0, 1), got {self.dropout:g}")


@dataclass
class Training:
    """One run. It ends after `max_epochs`, or when `patience` epochs in a row have not improved validation.

    batch_size: sequences an update, over all processes and accumulation steps together.
    patience: none or 0 is no early stopping, as in the RHN paper; the weights kept are the best on validation anyway.
    epoch_updates: updates after which an epoch ends, that is, validation comes; the next epoch goes on in the data
    where this one stopped. None: an epoch is one pass through the data.
    accumulate: pieces into which a batch is cut, one after the other, to save memory.
    autocast: "bfloat16" runs the model's products in that type; parameters stay as they are.
    """

    batch_size: int = 64
    max_epochs: int = 1_000_000
    patience: int | None = None
    epoch_updates: int | None = None
    accumulate: int = 1
    autocast: Literal["none", "bfloat16"] = "none"

    def __post_init__(self) -> None:
        """Raises ValueError that names the setting."""
        for name in ("batch_size", "max_epochs", "epoch_updates", "accumulate"):
            _at_least_one(name, getattr(self, name))
        if self.patience == 0:
            self.patience = None
        _at_least_one("patience", self.patience)
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate should be at most batch_size {self.batch_size}, got {self.accumulate}")


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name} should be at least 1, got {value}")

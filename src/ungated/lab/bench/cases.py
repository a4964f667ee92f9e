"""What is measured: networks of the papers' sizes, and the goals that were set for them before they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: In a goal: the path that runs without being asked for, and the fastest of the peers that were measured.
AUTO, BEST = "auto", "the best peer"
REFERENCE = "reference loop"
WITHOUT_DROPOUT = "without dropout"


@dataclass(frozen=True)
class Goal:
    """A ratio that ours is to stay below: of time, or of memory.

    path: which of ours, or "stream". to: BEST, a peer (in whichever dtype it is fastest), REFERENCE or WITHOUT_DROPOUT.
    stretch: what is thought to be near the hardware's limit.
    """

    at_most: float
    to: str = BEST
    path: str = AUTO
    stretch: float | None = None
    what: str = "time"


@dataclass(frozen=True)
class Case:
    """One network and what it does.

    mode: "train" is a training step without the optimiser, "inference" a whole sequence without gradients, "stream"
    one time step a call. layer: a class of `ungated.layers`. size: its hidden size; parameters: else the budget that
    gives it. same_size: peers have the hidden size of ours instead of its number of parameters.
    dtypes: of the peers; ours has the first. dropout: recurrent, in ours.
    """

    name: str
    layer: str
    T: int
    B: int
    input_size: int
    parameters: int = 0
    size: int = 0
    mode: str = "train"
    layers: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    peers: tuple[str, ...] = ("nn.LSTM", "nn.GRU")
    same_size: bool = False
    dtypes: tuple[str, ...] = ("float32",)
    dropout: float = 0.0
    goals: tuple[Goal, ...] = ()

    @property
    def what(self) -> str:
        """In words: "RRU, training step, T 200, B 16"."""
        mode = {"train": "training step", "inference": "inference", "stream": "one step a call"}[self.mode]
        layers = f", {self.layers} layers" if self.layers > 1 else ""
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        steps = "" if self.mode == "stream" else f", T {self.T}"
        return f"{self.layer}{layers}{dropout}, {mode}{steps}, B {self.B}"


_MUSIC: dict[str, Any] = {"T": 200, "B": 16, "input_size": 88}
_NARROW: dict[str, Any] = {"output_size": 64, "expansion": 7.3}  # the paper's network for music, of 2.6M parameters
_WIDE = {"output_size": 64}
_CELLS = ("nn.LSTM", "nn.LSTMCell", "nn.GRU")


def _torch(at_most: float) -> Goal:
    """Of the operators in torch alone, which need no compiler."""
    return Goal(at_most, REFERENCE, "torch")


_CPU = (
    Case("rru-70k", "RRU", 784, 64, 1, 70_000, options=_WIDE, goals=(Goal(0.50, stretch=0.35), _torch(0.40))),
    Case(
        "rru-2.6m",
        "RRU",
        **_MUSIC,
        parameters=2_600_000,
        options=_NARROW,
        goals=(Goal(0.85, stretch=0.70), _torch(0.50)),
    ),
    Case(
        "rru-6.9m", "RRU", **_MUSIC, parameters=6_900_000, options=_WIDE, goals=(Goal(0.80, stretch=0.65), _torch(0.55))
    ),
    Case("rru-5.0m", "RRU", 64, 128, 64, 5_000_000, options=_WIDE, goals=(Goal(0.95, stretch=0.80), _torch(0.80))),
    Case(
        "rru-2.6m-dropout",
        "RRU",
        **_MUSIC,
        parameters=2_600_000,
        options=_NARROW,
        peers=(),
        dropout=0.5,
        goals=(Goal(1.06, WITHOUT_DROPOUT, stretch=1.03),),
    ),
    Case("lstm-2.6m", "LSTM", **_MUSIC, parameters=2_600_000, peers=("nn.LSTM",), goals=(Goal(1.0, stretch=0.9),)),
    Case("gru-2.6m", "GRU", **_MUSIC, parameters=2_600_000, peers=("nn.GRU",), goals=(Goal(0.5, stretch=0.35),)),
    Case("rhn-6m", "RHN", 35, 20, 256, 6_000_000, options={"depth": 10}, peers=(), goals=(Goal(0.35, stretch=0.25),)),
    Case("mogrifier-3m-b20", "MogrifierLSTM", 35, 20, 256, 3_000_000, peers=(), goals=(Goal(0.35, stretch=0.25),)),
    Case("mogrifier-3m", "MogrifierLSTM", 35, 64, 256, 3_000_000, peers=(), goals=(Goal(0.35, stretch=0.25),)),
    Case(
        "rru-2.6m-inference",
        "RRU",
        200,
        1,
        88,
        2_600_000,
        mode="inference",
        options=_NARROW,
        goals=(Goal(0.9, stretch=0.55),),
    ),
    Case(
        "rru-70k-inference", "RRU", 784, 1, 1, 70_000, mode="inference", options=_WIDE, goals=(Goal(0.6, stretch=0.4),)
    ),
    Case(
        "rru-2.6m-stream",
        "RRU",
        200,
        1,
        88,
        2_600_000,
        mode="stream",
        options=_NARROW,
        peers=_CELLS,
        goals=(Goal(1.0, path="stream", stretch=0.6),),
    ),
    Case(
        "rru-70k-stream",
        "RRU",
        784,
        1,
        1,
        70_000,
        mode="stream",
        options=_WIDE,
        peers=_CELLS,
        goals=(Goal(1.0, path="stream", stretch=0.6),),
    ),
)

_HALF = ("bfloat16", "float16")
_PTB = {"output_size": 128}
_TWO_RELUS = {"output_size": 128, "relu_layers": 2, "expansion": 4.0}
_PERSISTENT = "nn.LSTM 768, input 128"  # the sizes at which cuDNN keeps the weights on the chip, in float16
_COMPILED = "compiled loop"
_LESS_MEMORY = Goal(0.3, REFERENCE, stretch=0.15, what="memory")
_CUDNN: dict[str, Any] = {
    "T": 1024,
    "B": 16,
    "input_size": 768,
    "same_size": True,
    "peers": ("nn.LSTM", "FlashRNN LSTM", "haste LSTM"),
}

_CUDA = (
    Case(
        "rru-2.6m",
        "RRU",
        **_MUSIC,
        size=339,
        options=_NARROW,
        dtypes=_HALF,
        peers=("nn.LSTM", "nn.GRU", _PERSISTENT),
        goals=(Goal(0.6, "nn.LSTM", stretch=0.4), Goal(1.3, _PERSISTENT, stretch=1.0), _LESS_MEMORY),
    ),
    Case("rru-8.6m", "RRU", **_MUSIC, size=1383, options=_WIDE, dtypes=_HALF, goals=(Goal(0.6, stretch=0.4),)),
    Case("rru-70k", "RRU", 784, 64, 1, 70_000, options=_WIDE, dtypes=_HALF, goals=(Goal(0.7, stretch=0.4),)),
    Case(
        "rru-70k-2-layers",
        "RRU",
        784,
        64,
        1,
        140_000,
        layers=2,
        options=_WIDE,
        dtypes=_HALF,
        goals=(Goal(0.7, stretch=0.4),),
    ),
    Case(
        "rru-word-ptb",
        "RRU",
        64,
        128,
        128,
        size=1626,
        layers=2,
        options=_PTB,
        dtypes=_HALF,
        goals=(Goal(1.2, stretch=0.9),),
    ),
    Case(
        "rru-char-ptb",
        "RRU",
        512,
        64,
        128,
        size=628,
        layers=2,
        options=_TWO_RELUS,
        dtypes=_HALF,
        goals=(Goal(1.2, stretch=0.8),),
    ),
    Case(
        "rru-enwik8",
        "RRU",
        256,
        64,
        128,
        size=914,
        layers=2,
        options=_TWO_RELUS,
        dtypes=_HALF,
        goals=(Goal(1.2, stretch=0.9),),
    ),
    Case(
        "rhn-ptb",
        "RHN",
        35,
        20,
        830,
        size=830,
        options={"depth": 10},
        dtypes=_HALF[:1],
        peers=(),
        goals=(Goal(0.25, _COMPILED, stretch=0.15),),
    ),
    Case(
        "mogrifier-ptb",
        "MogrifierLSTM",
        35,
        64,
        256,
        3_000_000,
        dtypes=_HALF[:1],
        peers=(),
        goals=(Goal(0.3, _COMPILED, stretch=0.2),),
    ),
    Case(
        "lstm-768",
        "LSTM",
        **_CUDNN,
        size=768,
        dtypes=("float16", "bfloat16"),
        goals=(Goal(1.0, "nn.LSTM", stretch=0.7), Goal(0.5, "FlashRNN LSTM")),
    ),
    Case("lstm-768-float32", "LSTM", **_CUDNN, size=768, goals=(Goal(0.5, "nn.LSTM", stretch=0.35),)),
    Case("lstm-763", "LSTM", **_CUDNN, size=763, dtypes=_HALF[:1], goals=(Goal(0.5, "nn.LSTM", stretch=0.35),)),
    Case(
        "lstm-768-2-layers",
        "LSTM",
        **_CUDNN,
        size=768,
        layers=2,
        dtypes=_HALF[:1],
        goals=(Goal(0.5, "nn.LSTM", stretch=0.35),),
    ),
    Case(
        "gru-768",
        "GRU",
        1024,
        16,
        768,
        size=768,
        same_size=True,
        dtypes=_HALF[:1],
        peers=("nn.GRU",),
        goals=(Goal(0.4, "nn.GRU", stretch=0.25),),
    ),
    Case(
        "rru-2.6m-stream",
        "RRU",
        200,
        1,
        88,
        size=339,
        mode="stream",
        options=_NARROW,
        dtypes=_HALF,
        peers=("nn.LSTM", "nn.LSTMCell"),
        goals=(Goal(1.0, stretch=0.6),),
    ),
)

#: By type of device, in the order of the table.
CASES = {kind: {case.name: case for case in cases} for kind, cases in (("cpu", _CPU), ("cuda", _CUDA))}

#: The case beside these: a compiled path's first use, from an empty cache and from a full one, in seconds.
FIRST_USE = "first-use"
FIRST_USE_GOALS = {"empty_cache": 3.0, "cached": 0.1}

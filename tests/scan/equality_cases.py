"""What test_equality.py compares paths on: cells, sizes and kinds of calls, drawn within what they may cost."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

FULL = os.environ.get("UNGATED_EQUALITY") == "full"

LARGEST = {"T": 300, "B": 130, "m": 3000, "n": 3000}
# What one draw may cost: products (parameters x T x B), parameters, and micro-steps of the loops.
PRODUCTS, PARAMETERS, STEPS = (400_000_000, 12_000_000, 3000) if FULL else (6_000_000, 400_000, 60)
EDGES = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 130, 255, 257, 300, 511, 1000, 1025, 2049, 3000]


@dataclass(frozen=True)
class Case:
    """A cell, the sizes and kinds of what it is given, and the dtype of its weights or of autocast."""

    name: str
    T: int
    B: int
    m: int
    n: int
    options: dict[str, Any] = field(default_factory=dict)
    masks: float = 0.0  # the rate of dropout
    ragged: bool = False
    layout: str = "plain"
    dtype: str = "float32"
    threads: int = 1


def weights_of(name: str, m: int, n: int, options: dict[str, Any]) -> tuple[float, int]:
    """Roughly: the parameters, and the products that depend on each other in a step."""
    if name == "rru":
        g, inner = options.get("expansion", 2.0) * (m + n), options.get("relu_layers", 1) - 1
        return (m + 2 * n) * g + inner * g * g, 2 + inner
    if name == "rhn":
        return 2 * n * (m + options["depth"] * n), options["depth"]
    if name == "mogrifier":
        return 4 * n * (m + n) + options["rounds"] * options["rank"] * (m + n), 1 + options["rounds"]
    return {"lstm": 4, "gru": 3}[name] * n * (m + n), {"lstm": 1, "gru": 2}[name]


def affordable(name: str, sizes: dict[str, int], options: dict[str, Any]) -> bool:
    parameters, inner = weights_of(name, sizes["m"], sizes["n"], options)
    rows = sizes["T"] * sizes["B"]
    return parameters <= PARAMETERS and parameters * rows <= PRODUCTS and inner * sizes["T"] <= STEPS


OPTIONS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "rru": st.fixed_dictionaries(
        {"relu_layers": st.integers(1, 3)},
        optional={
            "expansion": st.sampled_from([0.7, 1.3, 7.3]),
            "normalize": st.just(False),
            "rezero": st.just("scalar"),
            "residual": st.sampled_from(["one", 0.9]),
            "output_size": st.integers(1, 9),
            "output_relu": st.just(True),
        },
    ),
    "rhn": st.fixed_dictionaries({"depth": st.integers(1, 10)}, optional={"tie_masks": st.just(False)}),
    "gru": st.fixed_dictionaries({}, optional={"reset": st.just("after")}),
    "lstm": st.fixed_dictionaries({}, optional={"forget_bias": st.just(0.5)}),
    "mogrifier": st.fixed_dictionaries({"rounds": st.integers(0, 6), "rank": st.integers(1, 41)}),
}


@st.composite
def cases(draw: Callable[..., Any], name: str) -> Case:
    """Sizes in an order that is drawn too: each is chosen from what the ones before leave affordable."""
    options = draw(OPTIONS[name])
    sizes = dict.fromkeys(LARGEST, 1)
    for size in draw(st.permutations(list(LARGEST))):
        fits, exceeds = 1, LARGEST[size] + 1
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            if affordable(name, {**sizes, size: middle}, options):
                fits = middle
            else:
                exceeds = middle
        edges = [edge for edge in EDGES if edge <= fits]
        sizes[size] = draw(st.sampled_from(edges) | st.integers(1, min(fits, 40)) | st.integers(1, fits))
    return Case(
        name,
        **sizes,
        options=options,
        masks=draw(st.sampled_from([0.0, 0.4, 0.8])),
        ragged=draw(st.booleans()),
        layout=draw(st.sampled_from(["plain", "transposed", "sliced"])),
        dtype=draw(st.sampled_from(["float32", "float32", "float32", "bfloat16", "autocast"])),
        threads=draw(st.sampled_from((1, 2, 3, 9))),
    )

"""Medians, ratios and goals: what a measured case says."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ungated.lab.bench.cases import AUTO, BEST, REFERENCE, Case, Goal
from ungated.lab.bench.measure import Measured, Timing


def summarise(case: Case, measured: Measured, *, judged: bool = True) -> dict[str, Any]:
    """A case as the record keeps it. judged: whether goals are compared with, which a quick look does not do."""
    line, timings = measured.line, measured.timings
    peers = [timing for timing in timings if timing.variant.role == "peer"]
    best = min(peers, key=_median, default=None)
    return {
        "name": case.name,
        "what": case.what,
        "mode": case.mode,
        "T": line.variants[0].x.shape[0] if line.variants else case.T,
        "B": case.B,
        "input_size": case.input_size,
        "hidden_size": line.size,
        "parameters": line.parameters,
        "auto": line.auto,
        "best_peer": None if best is None else best.variant.name,
        "complete": measured.complete,
        "rounds": len(timings[0].seconds) if timings else 0,
        "variants": [_entry(timing, timings, best) for timing in timings],
        "goals": [found for goal in case.goals if judged and (found := _judge(goal, measured)) is not None],
        "left_out": dict(line.left_out),
    }


def _entry(timing: Timing, timings: Sequence[Timing], best: Timing | None) -> dict[str, Any]:
    variant, per = timing.variant, timing.variant.x.shape[0] if timing.variant.mode == "stream" else 1
    entry: dict[str, Any] = {
        "name": variant.name,
        "role": variant.role,
        "dtype": str(variant.x.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in variant.module.parameters()),
        "milliseconds": _spread([1e3 * seconds / per for seconds in timing.seconds]),
        "first_call_seconds": _short(timing.first_call),
        "memory_bytes": timing.memory,
    }
    if variant.role == "ours":
        loop = next((other for other in timings if other.variant.kind == REFERENCE), None)
        entry["ratio_to_best_peer"] = None if best is None else _ratio(timing, best)
        entry["ratio_to_reference"] = None if loop is None else _ratio(timing, loop)
    return entry


def _judge(goal: Goal, measured: Measured) -> dict[str, Any] | None:
    """What came of a goal; None where ours, or what it is to be compared with, was not measured."""
    path = measured.line.auto if goal.path == AUTO else goal.path
    ours = next((t for t in measured.timings if t.variant.role == "ours" and t.variant.kind == path), None)
    rivals = [timing for timing in measured.timings if timing.variant.role != "ours"]
    if goal.to == BEST:
        rivals = [timing for timing in rivals if timing.variant.role == "peer"]
    else:
        rivals = [timing for timing in rivals if timing.variant.kind == goal.to]
        rivals = [timing for timing in rivals if timing.variant.role == "peer" or timing.variant.path == path]
    if ours is None or not rivals or not ours.seconds:
        return None
    rival = min(rivals, key=_median)
    if goal.what == "memory":
        if not ours.memory or not rival.memory:
            return None
        ratio = _short(ours.memory / rival.memory)
    else:
        ratio = _ratio(ours, rival)["median"]
    return {
        "of": path,
        "to": rival.variant.name,
        "what": goal.what,
        "at_most": goal.at_most,
        "stretch": goal.stretch,
        "ratio": ratio,
        "met": ratio <= goal.at_most,
    }


def _median(timing: Timing) -> float:
    return statistics.median(timing.seconds or [timing.first_call])


def _ratio(timing: Timing, other: Timing) -> dict[str, Any]:
    """Of the two in the same round, over the rounds."""
    return _spread([a / b for a, b in zip(timing.seconds, other.seconds, strict=True)])


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, and all values in order."""
    if not values:
        return {"median": None, "quartiles": None, "all": []}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": _short(middle), "quartiles": [_short(low), _short(high)], "all": [_short(v) for v in values]}


def _short(value: float) -> float:
    return float(f"{value:.4g}")

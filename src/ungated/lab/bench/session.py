"""A whole measurement: its record grows case by case, so that whoever stops it keeps what is there."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ungated.lab.bench.cases import CASES, FIRST_USE, FIRST_USE_GOALS, Case
from ungated.lab.bench.first_use import first_use
from ungated.lab.bench.machine import describe_machine, load
from ungated.lab.bench.measure import WARM_UP, Measured, measure, memory_kind
from ungated.lab.bench.summary import summarise
from ungated.lab.bench.variants import line_up
from ungated.lab.errors import UsageError
from ungated.scan import BACKENDS

FORMAT = 1
QUICK_ROUNDS = 2


@dataclass(frozen=True)
class Settings:
    """dtypes: in place of the cases' own. quick: a quarter of the time steps, goals not judged.

    compile_limit: seconds for torch.compile of the loop; 0: it is left out.
    """

    device: str = "cpu"
    cases: tuple[str, ...] = ()
    rounds: int = 7
    threads: int | None = None
    dtypes: tuple[str, ...] = ()
    quick: bool = False
    compile_limit: float = 0.0
    seed: int = 0


class Watcher:
    """What hears of the progress; quiet."""

    def case(self, number: int, total: int, name: str) -> None:
        """Case `number` of `total` begins."""

    def doing(self, what: str) -> None:
        """What is done next within the case."""

    def done(self, entry: dict[str, Any]) -> None:
        """A case is measured."""


def run(
    settings: Settings, device: torch.device, keep: Callable[[dict[str, Any]], None], watcher: Watcher
) -> dict[str, Any]:
    """Measure; returns the record. keep: called with it after each case.

    On KeyboardInterrupt the case under way is kept with the rounds that are complete, and the exception goes on.
    Raises UsageError for a case that does not exist on this device.
    """
    names = settings.cases or (*CASES[device.type], FIRST_USE)
    check_cases(device.type, names)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    record = _record(settings, device)
    try:
        for number, name in enumerate(names, 1):
            watcher.case(number, len(names), name)
            if name == FIRST_USE:
                for path in _compiled_paths(device):
                    record["first_use"] += first_use(path, str(device), watcher.doing)
            else:
                _run_case(CASES[device.type][name], settings, device, record, watcher)
                watcher.done(record["cases"][-1])
            keep(record)
        record["complete"] = True
    finally:
        record["machine"]["load_after"] = load()
        if record["cases"] or record["first_use"]:
            keep(record)
    return record


def check_cases(device: str, names: Sequence[str]) -> None:
    """Raises UsageError for a case that does not exist on this type of device."""
    known = (*CASES[device], FIRST_USE)
    for name in names:
        if name not in known:
            raise UsageError(f'there is no case "{name}" on {device}: choose from {", ".join(known)}')


def _run_case(case: Case, settings: Settings, device: torch.device, record: dict[str, Any], watcher: Watcher) -> None:
    torch.manual_seed(settings.seed)
    if settings.quick:
        case = _shortened(case)
    watcher.doing("making it")
    line = line_up(case, device, settings.dtypes or case.dtypes, settings.compile_limit > 0)
    rounds = min(settings.rounds, QUICK_ROUNDS) if settings.quick else settings.rounds
    measured = Measured(line)
    try:
        measure(measured, rounds, settings.compile_limit, watcher.doing)
    finally:
        measured.even_out()
        if measured.complete or any(timing.seconds for timing in measured.timings):
            record["cases"].append(summarise(case, measured, judged=not settings.quick))


def _shortened(case: Case) -> Case:
    return Case(**{**case.__dict__, "T": max(case.T // 4, 8)})


def _compiled_paths(device: torch.device) -> list[str]:
    """The paths beside torch's that are compiled at first use, for this device."""
    return [name for name in BACKENDS if name == device.type]


def _record(settings: Settings, device: torch.device) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "complete": False,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": asdict(settings),
        "machine": {**describe_machine(device), "load_before": load(), "load_after": load()},
        "memory_kind": memory_kind(device),
        "warm_up": WARM_UP,
        "cases": [],
        "first_use": [],
        "first_use_goals": FIRST_USE_GOALS,
    }

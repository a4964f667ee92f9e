"""Time of the compiled CPU engine beside its best peers: a training step without optimiser, and inference at batch 1.

    python benchmarks/scan_cpu.py [CASE ...] [--threads 2] [--rounds 5]

Ours and the peers run interleaved in one process; medians, and ratios to the peer of the same round of the same run.
With one thread, the process's own CPU time is taken, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import ungated
from ungated.sizing import size_for

#: case: how to make ours from a hidden size, the peer (a torch.nn class, or "eager": our own reference loop),
#: T, B, input size, parameters, options.
CASES: dict[str, tuple[Any, Any, int, int, int, int, dict[str, Any]]] = {
    "rru-70k": (ungated.RRU, nn.LSTM, 784, 64, 1, 70_000, {"output_size": 64}),
    "rru-2.6m": (ungated.RRU, nn.LSTM, 200, 16, 88, 2_600_000, {"output_size": 64, "expansion": 7.3}),
    "rru-6.9m": (ungated.RRU, nn.LSTM, 200, 16, 88, 6_900_000, {"output_size": 64}),
    "rru-5.0m": (ungated.RRU, nn.LSTM, 64, 128, 64, 5_000_000, {"output_size": 64}),
    "lstm-2.6m": (ungated.LSTM, nn.LSTM, 200, 16, 88, 2_600_000, {}),
    "gru-2.6m": (ungated.GRU, nn.GRU, 200, 16, 88, 2_600_000, {}),
    "rhn": (ungated.RHN, "eager", 35, 20, 256, 6_000_000, {"depth": 10}),
    "mogrifier": (ungated.MogrifierLSTM, "eager", 35, 64, 256, 3_000_000, {}),
    "rru-2.6m-inference": (ungated.RRU, nn.LSTM, 200, 1, 88, 2_600_000, {"output_size": 64, "expansion": 7.3}),
    "rru-70k-inference": (ungated.RRU, nn.LSTM, 784, 1, 1, 70_000, {"output_size": 64}),
}


def measure(case: str, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    ours, peer, T, B, m, parameters, options = CASES[case]
    make = partial(ours, m, **options)
    layer = make(size_for(make, parameters))
    for cell in layer.cells:
        if hasattr(cell, "Z"):  # zero at first: the state would decay to numbers that are slow to multiply
            nn.init.uniform_(cell.Z, -0.1, 0.1)
    x = torch.randn(T, B, m)
    inference = case.endswith("inference")
    variants = {"cpu": (layer, "cpu"), "torch": (layer, "torch")}
    if peer == "eager":
        variants["peer"] = (layer, "reference")
    else:
        variants["peer"] = (peer(m, size_for(partial(peer, m), parameters)), "auto")

    def run(name: str) -> float:
        module, path = variants[name]
        with ungated.backend(path), torch.set_grad_enabled(not inference):
            start = clock()
            output, _ = module(x)
            if not inference:
                output.sum().backward()
            return clock() - start

    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, found in times.items():
            seconds = run(name)
            if number:  # the first warms up
                found.append(seconds)
    peers = times["peer"]
    return {
        "case": case,
        "milliseconds": {name: round(1e3 * statistics.median(found), 1) for name, found in times.items()},
        "ratio": {
            name: round(statistics.median(map(operator.truediv, times[name], peers)), 3) for name in ("cpu", "torch")
        },
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[], help=f"any of {', '.join(CASES)}; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    for case in arguments.cases or CASES:
        print(json.dumps(measure(case, arguments.rounds, clock)), flush=True)


if __name__ == "__main__":
    main()

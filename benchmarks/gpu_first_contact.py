"""What a GPU's exchanges cost, and its peers: the measurements to make before anything is tuned on it.

    python benchmarks/gpu_first_contact.py [--out FILE.json] [PART ...]

Parts: barriers (meetings of blocks across the GPU and in clusters), gather (all blocks reading the same from L2), peers
(nn.LSTM and nn.GRU), eager (the RRU's loop as it is and as a CUDA graph), ours (this package's paths beside them),
plans (layouts of the kernels, the model's times beside the GPU's), flashrnn (where it is installed). Each stands alone:
one that fails is kept as its error. Medians of several runs.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
import traceback
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import ungated
from ungated.scan import cuda
from ungated.scan.cuda import kernel, plan
from ungated.scan.cuda.cubins import cubin
from ungated.scan.cuda.driver import Function

SOURCE = r"""
typedef unsigned long long u64;
struct Arguments { unsigned* counter; uint4* data; float* out; long long turns, quads; };
extern "C" __global__ void __launch_bounds__(256, 1) scan(const __grid_constant__ Arguments x) {
#if KIND == 0  // one counter, released and acquired
  for (long long t = 1; t <= x.turns; t++) {
    __syncthreads();
    if (threadIdx.x == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(x.counter) : "memory");
      unsigned seen;
      do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(x.counter) : "memory");
      while (static_cast<int>(seen - static_cast<unsigned>(t * gridDim.x)) < 0);
    }
    __syncthreads();
  }
#elif KIND == 1  // the data themselves: every block writes a word, and polls those of all
  unsigned* words = reinterpret_cast<unsigned*>(x.data);
  for (long long t = 1; t <= x.turns; t++) {
    unsigned* here = words + t % 3 * 1024;
    const unsigned word = static_cast<unsigned>(t);
    if (threadIdx.x == 0)
      asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(here + blockIdx.x), "r"(word) : "memory");
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
      unsigned seen;
      do asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(here + i) : "memory");
      while (seen != word);
    }
    __syncthreads();
  }
#elif KIND == 2  // the cluster's own barrier
  for (long long t = 0; t < x.turns; t++)
    asm volatile("barrier.cluster.arrive.release.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
#elif KIND == 3  // all blocks read the same from L2, past the first cache
  unsigned sum = 0;
  for (long long t = 0; t < x.turns; t++)
    for (long long i = threadIdx.x; i < x.quads; i += 4 * blockDim.x) {
      uint4 q[4] = {};
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (i + j * blockDim.x < x.quads)
          asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                       : "=r"(q[j].x), "=r"(q[j].y), "=r"(q[j].z), "=r"(q[j].w)
                       : "l"(x.data + i + j * blockDim.x));
#pragma unroll
      for (int j = 0; j < 4; j++) sum += q[j].x ^ q[j].y ^ q[j].z ^ q[j].w;
    }
  if (sum == 12345u) x.out[0] = 1.0f;
#else  // the block's own barrier
  for (long long t = 0; t < x.turns; t++) __syncthreads();
#endif
}
"""


class _Arguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("counter", "data", "out")),
        *((name, ctypes.c_int64) for name in ("turns", "quads")),
    ]


def milliseconds(run: Callable[[], object], rounds: int = 7, seconds: float = 2.0) -> float:
    """Median time of a call on the GPU; fewer rounds where it is slow."""
    run()
    torch.cuda.synchronize()
    found: list[float] = []
    stop = time.monotonic() + seconds
    while len(found) < rounds and (len(found) < 2 or time.monotonic() < stop):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end))
    return statistics.median(found)


@cache
def function(kind: int, shared_bytes: int = 0) -> Function:
    properties = torch.cuda.get_device_properties(0)
    source = f"#define KIND {kind}\n{SOURCE}"
    return Function(cubin(source, f"sm_{properties.major}{properties.minor}"), "scan", 0, 256, shared_bytes)


def turn(kind: int, blocks: int, *, quads: int = 0, cluster: int = 1, turns: int = 2000) -> float:
    """Nanoseconds of one turn: a long launch less a short one."""

    def launch(count: int) -> None:
        memory = torch.zeros(max(quads * 16, 16_384) + 256, dtype=torch.uint8, device="cuda")
        out = torch.zeros(1, device="cuda")
        x = _Arguments(memory.data_ptr(), memory.data_ptr() + 256, out.data_ptr(), count, quads)
        function(kind).launch(blocks, x, cooperative=kind in (0, 1), cluster=cluster)

    long, short = (milliseconds(lambda count=count: launch(count)) for count in (turns, turns // 10))  # type: ignore[misc]
    return round(1e6 * (long - short) / (turns - turns // 10), 1)


def barriers() -> dict[str, Any]:
    """Nanoseconds of one meeting."""
    count = torch.cuda.get_device_properties(0).multi_processor_count
    found: dict[str, Any] = {}
    for blocks in (2, 8, 16, 33, 66, count):
        found[f"one counter, {blocks} blocks"] = turn(0, blocks)
        found[f"polled data, {blocks} blocks"] = turn(1, blocks)
    found["the block's own"] = turn(4, 1)
    for size in (2, 4, 8, 16):
        name = f"cluster of {size}"
        try:
            found[name] = turn(2, size * max(1, count // size // 2), cluster=size)
        except Exception as error:  # 16 is beyond what every GPU has
            found[name] = str(error)
    return found


def gather() -> dict[str, Any]:
    """Bytes a nanosecond and block, all blocks reading the same."""
    count = torch.cuda.get_device_properties(0).multi_processor_count
    found = {}
    for kilobytes in (11, 50, 100, 400):
        quads = kilobytes * 64
        for blocks in (1, 33, count):
            time_of_turn = turn(3, blocks, quads=quads, turns=200)
            found[f"{kilobytes} KB, {blocks} blocks"] = {
                "nanoseconds": time_of_turn,
                "bytes a nanosecond and block": round(quads * 16 / max(time_of_turn, 1e-9), 1),
            }
    return found


def _times(module: nn.Module, x: torch.Tensor, *, seconds: float = 0.5) -> dict[str, float]:
    """Milliseconds of a forward pass without gradients, and of one with a backward pass after it."""

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def both() -> None:
        output, _ = module(x)
        output.float().sum().backward()

    return {
        "forward": round(milliseconds(forward, 5, seconds), 3),
        "forward and backward": round(milliseconds(both, 5, seconds), 3),
    }


def peers() -> dict[str, Any]:
    """nn.LSTM and nn.GRU, T 200, B 16, input 128."""
    found: dict[str, Any] = {}
    for name, kind in (("LSTM", nn.LSTM), ("GRU", nn.GRU)):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            for size, layers in ((128, 1), (763, 1), (768, 1), (1024, 1), (1401, 1), (768, 2)):
                key = f"{name} {str(dtype).removeprefix('torch.')}, H {size}, layers {layers}"
                try:
                    module = kind(128, size, layers).cuda().to(dtype)
                    x = torch.randn(200, 16, 128, device="cuda", dtype=dtype)
                    found[key] = _times(module, x, seconds=0.3)
                except Exception as error:
                    found[key] = str(error)
    return found


def _rru(input_size: int = 88, hidden: int = 339, expansion: float = 7.3) -> nn.Module:
    layer = ungated.RRU(input_size, hidden, output_size=64, expansion=expansion).cuda()
    for cell in layer.cells:
        nn.init.uniform_(cell.Z, -0.1, 0.1)
    return layer


def eager() -> dict[str, Any]:
    """Milliseconds of the RRU of 2.6 million parameters, T 200, B 16, as a loop in torch; and the loop as a graph."""
    layer, x = _rru(), torch.randn(200, 16, 88, device="cuda")
    found: dict[str, Any] = {}
    for path in ("reference", "torch"):
        with ungated.backend(path):
            found[path] = _times(layer, x, seconds=2.0)
    with ungated.backend("torch"), torch.no_grad():
        layer(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            layer(x)
        found["torch, forward as one graph"] = round(milliseconds(graph.replay), 3)
    return found


def ours() -> dict[str, Any]:
    """Every path that can run, beside the peers of equal parameters where there are: milliseconds."""
    found: dict[str, Any] = {}
    cases: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
        "rru 2.6M": (_rru, 200, 16, 88),
        "rru 8.6M": (lambda: _rru(88, 1383, 2.0), 200, 16, 88),
        "rru 70K": (lambda: _rru(1, 115, 2.0), 784, 64, 1),
        "lstm 768": (lambda: ungated.LSTM(768, 768).cuda(), 1024, 16, 768),
        "gru 768": (lambda: ungated.GRU(768, 768).cuda(), 1024, 16, 768),
        "gru 768, reset after": (lambda: ungated.GRU(768, 768, reset="after").cuda(), 1024, 16, 768),
        "rhn 830, depth 10": (lambda: ungated.RHN(830, 830, depth=10).cuda(), 35, 20, 830),
        "mogrifier 1014": (lambda: ungated.MogrifierLSTM(1014, 1014).cuda(), 64, 64, 1014),
        "mogrifier 472": (lambda: ungated.MogrifierLSTM(88, 472, rounds=6, rank=58).cuda(), 200, 16, 88),
        "nn.LSTM 768": (lambda: nn.LSTM(768, 768).cuda(), 1024, 16, 768),
        "nn.GRU 768": (lambda: nn.GRU(768, 768).cuda(), 1024, 16, 768),
    }
    for name, (make, T, B, m) in cases.items():
        peer = name.startswith("nn.")
        for dtype in (torch.float32, torch.bfloat16, *((torch.float16,) if peer else ())):
            for path in ("auto",) if peer else ("cuda", "triton", "graph") if name == "rru 2.6M" else ("cuda",):
                key = f"{name}, {str(dtype).removeprefix('torch.')}, {path}"
                try:
                    layer, x = make().to(dtype), torch.randn(T, B, m, device="cuda", dtype=dtype)
                    start = time.monotonic()
                    with ungated.backend(path):
                        layer(x)[0].float().sum().backward()
                        torch.cuda.synchronize()
                        first = time.monotonic() - start
                        found[key] = {"first call, seconds": round(first, 2), **_times(layer, x, seconds=0.4)}
                except Exception as error:
                    found[key] = str(error).partition("\n")[0]
    return found


def plans() -> dict[str, Any]:
    """The plans that the model finds best, timed: microseconds a step forward, the model's beside the GPU's."""
    found: dict[str, Any] = {}
    cases = {
        "rru 2.6M": (_rru, 200, 16, 88),
        "rru 70K": (lambda: _rru(1, 115, 2.0), 784, 64, 1),
        "lstm 768": (lambda: ungated.LSTM(128, 768).cuda(), 200, 16, 128),
        "mogrifier 472": (lambda: ungated.MogrifierLSTM(88, 472, rounds=6, rank=58).cuda(), 200, 16, 88),
    }
    for name, (make, T, B, m) in cases.items():
        layer, x = make().bfloat16(), torch.randn(T, B, m, device="cuda", dtype=torch.bfloat16)
        rows = []
        for made in _best_plans(layer.cells[0], B):
            with mock.patch.object(kernel, "plan", lambda *_, made=made: made), torch.no_grad():  # type: ignore[misc]
                kernel._prepared.cache_clear()
                shape = f"rows {made.rows}, blocks {made.ctas}, warps {made.warps}"
                shape += ", two products a round" if made.work.other is not None else ""
                try:
                    with ungated.backend("cuda"):
                        measured = 1e3 * milliseconds(partial(layer, x), 5, 0.3) / T
                    rows.append({"plan": shape, "model": made.nanoseconds / 1e3, "measured": round(measured, 2)})
                except Exception as error:
                    rows.append({"plan": shape, "error": str(error).partition("\n")[0]})
        kernel._prepared.cache_clear()
        found[name] = rows
    return found


def _best_plans(cell: Any, batch: int, count: int = 10) -> list[plan.Plan]:
    (work, _), device = cuda._WORKS[type(cell)](cell, False, False), kernel._gpu.device(0)
    made = {(p.work, p.rows, p.ctas, p.warps): p for p in plan._candidates(work, "BF16", batch, device) if p}
    return sorted(made.values(), key=lambda one: one.nanoseconds)[:count]


def flashrnn() -> dict[str, Any]:
    """FlashRNN's LSTM, H 768, T 1024, B 16, where it is installed: milliseconds of a forward pass."""
    from flashrnn import flashrnn as run  # type: ignore[import-not-found]

    W = torch.randn(16, 1024, 4, 1, 768, device="cuda", dtype=torch.bfloat16)
    R, b = (
        torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02 for shape in ((4, 1, 768, 768), (4, 1, 768))
    )
    return {
        "forward": round(milliseconds(lambda: run(W, R, b, function="lstm", backend="cuda_fused", dtype="bfloat16")), 3)
    }


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    part.__name__: part for part in (barriers, gather, ours, plans, eager, peers, flashrnn)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("gpu_first_contact.json"))
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        raise SystemExit("needs a GPU that torch can use")
    properties = torch.cuda.get_device_properties(0)
    result: dict[str, Any] = {"gpu": properties.name, "torch": torch.__version__, "cuda": torch.version.cuda}
    for name in arguments.parts or PARTS:
        start = time.monotonic()
        try:
            result[name] = PARTS[name]()
        except Exception as error:
            traceback.print_exc()
            result[name] = f"failed: {error}".partition("\n")[0]
        result[f"{name}, seconds"] = round(time.monotonic() - start, 1)
        arguments.out.write_text(json.dumps(result, indent=1))  # after every part: the next may take the process along
        print(json.dumps({name: result[name]}, indent=1), flush=True)


if __name__ == "__main__":
    main()

"""The RRU's Triton kernels without a GPU: run by Triton's interpreter, compiled for GPUs; and when they cannot run."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from ungated.cells import CELLS, RRUCell
from ungated.scan import rru_torch, triton
from ungated.scan.triton import rru

from .interpreted_triton import IN_TORCH, OURS, SHAPES, arguments, everything
from .test_torch_paths import assert_close

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
def test_equal_to_the_loop_in_torch() -> None:
    file = Path(__file__).parent / "interpreted_triton.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


class Launches:
    """Takes the place of the kernels' module, and keeps what they are called with."""

    def __init__(self) -> None:
        self.made: dict[Any, tuple[str, tuple[Any, ...], dict[str, Any]]] = {}

    def __getattr__(self, name: str) -> Any:
        return _Kernel(name, self)


class _Kernel:
    def __init__(self, name: str, launches: Launches) -> None:
        self.name, self.launches = name, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert 1 <= len(grid) <= 3
        assert all(size >= 1 for size in grid)

        def launch(*args: Any, **flags: Any) -> None:
            types = tuple(arg.dtype if isinstance(arg, Tensor) else int for arg in args)
            self.launches.made[self.name, types, tuple(flags.items())] = (self.name, args, flags)

        return launch


POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8"}
MUSIC, TWO_LAYERS = (88, 339, {"expansion": 7.3}, 2, 16), (50, 628, {"relu_layers": 2}, 2, 64)
COMPILED = [(80, None, "tf32", MUSIC), (90, torch.bfloat16, "tf32", TWO_LAYERS)]
if os.environ.get("UNGATED_DRAWS"):  # the long version
    settings = [(None, "tf32"), (None, "ieee"), (torch.bfloat16, "ieee"), (torch.float16, "tf32")]
    COMPILED = [(80 + 10 * k, *one, shape) for k in (0, 1) for one in settings for shape in (MUSIC, TWO_LAYERS)]


@needs_triton
@pytest.mark.parametrize(("capability", "reduced", "precision", "shape"), COMPILED, ids=str)
def test_compiles_for_a_gpu(
    capability: int,
    reduced: torch.dtype | None,
    precision: str,
    shape: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    """To machine code, with the matrix units' instructions, in the shared memory that every such GPU has."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ungated.scan.triton import kernels as source

    launches = Launches()
    monkeypatch.setattr(rru, "kernels", lambda: launches)
    monkeypatch.setattr(rru, "tf32_allowed", lambda: precision == "tf32")
    everything(*OURS, arguments(shape, True, True, reduced=reduced), [True, True])
    assert {name for name, *_ in launches.made.values()} >= {"widen", "narrow"}
    for name, args, flags in launches.made.values():
        kernel, options = getattr(source, name), {"num_stages": flags.pop("num_stages", 3)}
        given = dict(zip(kernel.arg_names, args, strict=False))
        types = {key: POINTERS[arg.dtype] if isinstance(arg, Tensor) else "i32" for key, arg in given.items()}
        aligned = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.data_ptr() % 16 == 0]
        assert set(kernel.arg_names) == {*types, *flags}
        signature = {key: types.get(key, "constexpr") for key in kernel.arg_names}
        attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
        compiled = compile_kernel(
            ASTSource(kernel, signature, flags, attributes), target=GPUTarget("cuda", capability, 32), options=options
        )
        assert compiled.metadata.shared <= 99 * 1024
        assert len(compiled.asm["cubin"]) > 0
        if (reduced, precision) != (None, "ieee"):
            assert "mma" in compiled.asm["ptx"]


@pytest.mark.parametrize(("B", "n", "g"), [(1, 1, 1), (16, 339, 3117), (64, 628, 3024), (130, 3000, 6000)])
def test_tiles_cover_every_shape(B: int, n: int, g: int) -> None:
    tiles = rru.blocks(B, n, g)
    assert all(tile in (16, 32, 64) for tile in tiles[:-1])
    assert 1 <= tiles.splits <= 8
    assert (tiles.splits - 1) * tiles.inner_g < g


def test_a_failure_is_said_once_and_the_loop_in_torch_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> ModuleType:
        raise ValueError("no luck\nat line 3")

    monkeypatch.setattr(triton, "_failed", [])
    monkeypatch.setattr(rru, "kernels", fail)
    a, run = arguments(SHAPES[1]), triton.or_in_torch(rru.forward, rru_torch._forward)
    with caplog.at_level(logging.WARNING, "ungated"):
        for _ in range(2):
            assert_close(everything(run, rru_torch._backward, a, [True, True]), everything(*IN_TORCH, a, [True, True]))
    assert [record.getMessage() for record in caplog.records] == [
        "Triton's kernels failed, a slower loop runs instead: no luck"
    ]
    assert triton.unavailable(RRUCell(2, 3), a.drive, None, None) == "no luck"


def test_no_memory_is_not_a_failure_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(triton, "_failed", [])
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        triton.or_in_torch(fail, fail)()
    assert triton._failed == []


def test_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    drive, cell = torch.zeros(5, 1, 6), RRUCell(1, 2)
    assert triton.why_not_triton(CELLS["gru"](1, 2), CELLS["gru"], drive, None) == "it has no kernels for GRUCell"
    assert triton.why_not_triton(cell, RRUCell, drive, None) == "it runs on CUDA devices only"
    monkeypatch.setattr(triton, "why_not_graph", lambda *_: "")
    assert "float64" in triton.why_not_triton(RRUCell(1, 2).double(), RRUCell, drive, None)
    assert "ReLU over c" in triton.why_not_triton(RRUCell(1, 2, output_relu=True), RRUCell, drive, None)
    monkeypatch.setattr(triton, "_failed", [])

    def absent() -> ModuleType:
        raise ImportError("No module named 'triton'")

    triton._not_imported.cache_clear()
    monkeypatch.setattr(rru, "kernels", absent)
    assert triton.why_not_triton(cell, RRUCell, drive, None) == ""
    assert triton.unavailable(cell, drive, None, None).startswith("Triton cannot be imported")
    triton._not_imported.cache_clear()

"""Every test of this folder that takes `entry` runs for every cell, and what a fast path could break on both paths."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ungated.scan import BACKENDS, backend

from .entries import ENTRIES, Entry

#: Their tests run on the reference and on the path that "auto" takes, where a cell has another.
ON_BOTH_PATHS = ("test_invariants", "test_gradients", "test_equal_torch")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    both = metafunc.module.__name__.rpartition(".")[2] in ON_BOTH_PATHS
    if "entry" in metafunc.fixturenames:
        pairs = [(entry, path) for entry in ENTRIES for path in (paths_of(entry) if both else ("auto",))]
        names = [entry.name if path == "auto" else f"{entry.name}-on-{path}" for entry, path in pairs]
        metafunc.parametrize(("entry", "path"), pairs, ids=names, indirect=["path"])
    elif both:
        metafunc.parametrize("path", ["auto", "reference"], indirect=True)


def paths_of(entry: Entry) -> tuple[str, ...]:
    return ("reference", "auto") if fast_paths_of(entry) else ("auto",)


def fast_paths_of(entry: Entry, dtype: torch.dtype = torch.float32) -> list[str]:
    """The named paths, beside the reference, that can run this cell."""
    found, layer = [], entry.layer(dtype=dtype)
    for name in BACKENDS:
        if name not in ("auto", "reference"):
            try:
                with torch.no_grad(), backend(name):
                    layer(torch.zeros(8, 4, 3, dtype=dtype))
            except RuntimeError as error:
                assert "cannot run this call" in str(error)
            else:
                found.append(name)
    return found


@pytest.fixture(autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    name = getattr(request, "param", "auto")
    torch.manual_seed(1)
    with backend(name):
        yield name

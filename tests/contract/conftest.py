"""Every test of this folder that takes `entry` runs for every cell."""

from __future__ import annotations

import pytest
import torch

from .entries import ENTRIES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "entry" in metafunc.fixturenames:
        metafunc.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(1)

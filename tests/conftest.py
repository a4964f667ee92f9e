"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of the real data sets; tests that need it are skipped where UNGATED_DATA is not set."""
    directory = os.environ.get("UNGATED_DATA")
    if not directory:
        pytest.skip("needs the real data sets: set UNGATED_DATA to their directory")
    return Path(directory)

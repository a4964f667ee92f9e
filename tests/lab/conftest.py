"""A run that takes a second."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY = """
dataset = "digits"
protocol = "standard"
[model]
hidden_size = 8
[cell]
name = "gru"
[optimizer]
name = "adam"
learning_rate = 0.01
[training]
batch_size = 256
max_epochs = 2
"""


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """A recipe of two epochs on built-in data, in a file of its own."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path

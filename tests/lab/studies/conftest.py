"""Studies whose runs take a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ungated.lab.studies.definition import Definition
from ungated.lab.studies.study import Study, create_study

MakeStudy = Callable[..., Study]

#: Built-in data, few and short sequences, few units.
TINY = """
dataset = "copy-memory"
protocol = "standard"
[data]
train = 128
valid = 100
test = 100
length = 3
delay = 2
symbols = 3
[model]
hidden_size = 3
[cell]
name = "gru"
[optimizer]
name = "adam"
learning_rate = 0.01
[training]
batch_size = 32
max_epochs = 1
"""


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """make_study(kind="sweep", axes={...}, ...) -> a new study of tiny runs in tmp_path/study."""

    def make(name: str = "study", **entries: object) -> Study:
        recipe = tmp_path / "tiny.toml"
        recipe.write_text(TINY, encoding="utf-8")
        given = {"kind": "sweep", "recipe": str(recipe), "cells": ("gru",)} | entries
        if given["kind"] == "sweep":
            given.setdefault("axes", {"learning_rate": (0.01, 0.02, 0.03)})
        return create_study(tmp_path / name, Definition(**given))  # type: ignore[arg-type]

    return make

"""Finished runs without training: directories with the files that a run leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """make_run(cell, seed, valid=[...], test=..., ...) -> a run directory on JSB Chorales."""

    def make(
        cell: str = "rru",
        seed: int = 0,
        *,
        valid: tuple[float | None, ...] = (9.0, 8.5, 8.7),
        test: float | None = 8.6,
        published: float | None = 7.72,
        learning_rate: float = 0.005,
        source: dict[str, str] | None = None,
        recipe: str | None = None,
        stopped: str = "patience",
        seconds: float = 2.5,
    ) -> Path:
        path = tmp_path / f"{cell}-{seed}-{learning_rate}"
        path.mkdir()
        settings = {"protocol": "paper", "model.parameters": 6_900_000, "optimizer.learning_rate": learning_rate}
        best = min((value for value in valid if value is not None), default=None)
        measured = {
            protocol: {"valid": {"nll_per_frame": best}, "test": {"nll_per_frame": test}}
            for protocol in ("paper", "standard")
        }
        result: dict[str, Any] = {
            "dataset": "jsb",
            "cell": cell,
            "recipe": recipe or f"jsb/{cell}",
            "seed": seed,
            "trained_under": "paper",
            "hidden_size": 256,
            "parameters": 6_899_000,
            "epochs": len(valid),
            "best_epoch": 2,
            "steps": 90,
            "stopped": stopped,
            "message": "",
            "metric": "nll_per_frame",
            "metrics": None if test is None else measured,
            "published": None
            if published is None
            else {
                "metric": "nll_per_frame",
                "value": published,
                "protocol": "paper",
                "source": "Zakovskis et al., arXiv 2108.00527, Table 1",
                "valid": None,
            },
            "settings": settings,
        }
        (path / "result.json").write_text(json.dumps(result))
        document = {
            "name": result["recipe"],
            "dataset": "jsb",
            "protocol": "paper",
            "model": {"parameters": 6_900_000},
            "cell": {"name": cell},
            "optimizer": {"learning_rate": learning_rate},
            "source": {"recipe": "Table 4", **(source or {})},
        }
        (path / "recipe.toml").write_text(tomli_w.dumps(document))
        environment = {
            "ungated": "0.1.0",
            "torch": "2.13.0",
            "device": "cpu",
            "device_name": "A processor",
            "threads": 1,
            "git_revision": "0123456789ab",
            "command": "ungated train jsb --out /home/somebody/secret",
        }
        (path / "environment.json").write_text(json.dumps(environment))
        lines = [
            {
                "epoch": number,
                "step": 30 * number,
                "train_loss": 10 / number,
                "valid": {"nll_per_frame": value},
                "learning_rate": learning_rate,
                "seconds": seconds,
            }
            for number, value in enumerate(valid, 1)
        ]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return make

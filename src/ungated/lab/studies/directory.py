"""The files of a study; runs/ and the small records beside it are the truth, all else can be made from them.

study.toml           the definition; its presence makes the directory a study
recipes/CELL.toml    the recipe of each cell, with the study's fixed settings in it
trials/NNNN.json     which cell, values, settings and seed run NNNN has; written before it begins
runs/NNNN/           an ordinary run directory
failures/NNNN.json   why run NNNN has no result
leases/NNNN.json     who works on run NNNN (leases.py)
server.json          the address of the server that hands out the runs, without its password, where one does
journal.log          Optuna's storage, where it is not a server: who takes which run, and what a search has seen
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ungated.lab.errors import StudyError
from ungated.lab.files import atomic_write_json, atomic_write_text
from ungated.lab.studies.definition import Definition
from ungated.lab.training.run import RunDirectory

_FOLDERS = ("recipes", "trials", "runs", "failures", "leases")


class StudyDirectory:
    """Paths and records below `path`. Nothing is read or written until a method is called."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.journal = self.path / "journal.log"
        self.leases = self.path / "leases"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        """Whether a study lies here."""
        return (self.path / "study.toml").is_file()

    def run(self, number: int) -> RunDirectory:
        """The directory of a run."""
        return RunDirectory(self.path / "runs" / f"{number:04d}")

    # The definition

    def read_definition(self) -> Definition:
        """Raises StudyError where no study lies, UsageError where its file is damaged."""
        if not self.exists:
            raise StudyError(f"there is no study in {self.path} (it has no study.toml): begin one with `ungated tune`"
                             " or `ungated study start`")  # fmt: skip
        return Definition.from_toml(self._read("study.toml"), str(self.path / "study.toml"))

    def read_recipes(self, definition: Definition) -> dict[str, str]:
        """The recipe of each cell as TOML, by the cell's label. Raises StudyError."""
        return {label: self._read(f"recipes/{label}.toml") for label in definition.labels}

    def create(self, definition: Definition, recipes: Mapping[str, str]) -> None:
        """Begin the study in a new or empty directory. Raises StudyError, LabError (disk)."""
        self.check_place()
        try:
            for folder in _FOLDERS:
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(
                f"cannot make the study directory {self.path}: {error.strerror}; choose another"
            ) from error
        for label, text in recipes.items():
            atomic_write_text(self.path / "recipes" / f"{label}.toml", text)
        atomic_write_text(self.path / "study.toml", definition.to_toml())

    def check_place(self) -> None:
        """Raise StudyError unless a study lies here, or a new one can begin: nothing there, or an empty directory."""
        if self.path.exists() and not self.path.is_dir():
            raise StudyError(f"{self.path} is a file, not a study directory: choose another")
        there = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
        if not there.is_dir():
            raise StudyError(f"{self.path} cannot be made, {there} is a file: choose another")
        if not os.access(there, os.W_OK | os.X_OK):
            raise StudyError(f"{there} is not writable: choose another study directory")
        if self.path.is_dir() and not self.exists:
            others = sorted(path.name for path in self.path.iterdir() if path.name not in _FOLDERS)
            if others or any((self.path / "runs").glob("*")):
                raise StudyError(
                    f"{self.path} already holds something else ({', '.join(others[:3]) or 'runs'}): choose a new or"
                    " empty directory"
                )

    def read_server(self) -> str | None:
        """The server that hands out the runs, if one does."""
        known = self._read_json("server.json")
        return None if known is None else str(known.get("address"))

    def write_server(self, address: str) -> None:
        """Remember the server that hands out the runs."""
        atomic_write_json(self.path / "server.json", {"address": address})

    # Records

    def read_trial(self, number: int) -> dict[str, Any] | None:
        """What run `number` is, once someone has begun it."""
        return self._read_json(f"trials/{number:04d}.json")

    def write_trial(self, record: Mapping[str, Any]) -> None:
        """Keep what a run is: its number, cell, variant, values, seed and settings."""
        atomic_write_json(self.path / "trials" / f"{record['number']:04d}.json", dict(record))

    def read_failure(self, number: int) -> dict[str, Any] | None:
        """Why a run has no result, if it failed."""
        return self._read_json(f"failures/{number:04d}.json")

    def write_failure(self, number: int, error: str, deaths: int) -> None:
        """Keep why a run has no result; deaths: of workers that had it."""
        record = {"number": number, "error": error, "deaths": deaths}
        atomic_write_json(self.path / "failures" / f"{number:04d}.json", record)

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise StudyError(f"cannot read {self.path / name}: {reason}") from error

    def _read_json(self, name: str) -> dict[str, Any] | None:
        if not (self.path / name).is_file():
            return None
        try:
            value = json.loads(self._read(name))
        except ValueError as error:
            raise StudyError(f"{self.path / name} is damaged: {error}") from error
        if not isinstance(value, dict):
            raise StudyError(f"{self.path / name} is damaged: it should hold a JSON object")
        return value

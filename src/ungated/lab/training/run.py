"""A run directory: one training run, self-describing, written by one process at a time.

recipe.toml         the resolved recipe; its presence makes the directory a run
environment.json    seed, versions, device, threads, git revision, command
metrics.jsonl       a line per epoch
best.safetensors    the weights with the best validation metric so far, and what they fit
state-<number>/     training states (see checkpoint.py)
result.json         the outcome; written last of all, so its presence means "finished"
run.lock            held by the writer's process; the kernel frees it when that dies
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ungated.lab.errors import CheckpointError, LabError, RunError
from ungated.lab.files import (
    FileLock,
    atomic_write,
    atomic_write_json,
    atomic_write_text,
    sha256_of,
    sweep_temporaries,
    sync_folder,
)

#: What may lie in a directory in which no run has begun: the traces of one killed before its recipe was there.
_TRACES = {"run.lock", "environment.json"}


class RunDirectory:
    """The files of one run below `path`. Nothing is read or written until a method is called.

    with run.locked():
        run.create(recipe_text, environment)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / "run.lock", f"the run directory {self.path}")

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / "recipe.toml").is_file()

    @property
    def finished(self) -> bool:
        """Whether the run has its result."""
        return (self.path / "result.json").is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory, made if need be, against every other process; sweep what killed writers left.

        Raises RunBusyError naming the holder, RunError where no directory can be written there.
        """
        self._check_place()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run directory {self.path}: {error.strerror}; choose another") from error
        with self._lock:
            sweep_temporaries(self.path)
            yield

    def check_free(self) -> None:
        """Raise RunError unless a new run can begin here: nothing there, or an empty directory."""
        self._check_place()
        if self.finished:
            raise RunError(
                f"{self.path} holds a finished run: choose another directory, or see `ungated evaluate {self.path}`"
            )
        if self.exists:
            raise RunError(
                f"{self.path} holds an unfinished run: `ungated resume {self.path}` continues it,"
                " another directory starts anew"
            )
        if self.path.is_dir():
            others = sorted(path.name for path in self.path.iterdir() if not _is_trace(path.name))
            if others:
                more = f" and {len(others) - 1} more" if len(others) > 1 else ""
                raise RunError(
                    f"{self.path} already holds something else ({others[0]}{more}): choose a new or empty directory"
                )

    def check_run(self) -> None:
        """Raise RunError unless a run has begun here."""
        if not self.path.is_dir():
            raise RunError(f"there is no run directory {self.path}")
        if not self.exists:
            raise RunError(f"{self.path} holds no run (it has no recipe.toml): start one with `ungated train`")

    def _check_place(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a run directory: choose another")
        there = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
        if not there.is_dir():
            raise RunError(f"{self.path} cannot be made, {there} is a file: choose another")
        if not os.access(there, os.W_OK | os.X_OK):
            raise RunError(f"{there} is not writable: choose another run directory")

    # What a run is made of

    def create(self, recipe: str, environment: Mapping[str, Any]) -> None:
        """Begin a run: `recipe` is the resolved recipe as TOML. To be called while locked. Raises as `check_free`."""
        self.check_free()
        self.write_environment(environment)
        atomic_write_text(self.path / "recipe.toml", recipe)

    def read_recipe(self) -> str:
        """The resolved recipe as TOML. Raises RunError, CheckpointError."""
        self.check_run()
        return _read(self.path / "recipe.toml").decode()

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Replace environment.json."""
        atomic_write_json(self.path / "environment.json", dict(environment))

    def read_environment(self) -> dict[str, Any]:
        """What `create` was given. Raises RunError, CheckpointError."""
        self.check_run()
        return self._read_json("environment.json")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """End the run. NaN and infinity have no place in JSON: ValueError."""
        atomic_write_json(self.path / "result.json", dict(result))

    def read_result(self) -> dict[str, Any] | None:
        """The outcome, None while unfinished. Raises RunError, CheckpointError."""
        self.check_run()
        return self._read_json("result.json") if self.finished else None

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(_read(self.path / name))
        except ValueError as error:
            raise CheckpointError(f"{self.path / name} is damaged: {error}") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path / name} is damaged: it should hold a JSON object")
        return value

    # metrics.jsonl

    def metrics(self) -> list[dict[str, Any]]:
        """The entries of metrics.jsonl so far; a torn last line does not count. Raises CheckpointError."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        entries = []
        for number, line in enumerate(_read(file).split(b"\n")[:-1], 1):
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                raise CheckpointError(f"{file}, line {number} is damaged: {error}") from error
        return entries

    def cut_metrics(self, epochs: int) -> None:
        """Keep the entries of the first `epochs` epochs; later ones, and a torn tail, are computed again."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        before = _read(file)
        # Cut by lines, not by content: an entry that cannot be parsed is none of the torn tail's business.
        kept = b"".join(line + b"\n" for line in before.split(b"\n")[:-1][:epochs])
        if kept != before:
            atomic_write(file, lambda out: out.write(kept))

    def append_metrics(self, entry: Mapping[str, Any]) -> None:
        """Add a line; `sync_metrics` makes it durable. Raises LabError where the disk refuses."""
        file = self.path / "metrics.jsonl"
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        try:
            with file.open("ab", buffering=0) as out:
                before = out.tell()
                if out.write(line) != len(line):
                    out.truncate(before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise LabError(f"cannot write {file}: {error.strerror or error}; make room and resume the run") from error

    def sync_metrics(self) -> None:
        """Make the lines so far durable: before a state that counts on them. Raises LabError."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        try:
            with file.open("ab", buffering=0) as out:
                os.fsync(out.fileno())
            sync_folder(self.path)
        except OSError as error:
            raise LabError(f"cannot write {file}: {error.strerror or error}; make room and resume the run") from error

    # best.safetensors

    def write_best(self, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Replace the best weights. `description`: what they fit (sizes, hash of the vocabulary), kept in the file."""
        checksum = sha256_of(_weights_file(weights, description))
        content = _weights_file(weights, {**description, "checksum": checksum})
        atomic_write(self.path / "best.safetensors", lambda file: file.write(content))

    def read_best(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The best weights and their description. Raises CheckpointError where there are none, or they are damaged."""
        self.check_run()
        file = self.path / "best.safetensors"
        if not file.exists():
            raise CheckpointError(f"{self.path} has no best weights yet: let it finish its first epoch")
        try:
            content = _read(file)
            weights = safetensors.torch.load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            description = json.loads(header["__metadata__"]["ungated"])
            checksum = description.pop("checksum")
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} is damaged, or no file of ungated: {error}") from error
        if sha256_of(_weights_file(weights, description)) != checksum:
            raise CheckpointError(f"{file} is altered: its checksum is not the one noted when it was written")
        return weights, description


def _weights_file(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    # One metadata key: safetensors writes several in an order that changes from process to process.
    return safetensors.torch.save(dict(weights), {"ungated": json.dumps(description, sort_keys=True)})


def _is_trace(name: str) -> bool:
    return name in _TRACES or name.endswith(".ungated-tmp")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error

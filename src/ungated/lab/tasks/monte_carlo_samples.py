"""Monte-Carlo samples on disk, so that more can be added later, by several processes, and all be averaged.

    samples.json           what they are samples of: weights, data, split, kind of word mask
    <seed>-<index>.npy     one pass: the probability of each true symbol, float32 (N - 1,)

Every pass is kept, also one that is not accepted: what is accepted is decided when the average is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ungated.lab.errors import CheckpointError
from ungated.lab.files import atomic_write, atomic_write_json

_NAME = re.compile(r"(\d+)-(\d{6,})\.npy")

Probabilities = NDArray[np.float32]


class Samples:
    """The samples in one directory. `length` is the number of predictions of a pass."""

    def __init__(self, directory: str | Path, identity: Mapping[str, Any], length: int) -> None:
        """Begin a directory, or go on with one. Raises CheckpointError if it holds samples of something else."""
        self.directory, self.length = Path(directory), length
        described = {**identity, "predictions": length}
        manifest = self.directory / "samples.json"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            before = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{manifest} cannot be read ({error}): remove {self.directory}") from error
        if before is None:
            if self.drawn():
                raise CheckpointError(f"{self.directory} has samples but no samples.json: name another directory")
            atomic_write_json(manifest, described)
        elif before != described:
            keys = [k for k in described if not isinstance(before, dict) or before.get(k) != described[k]]
            raise CheckpointError(
                f"{self.directory} holds Monte-Carlo samples of something else (another {', '.join(keys) or 'kind'}):"
                f" name another directory, or remove it"
            )

    def drawn(self) -> list[tuple[int, int]]:
        """(seed, index) of every sample, in order."""
        matches = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted((int(match[1]), int(match[2])) for match in matches if match)

    def save(self, seed: int, index: int, probabilities: Probabilities) -> None:
        """Add one pass."""

        def write(file: BinaryIO) -> None:
            np.save(file, probabilities.astype(np.float32), allow_pickle=False)

        atomic_write(self._path(seed, index), write)

    def load(self, seed: int, index: int) -> Probabilities:
        """One pass. Raises CheckpointError, naming the file, if it is not what `save` wrote."""
        path = self._path(seed, index)
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): remove it and draw it again") from error
        fits = isinstance(values, np.ndarray) and values.shape == (self.length,) and values.dtype == np.float32
        # NaN fails both comparisons.
        if not (fits and bool(((values >= 0.0) & (values <= 1.0)).all())):
            raise CheckpointError(f"{path} does not hold {self.length} probabilities: remove it and draw it again")
        probabilities: Probabilities = values
        return probabilities

    def all(self) -> Iterator[Probabilities]:
        """Every pass, in order."""
        for seed, index in self.drawn():
            yield self.load(seed, index)

    def _path(self, seed: int, index: int) -> Path:
        return self.directory / f"{seed}-{index:06d}.npy"

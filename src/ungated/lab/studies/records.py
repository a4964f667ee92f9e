"""What a run leaves, small enough for the storage: how results travel between machines without a shared directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ungated.lab.errors import StudyError
from ungated.lab.files import atomic_write_text
from ungated.lab.studies.directory import StudyDirectory

#: Of a run directory; the result last, since its presence means that the run is finished. Weights stay where they are.
_FILES = ("environment.json", "recipe.toml", "metrics.jsonl", "result.json")


def kept_files(directory: StudyDirectory, number: int) -> dict[str, str]:
    """The text of each file that tells how a run ended, by its path below the study's directory."""
    run = directory.run(number).path
    paths = [run / name for name in _FILES] + [directory.path / "failures" / f"{number:04d}.json"]
    return {
        path.relative_to(directory.path).as_posix(): path.read_text(encoding="utf-8")
        for path in paths
        if path.is_file()
    }


def restore_files(directory: StudyDirectory, number: int, record: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Write what another machine's run left, where this one has not got it."""
    allowed = [f"runs/{number:04d}/{name}" for name in _FILES] + [f"failures/{number:04d}.json"]
    if foreign := sorted(set(files) - set(allowed)):
        raise StudyError(
            f"the storage names a file that no run {number} has, {foreign[0]}: it is not a study's storage"
        )
    directory.write_trial(record)
    for name in allowed:
        path = directory.path / name
        if name in files and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, files[name])

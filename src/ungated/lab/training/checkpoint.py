"""Training states on disk: complete or not there, and any damage is noticed.

A run directory holds numbered states, the two newest complete ones:

    state-000007/
      tensors.safetensors   every tensor, named by its place in the tree
      state.json            the tree: numbers, strings, lists and the places of the tensors
      manifest.json         format, size and SHA-256 of the files above, its own checksum; written last

A state without a manifest was never finished and does not count. No file is unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
from torch import Tensor

from ungated.lab.errors import CheckpointError, LabError
from ungated.lab.files import atomic_write, sha256_of, sync_folder

FORMAT = 1
KEPT = 2
_NAME = re.compile(r"state-(\d{6,})")


@dataclass(frozen=True)
class Loaded:
    """The newest state that could be read, and a sentence for each newer one that could not."""

    state: dict[str, Any]
    path: Path
    damaged: tuple[tuple[Path, str], ...]


def save_state(run: Path, state: Mapping[str, Any]) -> Path:
    """Write `state` below `run` as its newest state, then drop all but the two newest complete ones.

    state: nested dicts (keys str or int), lists and tuples of tensors, numbers, strings, bools and None.
    Returns the directory written. Raises CheckpointError (states before it are intact) when the disk
    refuses, TypeError for a value of another type.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, "", tensors)
    files = {
        "tensors.safetensors": safetensors.torch.save(tensors),
        "state.json": json.dumps(tree, separators=(",", ":")).encode(),
    }
    path = run / f"state-{_last_number(run) + 1:06d}"
    try:
        path.mkdir()
        for name, content in files.items():
            atomic_write(path / name, partial(_write, content))
        atomic_write(path / "manifest.json", partial(_write, _manifest(files)))
        sync_folder(run)
    except (OSError, LabError) as error:
        shutil.rmtree(path, ignore_errors=True)
        needed = sum(len(content) for content in files.values())
        raise CheckpointError(
            f"the training state {path} ({needed:,} bytes) was not saved: {error};"
            f" the state before it is intact: make room, then `ungated resume {run}`"
        ) from error
    _prune(run)
    return path


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def load_state(run: Path) -> Loaded | None:
    """The newest complete and undamaged state below `run`, or None where none was ever finished.

    Raises CheckpointError when every state is damaged, or when one is of another format.
    """
    damaged: list[tuple[Path, str]] = []
    for path in _complete(run):
        try:
            return Loaded(_read(path), path, tuple(damaged))
        except _Damaged as error:
            damaged.append((path, str(error)))
    if damaged:
        found = "; ".join(sentence for _, sentence in damaged)
        raise CheckpointError(f"{run} has no training state left that is whole: {found}; train again from the start")
    return None


def set_aside(path: Path) -> Path:
    """Rename a damaged state, so that it is kept for inspection but never counted again."""
    kept = path.with_name(f"damaged-{path.name}")
    while kept.exists():
        kept = kept.with_name(kept.name + "-again")
    path.rename(kept)
    sync_folder(kept.parent)
    return kept


def remove_states(run: Path) -> None:
    """Remove every state below `run`: it is finished."""
    for _, path in sorted(_states(run)):
        _remove(path)


def differing(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> str:
    """The entries of two nested dicts that are not the same, in words; empty if all are."""
    words = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            words.append(differing(old, new, f"{place}{key}."))
        elif old != new:
            words.append(f"{place}{key} was {old!r}, is {new!r}")
    return "; ".join(word for word in words if word)


class _Damaged(Exception):
    """A state whose bytes are not those that were written."""


def _manifest(files: Mapping[str, bytes]) -> bytes:
    entries = {name: {"sha256": sha256_of(content), "size": len(content)} for name, content in files.items()}
    return _with_checksum({"files": entries, "format": FORMAT})


def _with_checksum(manifest: dict[str, Any]) -> bytes:
    body = json.dumps(manifest, indent=1, sort_keys=True)
    checksum = sha256_of(body.encode())
    return (json.dumps(manifest | {"checksum": checksum}, indent=1, sort_keys=True) + "\n").encode()


def _read(path: Path) -> dict[str, Any]:
    manifest = _read_manifest(path / "manifest.json")
    files = {}
    for name in ("tensors.safetensors", "state.json"):
        file, expected = path / name, manifest["files"][name]
        try:
            content = file.read_bytes()
        except OSError as error:
            raise _Damaged(f"{file} cannot be read ({error.strerror})") from error
        if len(content) != expected["size"]:
            raise _Damaged(f"{file} has {len(content):,} bytes instead of {expected['size']:,}")
        if sha256_of(content) != expected["sha256"]:
            raise _Damaged(f"{file} is altered (its SHA-256 is not the one noted when it was written)")
        files[name] = content
    tensors = safetensors.torch.load(files["tensors.safetensors"])
    state = _unpack(json.loads(files["state.json"]), tensors)
    assert isinstance(state, dict)
    return state


def _read_manifest(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
        manifest = json.loads(content)
        body = {key: value for key, value in manifest.items() if key != "checksum"}
        whole = content == _with_checksum(body)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _Damaged(f"{file} cannot be read") from error
    if not whole:
        raise _Damaged(f"{file} is altered (its checksum does not fit)")
    if manifest["format"] != FORMAT:
        age = "a newer" if manifest["format"] > FORMAT else "an older"
        raise CheckpointError(
            f"{file} has state format {manifest['format']}, this version of ungated reads {FORMAT}:"
            f" resume the run with {age} version of ungated"
        )
    return body


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors` under their place."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        copy = value.detach().cpu().contiguous()
        # safetensors refuses two names for one memory, as tied weights have.
        shared = any(copy.untyped_storage().data_ptr() == t.untyped_storage().data_ptr() for t in tensors.values())
        tensors[place] = copy.clone() if shared and copy.numel() else copy
        return {"tensor": place}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(item, f"{place}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        items = []
        for key, item in value.items():
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise TypeError(f"a state's keys are str or int, got {key!r} at {place or 'the top'}")
            escaped = str(key).replace("~", "~0").replace("/", "~1")
            items.append([key, _pack(item, f"{place}/{escaped}" if place else escaped, tensors)])
        return {"dict": items}
    raise TypeError(f"a state holds tensors, numbers, strings, lists and dicts, got {type(value).__name__} at {place}")


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        # Into memory of its own: products of matrices may round otherwise where the alignment is another.
        return tensors[content].clone()
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _states(run: Path) -> Iterator[tuple[int, Path]]:
    for path in run.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            yield int(match[1]), path


def _complete(run: Path) -> list[Path]:
    """State directories with a manifest, newest first."""
    return [path for _, path in sorted(_states(run), reverse=True) if (path / "manifest.json").exists()]


def _last_number(run: Path) -> int:
    return max((number for number, _ in _states(run)), default=0)


def _prune(run: Path) -> None:
    kept = _complete(run)[:KEPT]
    for _, path in sorted(_states(run)):
        if path not in kept:
            _remove(path)


def _remove(path: Path) -> None:
    # Without its manifest it is no state any more, wherever the removal stops.
    (path / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(path)

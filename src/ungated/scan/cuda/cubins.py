"""Compiled kernels, kept on disk: one file for what a source became for an architecture."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ungated.scan.cpu.compiler import cache_directory
from ungated.scan.cuda.nvrtc import OPTIONS, nvrtc

_SUM = 32  # bytes of the checksum in front


def cubin(source: str, arch: str) -> bytes:
    """The machine code of a source for an architecture such as "sm_90": kept, or compiled now. Raises Unavailable.

    A damaged file is compiled anew, and a disk that keeps nothing costs the time of compiling only.
    """
    compiler = nvrtc()
    key = hashlib.sha256(repr((source, OPTIONS, arch, compiler.version)).encode()).hexdigest()[:20]
    try:
        file = cache_directory() / f"{arch}-{key}.cubin"
    except RuntimeError:  # no home directory
        return compiler.compile(source, arch)[0]
    if (kept := _read(file)) is not None:
        return kept
    code, _ = compiler.compile(source, arch)
    with suppress(OSError):
        _write(file, code)
    return code


def _read(file: Path) -> bytes | None:
    try:
        content = file.read_bytes()
    except OSError:
        return None
    code = content[_SUM:]
    return code if code and hashlib.sha256(code).digest() == content[:_SUM] else None


def _write(file: Path, code: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(prefix=".compiling-", dir=file.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(hashlib.sha256(code).digest() + code)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)

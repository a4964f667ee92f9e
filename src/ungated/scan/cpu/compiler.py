"""The engine's source, compiled at first use and kept on disk: one small library a cell."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SOURCE = Path(__file__).parent / "engine"
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
# By what torch finds the processor capable of; elsewhere the platform's own least (SSE2, NEON).
_VARIANTS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma", "-mprfchw"),
    "AVX2": ("-mavx2", "-mfma", "-mprfchw"),
}
_SECONDS = 120


class Unavailable(Exception):
    """Why there is no library: one line."""


def library_file(cell: str) -> Path:
    """The compiled engine/`cell`.cpp for this processor, from the cache or compiled now. Raises Unavailable."""
    if sys.platform == "win32":
        raise Unavailable("it is not built on Windows")
    compiler = found_compiler()
    if compiler is None:
        raise Unavailable("there is no C++ compiler (looked for c++, g++, clang++ and $CXX)")
    try:
        flags = (*_FLAGS, *_VARIANTS.get(torch.backends.cpu.get_cpu_capability(), ()))
        stem = f"{cell}-{_key(compiler, flags)}"
        directory = cache_directory()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (kept := _kept(directory, stem)) is not None:
            return kept
        with _locked(directory / f"lock-{cell}"):
            return _kept(directory, stem) or _compiled(compiler, flags, SOURCE / f"{cell}.cpp", directory, stem)
    except OSError as error:
        raise Unavailable(f"the library could not be built or kept: {error}") from error
    except subprocess.SubprocessError as error:
        raise Unavailable(f"{compiler} failed: {_first_error(error)}") from error


def found_compiler() -> str | None:
    """The C++ compiler's path: $CXX, else the first of the usual names; None where there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else _COMPILERS
    return next((found for name in names if (found := shutil.which(name))), None)


def cache_directory() -> Path:
    """Where compiled libraries are kept: $UNGATED_CACHE, else the user's cache directory."""
    if own := os.environ.get("UNGATED_CACHE"):
        return Path(own)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ungated" / "engine"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ungated" / "engine"


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    """Of everything that decides what the library will be."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=_SECONDS).stdout
    digest = hashlib.sha256(repr((platform.machine(), sys.platform, compiler, version, flags)).encode())
    for file in sorted(SOURCE.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:20]


def _kept(directory: Path, stem: str) -> Path | None:
    """The library in the cache, if it is whole: its name ends with the checksum of its bytes."""
    for file in directory.glob(f"{stem}-*.so"):
        if file.stem == f"{stem}-{_checksum(file)}":
            return file
        file.unlink()
    return None


def _compiled(compiler: str, flags: tuple[str, ...], source: Path, directory: Path, stem: str) -> Path:
    handle, name = tempfile.mkstemp(prefix=".compiling-", suffix=".so", dir=directory)
    os.close(handle)
    unfinished = Path(name)
    try:
        command = [compiler, *flags, str(source), "-o", name]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
        unfinished.chmod(0o700)
        finished = directory / f"{stem}-{_checksum(unfinished)}.so"
        unfinished.replace(finished)
        return finished
    finally:
        unfinished.unlink(missing_ok=True)


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:20]


def _first_error(error: subprocess.SubprocessError) -> str:
    text = getattr(error, "stderr", None) or str(error)
    lines = (text if isinstance(text, str) else text.decode(errors="replace")).splitlines() or [str(error)]
    return next((line for line in lines if "error" in line), lines[0])


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process compiles, the others wait and find the result. The lock goes with the process that holds it."""
    import fcntl  # not on Windows, where no compiler of ours is either

    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

"""The one door to disk: whatever must survive a crash, a full disk or a second process goes through here.

A file is written beside its final name, flushed, synced, renamed, and its folder synced: a reader sees the
old file or the new one, never a part. A lock is held by the kernel (flock), so any death of its holder
frees it. Tests set `before_operation` to count the durable operations, or to fail any of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from ungated.lab.errors import LabError, RunBusyError

#: Called with the name of each durable operation ("create", "write", "fsync", "rename", "fsync folder",
#: "remove") and its path, just before it happens. For fault tests; None in ordinary life.
before_operation: Callable[[str, Path], None] | None = None


def _about_to(operation: str, path: Path) -> None:
    if before_operation is not None:
        before_operation(operation, path)


def atomic_write(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Give `path` the content that `write` writes to the binary file it is called with, or leave it as it was.

    Raises LabError, with the path and the bytes written and free, where the system refuses (disk full, no
    permission, no such folder); any other error of `write` passes through. No temporary file stays.
    """
    path = Path(path)
    temporary = _temporary(path)
    written = 0
    try:
        _about_to("create", path)
        with temporary.open("xb") as file:
            _about_to("write", path)
            try:
                write(file)
                file.flush()
            finally:
                written = file.tell()
            _about_to("fsync", path)
            os.fsync(file.fileno())
        _about_to("rename", path)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _refused(path, written, error) from error
    finally:
        temporary.unlink(missing_ok=True)  # there only if something above failed


def atomic_write_text(path: str | Path, text: str) -> None:
    """`atomic_write` of `text` as UTF-8, line ends as they are."""
    atomic_write(path, lambda file: file.write(text.encode("utf-8")))


def atomic_write_json(path: str | Path, value: Any) -> None:
    """`atomic_write` of `value` as JSON, keys in their order, one trailing newline; NaN and Inf are refused."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync_folder(folder: str | Path) -> None:
    """Make the names in `folder` durable; without it a rename may be lost with the power."""
    _about_to("fsync folder", Path(folder))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the file itself is synced all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: str | Path, name: str = "") -> list[Path]:
    """Remove what killed writers left in `folder` (of the file `name` only, if given); return what it was.

    To be called by who holds the lock of the folder, or of the file: a living writer's file looks the same.
    """
    ours = re.compile(rf"\.{re.escape(name) if name else '.+'}-[0-9a-f]{{16}}\.ungated-tmp")
    swept = []
    for path in sorted(Path(folder).glob(".*.ungated-tmp")):
        if ours.fullmatch(path.name):
            _about_to("remove", path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            swept.append(path)
    return swept


@contextlib.contextmanager
def temporary_folder(beside: str | Path) -> Iterator[Path]:
    """A folder for work on the file `beside`, in the same file system; removed at the end of the block."""
    folder = _temporary(Path(beside))
    try:
        folder.mkdir()
    except OSError as error:
        raise _refused(folder, 0, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}-{secrets.token_hex(8)}.ungated-tmp")


def digest_of(content: str | Path | bytes | BinaryIO, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file (by path or open), or of bytes."""
    if isinstance(content, (str, Path)):
        with Path(content).open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    if isinstance(content, bytes):
        return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while chunk := content.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of(content: str | Path | bytes | BinaryIO) -> str:
    """The SHA-256 of a file (by path or open), or of bytes."""
    return digest_of(content, "sha256")


class FileLock:
    """An exclusive lock on `path`, a small file whose content names the holder: host, process, start.

    with FileLock(run / "run.lock", "the run directory"): ...

    what: how the message calls what is locked. wait: block until it is free, instead of raising. remove: take
    the lock file away on release. Raises RunBusyError, naming the holder, where another process holds it.
    """

    def __init__(self, path: str | Path, what: str = "", *, wait: bool = False, remove: bool = False) -> None:
        self.path = Path(path)
        self.what = what or str(self.path.parent)
        self.wait = wait
        self.remove = remove
        self._file: io.FileIO | None = None

    def acquire(self) -> Self:
        """Take the lock. Raises RunBusyError (held by another), LabError (the file cannot be made)."""
        import fcntl  # not on Windows, where nothing else of this module is needed at import

        if self._file is not None:
            raise RunBusyError(f"{self.what} is already locked by this very process")
        while True:
            try:
                _about_to("create", self.path)
                file = io.FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
            except OSError as error:
                raise _refused(self.path, 0, error) from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if self.wait else fcntl.LOCK_NB))
            except BlockingIOError:
                holder = _holder(file.read())
                file.close()
                raise RunBusyError(
                    f"{self.what} is in use by {holder}; wait for it to end, or choose another"
                ) from None
            except OSError as error:  # file systems without locks
                file.close()
                raise _refused(self.path, 0, error, "lock") from error
            except BaseException:
                file.close()
                raise
            # A holder that removes its lock file may have done so between our open and our flock.
            try:
                current = self.path.stat()
            except FileNotFoundError:
                current = None
            if current is not None and os.path.samestat(os.fstat(file.fileno()), current):
                break
            file.close()
        start = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        ours = {"host": socket.gethostname(), "pid": os.getpid(), "start": start}
        file.truncate(0)
        file.write(json.dumps(ours).encode() + b"\n")
        self._file = file
        return self

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._file is None:
            return
        if self.remove:
            self.path.unlink(missing_ok=True)
        self._file.close()
        self._file = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _holder(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']} (since {holder['start']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _refused(path: Path, written: int, error: OSError, what: str = "write") -> LabError:
    message = f"cannot {what} {path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        try:
            free = f"{shutil.disk_usage(path.parent).free:,} bytes free"
        except OSError:
            free = "free space unknown"
        message += f" ({written:,} bytes written so far, {free}); make room, or choose another place"
    return LabError(message)

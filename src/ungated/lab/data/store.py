"""Data files in a directory: found under their usual names, checked, read, and fetched where missing."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ungated.lab.data.archive import plain_chunks, read_archive
from ungated.lab.errors import DataError, DataMissingError, LabError, UsageError
from ungated.lab.files import FileLock, atomic_write, sweep_temporaries, temporary_folder

#: Called while a file is downloaded: its path below the data directory, bytes so far, bytes in all (0 if the
#: server does not say).
Progress = Callable[[str, int, int], None]

_COMPRESSED = ("", ".gz", ".xz")
_CHUNK = 1 << 16
_TIMEOUT = 20.0  # seconds without a byte


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    path: below the data directory; the file may lie there plain, or compressed with `.gz` or `.xz` added.
    urls: where it can be had, tried in order; compressed or not; `ARCHIVE#MEMBER` is a member of a zip or tar.
    checksum: `ALGORITHM:HEX` of the plain content. size: of the plain content, in bytes.
    """

    path: str
    urls: tuple[str, ...]
    checksum: str
    size: int

    def problem(self, content: bytes) -> str:
        """What is wrong with `content` as this file: expected and found size and checksum; "" if it is right."""
        algorithm, _, expected = self.checksum.partition(":")
        found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
        if len(content) == self.size and found == expected:
            return ""
        page = " (it looks like a web page)" if content[:512].lstrip()[:1] == b"<" and self.size > 0 else ""
        return (
            f"expected {self.size:,} bytes with {algorithm} {expected}, "
            f"found {len(content):,} bytes with {algorithm} {found}{page}"
        )


def data_directory(argument: str | Path | None = None) -> Path:
    """Where data files are: `argument`, else the environment's UNGATED_DATA, else the user's cache.

    A named directory that does not exist is a UsageError; the cache is made when something is fetched.
    """
    named, origin = argument, "--data-dir"
    if named is None:
        named, origin = os.environ.get("UNGATED_DATA") or None, "UNGATED_DATA"
    if named is None:
        import pooch

        return Path(pooch.os_cache("ungated"))
    directory = Path(named).expanduser()
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise UsageError(f"the data directory {directory} (from {origin}) {what}; create it or name another")
    return directory


def find(directory: Path, file: DataFile) -> Path | None:
    """The file's place in `directory`: plain, else `.gz`, else `.xz`; None if it is not there."""
    for suffix in _COMPRESSED:
        path = directory / (file.path + suffix)
        if path.is_file():
            return path
    return None


def read(directory: Path, file: DataFile) -> bytes:
    """The plain content of a file in `directory`, checked.

    Raises DataMissingError where it is not there, DataError where it is not what it should be (it is left
    as it is).
    """
    path = find(directory, file)
    if path is None:
        raise DataMissingError(
            f"{file.path} is not in {directory} (nor with .gz or .xz added); `ungated data fetch` downloads it"
        )
    return _checked(path, file)


def _checked(path: Path, file: DataFile) -> bytes:
    """The plain content of the file at `path` (decompressed if need be), if it is `file`'s; DataError if not."""
    try:
        with path.open("rb") as opened:
            if path.name != Path(file.path).name:
                content = b"".join(plain_chunks(opened, str(path), limit=file.size))
            else:
                content = opened.read(file.size + 1)
                if len(content) > file.size:
                    content += opened.read()  # for the message
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if problem := file.problem(content):
        raise DataError(f"{path} is not the published file: {problem}; it was left untouched: move it away, then fetch")
    return content


def read_own(path: Path, limit: int) -> bytes:
    """The content of a user's own file. Raises DataMissingError, or DataError (not readable, too large)."""
    try:
        with path.open("rb") as opened:
            content = opened.read(limit + 1)
    except FileNotFoundError as error:
        raise DataMissingError(f"there is no file {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise DataError(f"{path} has more than {limit:,} bytes, the most that is read of such a file")
    return content


def fetch(directory: Path, file: DataFile, progress: Progress | None = None) -> Path:
    """Have the file in `directory`, downloading it where it is missing; return its place.

    Only a whole file with the right size and checksum takes the final name. A second process that wants the
    same file waits for the first. Raises DataError where the file there is damaged, DataMissingError where no
    address gives the right file (each is tried in order, and the message says what was wrong with each).
    """
    path = find(directory, file)
    if path is None:
        target = directory / file.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(target.parent, os.W_OK):
                raise PermissionError(errno.EACCES, "it is read-only")
        except OSError as error:
            raise DataMissingError(
                f"{file.path} is not in {directory}, and cannot be put there: {error.strerror or error}"
            ) from error
        lock = target.with_name(f".{target.name}.lock")
        with FileLock(lock, str(target), wait=True, remove=True):
            path = find(directory, file)  # another process may have fetched it meanwhile
            if path is None:
                sweep_temporaries(target.parent, target.name)
                _download(target, file, progress)
                return target
    _checked(path, file)
    return path


def _download(target: Path, file: DataFile, progress: Progress | None) -> None:
    failures = []
    for url in file.urls:
        try:
            with temporary_folder(beside=target) as folder:
                content = _from_address(url, file, folder, progress)
        except DataError as error:
            failures.append(f"{url}: {error}")
            continue
        atomic_write(target, partial(_write, content))
        return
    if not failures:
        raise DataMissingError(f"{target} is missing, and has no public address: put it there by hand")
    tried = "\n  ".join(failures)
    raise DataMissingError(f"{target} could not be downloaded; try again, or put it there by hand:\n  {tried}")


def _write(content: bytes, opened: BinaryIO) -> None:
    opened.write(content)


def _from_address(url: str, file: DataFile, folder: Path, progress: Progress | None) -> bytes:
    """The plain content of the file from one address; DataError if that is not what comes."""
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    address, _, member = url.partition("#")
    # An archive may hold much else; a single file, compressed or not, is hardly larger than its plain content.
    limit = 1 << 30 if member else file.size + (1 << 20)
    watch = _Watch(file.path, limit, progress)
    downloader = pooch.HTTPDownloader(progressbar=watch, chunk_size=_CHUNK, timeout=_TIMEOUT)
    try:
        # No checksum for pooch: ours are of the plain content, and the message has to say more than pooch's.
        place = pooch.retrieve(address, known_hash=None, fname="download", path=folder, downloader=downloader)
    except (OSError, ValueError) as error:  # those of requests are among them
        raise DataError(f"download failed: {_reason(error)}") from error
    with Path(place).open("rb") as opened:
        if member:
            found = read_archive(opened, address, lambda name: name.removeprefix("./") == member)
            if not found:
                raise DataError(f"the archive has no member {member}")
            (content,) = found.values()
        elif file.path.endswith((".gz", ".xz")):
            content = opened.read()
        else:
            content = b"".join(plain_chunks(opened, address, limit=limit))
    if problem := file.problem(content):
        raise DataError(f"wrong file: {problem}")
    return content


class _Watch:
    """What pooch calls while it downloads (the interface of a tqdm bar): passes progress on, keeps the limit."""

    def __init__(self, name: str, limit: int, progress: Progress | None) -> None:
        self.name = name
        self.limit = limit
        self.progress = progress
        self.total = 0
        self.done = 0

    def update(self, size: int) -> None:
        self.done += size
        # pooch counts whole chunks, also for shorter ones, so the count may run ahead.
        if self.done > 2 * self.limit + _CHUNK:
            raise DataError(f"download stopped: more than the {self.limit:,} bytes that it may have")
        if self.progress is not None:
            self.progress(self.name, min(self.done, self.total or self.done), self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an error of requests: it wraps those of urllib3, with all addresses repeated."""
    inner: object = error
    while isinstance(inner, BaseException):
        error = inner
        inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
    text = str(error).split(" for url")[0]
    return text.split("): ", 1)[-1][:200] or type(error).__name__


def check(directory: Path, file: DataFile) -> str:
    """ "present", "missing", or what is wrong with the file in `directory`."""
    if find(directory, file) is None:
        return "missing"
    try:
        read(directory, file)
    except LabError as error:
        return str(error)
    return "present"

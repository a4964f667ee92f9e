"""Compressed files and archives, read as untrusted data: into memory, by our own loops, within limits.

Nothing is ever extracted to disk by its own name. One bad member refuses the whole archive.
"""

from __future__ import annotations

import bz2
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, BinaryIO

from ungated.lab.errors import DataError, LabError

_CHUNK = 1 << 18

# xz -9, the strongest preset, needs 65 MiB; a header may claim 4 GiB.
_XZ_MEMORY = 128 << 20


def plain_chunks(file: BinaryIO, name: str, limit: int) -> Iterator[bytes]:
    """The content of `file`, decompressed if it is gzip, xz or bzip2 (by its first bytes, not its name).

    Raises DataError once more than `limit` bytes come out, and for damaged or truncated compression.
    """
    head = file.read(6)
    file.seek(0)
    chunks: Iterator[bytes]
    if head.startswith(b"\x1f\x8b"):
        chunks = _decompress(file, _Gzip, name)
    elif head.startswith(b"\xfd7zXZ\x00"):
        chunks = _decompress(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), name)
    elif head.startswith(b"BZh"):
        chunks = _decompress(file, bz2.BZ2Decompressor, name)
    else:
        chunks = iter(lambda: file.read(_CHUNK), b"")
    total = 0
    try:
        for chunk in chunks:
            total += len(chunk)
            if total > limit:
                raise DataError(f"{name} unpacks to more than {limit:,} bytes, which is all it may hold")
            yield chunk
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{name} is damaged: {error}") from error


class _Gzip:
    """zlib's decompressor of one gzip member, with the interface of the other two."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail and not self._inner.eof

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def _decompress(
    file: BinaryIO, fresh: Callable[[], _Gzip | lzma.LZMADecompressor | bz2.BZ2Decompressor], name: str
) -> Iterator[bytes]:
    data = file.read(_CHUNK)
    while data:  # all three formats may be several streams one after the other
        decompressor = fresh()
        while not decompressor.eof:
            if decompressor.needs_input and not data:
                data = file.read(_CHUNK)
                if not data:
                    raise DataError(f"{name} is truncated: its compressed content ends too early")
            chunk = decompressor.decompress(data, max_length=_CHUNK)
            data = b""
            if chunk:
                yield chunk
        data = decompressor.unused_data or file.read(_CHUNK)


def read_archive(
    file: BinaryIO,
    name: str,
    wanted: Callable[[str], bool],
    *,
    max_members: int = 10_000,
    max_bytes: int = 1 << 30,
) -> dict[str, bytes]:
    """The content of the wanted members of a zip or (compressed) tar archive, by member name.

    wanted: called with each regular member's name. Every member is looked at before anything is returned, and
    one that no honest archive has refuses the whole: a path that is absolute, has a drive letter, a backslash
    or `..`; a link, device or other special file; a name twice, also if in other letter case; more than
    `max_members` members or `max_bytes` bytes in all. Raises DataError that names the archive and the member.
    """
    head = file.read(4)
    file.seek(0)
    try:
        read = _read_zip if head == b"PK\x03\x04" else _read_tar
        return read(file, name, wanted, _Gate(name, max_members, max_bytes))
    except LabError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # zipfile and tarfile raise a dozen unrelated types on damaged files
        raise DataError(f"{name} is not a readable archive: {error or type(error).__name__}") from error


class _Gate:
    """Lets pass what an honest archive has; the limits are over all of its members."""

    def __init__(self, archive: str, max_members: int, max_bytes: int) -> None:
        self.archive = archive
        self.max_members = max_members
        self.max_bytes = max_bytes
        self.seen: set[str] = set()
        self.bytes = 0

    def refuse(self, why: str) -> DataError:
        return DataError(f"{self.archive} is refused as a whole: {why}")

    def check(self, name: str, size: int, *, regular: bool) -> None:
        if not regular:
            raise self.refuse(f"its member {name!r} is a link or a special file")
        parts = name.rstrip("/").split("/")
        unsafe = any(part == ".." for part in parts) or any(c in name for c in "\\:\0")
        if unsafe or not parts[0] or PurePosixPath(name).is_absolute():
            raise self.refuse(f"its member {name!r} has a path that could lead outside")
        # "./a" and "a" are one place.
        place = "/".join(part for part in parts if part not in ("", ".")).casefold()
        if place in self.seen:
            raise self.refuse(f"its member {name!r} is there twice")
        self.seen.add(place)
        if len(self.seen) > self.max_members:
            raise self.refuse(f"it has more than {self.max_members:,} members")
        self.bytes += size
        if size < 0 or self.bytes > self.max_bytes:
            raise self.refuse(f"it unpacks to more than {self.max_bytes:,} bytes")


def _read_zip(file: BinaryIO, name: str, wanted: Callable[[str], bool], gate: _Gate) -> dict[str, bytes]:
    contents = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            gate.check(
                # orig_filename: zipfile cuts `filename` at a NUL and turns the system's separators around.
                member.orig_filename,
                member.file_size,
                regular=kind in (0, stat.S_IFREG, stat.S_IFDIR) and not member.flag_bits & 1,
            )
        for member in members:
            if not member.is_dir() and wanted(member.filename):
                contents[member.filename] = _exactly(archive.open(member), member.file_size, member.filename, gate)
    return contents


def _read_tar(file: BinaryIO, name: str, wanted: Callable[[str], bool], gate: _Gate) -> dict[str, bytes]:
    contents = {}
    # What tarfile reads for itself (headers, long names) counts too, so the stream is bounded as well:
    # 1.5 KiB of headers and padding a member is more than an honest archive takes.
    limit = gate.max_bytes + 1536 * gate.max_members
    stream = _Stream(plain_chunks(file, name, limit))
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as archive:  # type: ignore[call-overload]
        for member in archive:
            regular = (member.isreg() and not member.issparse()) or member.isdir()
            gate.check(member.name, member.size, regular=regular)
            if member.isreg() and wanted(member.name):
                extracted = archive.extractfile(member)
                assert extracted is not None  # only for members that are not regular
                contents[member.name] = _exactly(extracted, member.size, member.name, gate)
    for _ in stream.chunks:  # the end of the compressed stream holds its checksum
        pass
    return contents


def _exactly(file: IO[bytes], size: int, member: str, gate: _Gate) -> bytes:
    with file:
        content = file.read(size + 1)
    if len(content) != size:
        raise gate.refuse(f"its member {member!r} does not have the {size:,} bytes it claims")
    return content


class _Stream:
    """What tarfile's stream mode needs of a file: `read`, here from an iterator of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < size and (chunk := next(self.chunks, b"")):
            parts.append(chunk)
            have += len(chunk)
        content = b"".join(parts)
        self._rest = content[size:]
        return content[:size]

"""Archives and compressed files as an attacker would make them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import pytest

from ungated.lab.data import archive
from ungated.lab.data.archive import plain_chunks, read_archive
from ungated.lab.errors import DataError


def plain(content: bytes, limit: int = 1 << 30) -> bytes:
    return b"".join(plain_chunks(io.BytesIO(content), "the file", limit))


def everything(content: bytes, **limits: int) -> dict[str, bytes]:
    return read_archive(io.BytesIO(content), "the archive", lambda name: True, **limits)


def make_tar(*members: tarfile.TarInfo, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    return buffer.getvalue()


def tar_member(name: str, size: int = 1, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, target
    return member


def make_zip(*members: tuple[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # ZipInfo itself cuts at a NUL
            info.external_attr = mode << 16
            file.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress, bytes])
@pytest.mark.parametrize("size", [0, 1, archive._CHUNK, 3 * archive._CHUNK + 17])
def test_round_trip(compress: Callable[[bytes], bytes], size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    assert plain(compress(content[:size])) == content[:size]


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_streams_one_after_the_other(compress: Callable[[bytes], bytes]) -> None:
    assert plain(compress(b"one") + compress(b"two")) == b"onetwo"


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_cut_anywhere(compress: Callable[[bytes], bytes]) -> None:
    whole = compress(bytes(range(256)) * 4)
    for size in range(6, len(whole)):
        with pytest.raises(DataError, match=r"the file is (truncated|damaged)"):
            plain(whole[:size])


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_altered_or_followed_by_something_else(compress: Callable[[bytes], bytes]) -> None:
    whole = compress(b"content " * 100)
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 1
    with pytest.raises(DataError, match=r"damaged|truncated"):
        plain(bytes(altered))
    with pytest.raises(DataError, match=r"damaged|truncated"):
        plain(whole + b"something else")


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress, bytes])
def test_bomb_stops_at_the_limit(compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(50 << 20))
    with pytest.raises(DataError, match=r"unpacks to more than 1,000 bytes"):
        plain(bomb, limit=1000)


def test_xz_that_claims_gigabytes_of_memory() -> None:
    greedy = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    content = bytearray(lzma.compress(b"x", filters=greedy))
    header_size = (content[12] + 1) * 4
    # Block header: size, flags, filter id, size of its properties, the dictionary size's code.
    assert content[14:16] == b"\x21\x01"
    content[16] = 40  # 4 GiB - 1
    content[12 + header_size - 4 : 12 + header_size] = zlib.crc32(content[12 : 12 + header_size - 4]).to_bytes(
        4, "little"
    )
    with pytest.raises(DataError, match=r"Memory usage limit"):
        plain(bytes(content))


def test_honest_archives() -> None:
    expected = {"a/b.txt": b"xxx", "./c": b""}
    members = tar_member("a", 0, tarfile.DIRTYPE), tar_member("a/b.txt", 3), tar_member("./c", 0)
    for mode in ("w", "w:gz", "w:xz", "w:bz2"):
        assert everything(make_tar(*members, mode=mode)) == expected
    assert everything(make_zip(("a/", b""), ("a/b.txt", b"xxx"), ("./c", b""))) == expected


def test_only_the_wanted_are_read() -> None:
    content = make_tar(tar_member("a"), tar_member("b"))
    assert read_archive(io.BytesIO(content), "", lambda name: name == "b") == {"b": b"x"}


HOSTILE_NAMES = [
    "../evil",
    "a/../../evil",
    "a/..",
    "..",
    "/etc/evil",
    "//evil",
    "C:evil",
    "c:/evil",
    "..\\evil",
    "a\\b",
    "../extracted_evil/f",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("first", [True, False])
def test_a_path_that_leads_outside_refuses_the_whole(name: str, first: bool) -> None:
    names = [name, "good"] if first else ["good", name]
    with pytest.raises(DataError, match=r"the archive is refused as a whole.*could lead outside"):
        everything(make_tar(*map(tar_member, names)))
    with pytest.raises(DataError, match=r"the archive is refused as a whole.*could lead outside"):
        everything(make_zip(*((each, b"x") for each in names)))


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
    ],
)
def test_links_and_special_files_in_tar(kind: bytes) -> None:
    with pytest.raises(DataError, match=r"the archive is (refused as a whole|not a readable archive)"):
        everything(make_tar(tar_member("good"), tar_member("odd", 0, kind, "good")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_special_files_in_zip(kind: int) -> None:
    with pytest.raises(DataError, match=r"refused as a whole.*link or a special file"):
        everything(make_zip(("odd", b"/etc/passwd"), mode=kind | 0o777))


@pytest.mark.parametrize("names", [("a", "a"), ("a", "A"), ("a/b", "./a//b"), ("a", "a/")])
def test_a_name_twice(names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"refused as a whole.*twice"):
        everything(make_tar(*map(tar_member, names)))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_zip() -> None:
    with pytest.raises(DataError, match=r"refused as a whole.*twice"):
        everything(make_zip(("a", b"1"), ("a", b"2")))


def test_too_many_members() -> None:
    members = [tar_member(f"m{i}", 0) for i in range(11)]
    assert len(everything(make_tar(*members[:10]), max_members=10)) == 10
    with pytest.raises(DataError, match=r"more than 10 members"):
        everything(make_tar(*members), max_members=10)
    with pytest.raises(DataError, match=r"more than 10 members"):
        everything(make_zip(*((m.name, b"") for m in members)), max_members=10)


def test_bombs() -> None:
    bomb = b"\0" * (20 << 20)
    with pytest.raises(DataError, match=r"unpacks to more than"):
        everything(make_zip(("bomb", bomb)), max_bytes=1 << 20)
    with pytest.raises(DataError, match=r"unpacks to more than"):
        everything(make_tar(tar_member("bomb", 20 << 20), mode="w:gz"), max_bytes=1 << 20)


def test_zip_that_lies_about_its_sizes() -> None:
    content = bytearray(make_zip(("bomb", bytes(1 << 20))))
    central = content.index(b"PK\x01\x02")
    for offset in (22, central + 24):  # the uncompressed size, local and central
        content[offset : offset + 4] = (10).to_bytes(4, "little")
    with pytest.raises(DataError):
        everything(bytes(content), max_bytes=1000)


def test_zip_that_claims_more_than_it_has() -> None:
    content = bytearray(make_zip(("a", b"x" * 10)))
    central = content.index(b"PK\x01\x02")
    for offset in (22, central + 24):
        content[offset : offset + 4] = (11).to_bytes(4, "little")
    with pytest.raises(DataError, match=r"'a' does not have the 11 bytes it claims"):
        everything(bytes(content))


def test_damage_after_the_last_member_of_a_tar() -> None:
    """The checksum of a compressed stream is at its very end, far beyond what tar itself reads."""
    content = bytearray(gzip.compress(make_tar(tar_member("a")) + bytes(3 << 20)))
    assert everything(bytes(content)) == {"a": b"x"}
    content[-6] ^= 1
    with pytest.raises(DataError, match=r"damaged"):
        everything(bytes(content))


def test_tar_header_that_claims_a_long_name() -> None:
    """A member whose "long name" is gigabytes long: the stream's own limit stops it."""
    header = tar_member("././@LongLink", 1 << 33, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)
    content = gzip.compress(header + bytes(30 << 20))
    with pytest.raises(DataError, match=r"unpacks to more than"):
        everything(content, max_bytes=1 << 20, max_members=10)


def test_encrypted_zip() -> None:
    content = bytearray(make_zip(("a", b"x")))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DataError, match=r"refused as a whole"):
        everything(bytes(content))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"<html>login</html>", b"\x1f\x8b", bytes(100), b"\xff" * 2000]
)
def test_what_is_no_archive(content: bytes) -> None:
    with pytest.raises(DataError, match=r"the archive is"):
        everything(content)


def test_archives_cut_anywhere() -> None:
    for whole in (make_zip(("a", b"x" * 100)), make_tar(tar_member("a", 100), mode="w:gz")):
        for size in range(0, len(whole) - 1, 7):
            with pytest.raises(DataError, match=r"the archive is"):
                everything(whole[:size])

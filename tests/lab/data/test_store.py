"""Data files: found, checked, downloaded from a local server that misbehaves in every way."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import lzma
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ungated.lab.data import store
from ungated.lab.data.store import DataFile, check, data_directory, fetch, find, read
from ungated.lab.errors import DataError, DataMissingError, LabError, UsageError

CONTENT = b"the published content\n" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler], None]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def a_file(*urls: str, content: bytes = CONTENT) -> DataFile:
    return DataFile("set/file.txt", urls, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


def put(directory: Path, content: bytes, suffix: str = "") -> Path:
    (directory / "set").mkdir(exist_ok=True)
    path = directory / f"set/file.txt{suffix}"
    path.write_bytes(content)
    return path


# ---- what is there -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)], ids=["plain", "gz", "xz"]
)
def test_found_under_its_usual_names(suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = a_file()
    assert check(tmp_path, file) == "missing"
    path = put(tmp_path, compress(CONTENT), suffix)
    assert find(tmp_path, file) == path
    assert read(tmp_path, file) == CONTENT
    assert fetch(tmp_path, file) == path
    assert check(tmp_path, file) == "present"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
        lambda content: content + b"more",
        lambda content: b"<!DOCTYPE html><html>Please log in</html>",
    ],
    ids=["truncated", "empty", "altered", "longer", "html"],
)
@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)], ids=["plain", "gz", "xz"]
)
def test_damaged_is_named_and_left_as_it_is(
    damage: Callable[[bytes], bytes], suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = put(tmp_path, damage(compress(CONTENT)), suffix)
    before = path.read_bytes()
    for use in (read, fetch):
        with pytest.raises(DataError, match=str(path)) as caught:
            use(tmp_path, a_file())
        assert not isinstance(caught.value, DataMissingError)
    assert str(path) in check(tmp_path, a_file())
    assert path.read_bytes() == before


def test_message_gives_expected_and_found(tmp_path: Path) -> None:
    put(tmp_path, b"<html>")
    with pytest.raises(DataError) as caught:
        read(tmp_path, a_file())
    found = hashlib.sha256(b"<html>").hexdigest()
    assert f"expected 2,200 bytes with sha256 {SHA256}, found 6 bytes with sha256 {found}" in str(caught.value)
    assert "looks like a web page" in str(caught.value)


def test_compressed_bomb_at_a_data_files_name(tmp_path: Path) -> None:
    put(tmp_path, gzip.compress(bytes(100 << 20)), ".gz")
    with pytest.raises(DataError, match=r"unpacks to more than 2,200 bytes"):
        read(tmp_path, a_file())


def test_missing_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"ungated data fetch") as caught:
        read(tmp_path, a_file())
    assert caught.value.exit_status == 3


def test_a_folder_in_the_files_place_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "set/file.txt").mkdir(parents=True)
    assert check(tmp_path, a_file()) == "missing"


# ---- which directory -----------------------------------------------------------------------------------


def test_directory_is_argument_then_environment_then_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("UNGATED_DATA", str(tmp_path / "b"))
    assert data_directory(tmp_path / "a") == tmp_path / "a"
    assert data_directory() == tmp_path / "b"
    monkeypatch.setenv("UNGATED_DATA", "")
    assert data_directory().name == "ungated"


def test_a_named_directory_has_to_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"nowhere \(from --data-dir\) does not exist; create it"):
        data_directory(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNGATED_DATA", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"file \(from UNGATED_DATA\) is not a directory"):
        data_directory()


# ---- downloads -----------------------------------------------------------------------------------------


class Server:
    """A local web server; `answers` says what it does for each path, `asked` what it was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                with contextlib.suppress(OSError):  # the client may have gone
                    server.answers[self.path](self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def url(self, path: str, answer: Answer) -> str:
        self.answers[path] = answer
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()


def sends(content: bytes, *, length: int | None = None, status: int = 200) -> Answer:
    """Answers with `content`, claiming `length` bytes (by default the truth, -1: not said)."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        if length != -1:
            request.send_header("Content-Length", str(len(content) if length is None else length))
        request.end_headers()
        request.wfile.write(content)

    return answer


def redirects(to: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", to)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def stalls(request: BaseHTTPRequestHandler) -> None:
    sends(CONTENT[:10], length=len(CONTENT))(request)
    time.sleep(2)


def floods(request: BaseHTTPRequestHandler) -> None:
    sends(b"", length=-1)(request)
    try:
        while True:
            request.wfile.write(bytes(1 << 16))
    except OSError:
        pass


def hangs_up(request: BaseHTTPRequestHandler) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def tar_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


GOOD = {
    "plain": ("", CONTENT),
    "gz": ("", gzip.compress(CONTENT)),
    "xz": ("", lzma.compress(CONTENT)),
    "tgz": ("#data/f.txt", tar_of(**{"data__f.txt": CONTENT, "other": b"x"})),
    "zip": ("#data/f.txt", zip_of("data/f.txt", CONTENT)),
}


@pytest.mark.parametrize("form", GOOD)
@pytest.mark.parametrize("length", [None, -1], ids=["length", "no-length"])
def test_downloaded_in_every_form(form: str, length: int | None, server: Server, tmp_path: Path) -> None:
    member, body = GOOD[form]
    file = a_file(server.url("/f", sends(body, length=length)) + member)
    assert fetch(tmp_path, file) == tmp_path / "set/file.txt"
    assert read(tmp_path, file) == CONTENT
    assert names(tmp_path) == ["set", "set/file.txt"]


BAD: dict[str, tuple[str, Answer, str]] = {
    "cut": ("", sends(CONTENT[:100], length=len(CONTENT)), "download failed"),
    "cut, honest length": ("", sends(CONTENT[:100]), "found 100 bytes"),
    "empty": ("", sends(b""), "found 0 bytes"),
    "wrong bytes": ("", sends(CONTENT[:-1] + b"!"), "found 2,200 bytes"),
    "login page": ("", sends(b"<html>log in"), "looks like a web page"),
    "length too small": ("", sends(CONTENT, length=10), "found 10 bytes"),
    "length too large": ("", sends(CONTENT, length=10_000), "download failed"),
    "404": ("", sends(b"no", status=404), "download failed: 404"),
    "500": ("", sends(b"no", status=500), "download failed: 500"),
    "hangs up": ("", hangs_up, "download failed"),
    "stalls": ("", stalls, "download failed"),
    "floods": ("", floods, "download stopped"),
    "endless redirect": ("", lambda request: redirects(request.path)(request), "download failed"),
    "gzip cut": ("", sends(gzip.compress(CONTENT)[:-1]), "truncated"),
    "no such member": ("#data/f.txt", sends(zip_of("other", CONTENT)), "has no member data/f.txt"),
    "archive that leads outside": (
        "#data/f.txt",
        sends(tar_of(**{"data__f.txt": CONTENT, "..__evil": b"x"})),
        "refused",
    ),
    "not an archive": ("#data/f.txt", sends(b"<html>"), "not a readable archive"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_wrong_file_never_takes_the_name_and_the_next_mirror_is_tried(
    bad: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_TIMEOUT", 0.3)
    member, answer, message = BAD[bad]
    url = server.url("/bad", answer) + member
    with pytest.raises(DataMissingError, match=message) as caught:
        fetch(tmp_path, a_file(url))
    assert url in str(caught.value)
    assert names(tmp_path) == ["set"]
    fetch(tmp_path, a_file(url, server.url("/good", sends(CONTENT))))
    assert read(tmp_path, a_file()) == CONTENT
    assert names(tmp_path) == ["set", "set/file.txt"]


def test_all_mirrors_are_named_when_none_works(server: Server, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9/f"
    page = server.url("/page", sends(b"<html>"))
    with pytest.raises(DataMissingError) as caught:
        fetch(tmp_path, a_file(nobody, page, "nonsense://x", "http://[bad"))
    for url in (nobody, page, "nonsense://x", "http://[bad"):
        assert url in str(caught.value)
    assert f"{nobody}: download failed: Failed to establish a new connection" in str(caught.value)
    with pytest.raises(DataMissingError, match=r"has no public address: put it there by hand"):
        fetch(tmp_path, a_file())


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    fetch(tmp_path, a_file(server.url("/a", redirects(server.url("/b", sends(CONTENT))))))
    assert server.asked == ["/a", "/b"]


def test_what_is_there_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    put(tmp_path, gzip.compress(CONTENT), ".gz")
    fetch(tmp_path, a_file(server.url("/f", sends(CONTENT))))
    assert server.asked == []


def test_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    content = bytes(300_000)
    file = a_file(server.url("/f", sends(content)), content=content)
    fetch(tmp_path, file, lambda *step: seen.append(step))
    assert {(name, total) for name, _, total in seen} == {("set/file.txt", 300_000)}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == 300_000


def test_leftovers_of_a_killed_download_go(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set/.file.txt-0123456789abcdef.ungated-tmp").mkdir(parents=True)
    fetch(tmp_path, a_file(server.url("/f", sends(CONTENT))))
    assert names(tmp_path) == ["set", "set/file.txt"]


def test_where_nothing_can_be_written(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(DataMissingError, match=r"cannot be put there: it is read-only"):
        fetch(tmp_path, a_file(server.url("/f", sends(CONTENT))))
    assert server.asked == []
    (tmp_path / "file").touch()
    with pytest.raises(LabError):
        fetch(tmp_path / "file", a_file())


FETCHER = """
import sys
from pathlib import Path
from ungated.lab.data.store import DataFile, fetch, read
directory, url, sha256, size = sys.argv[1:]
file = DataFile("set/file.txt", (url,), "sha256:" + sha256, int(size))
print("ready", flush=True)
fetch(Path(directory), file)
assert len(read(Path(directory), file)) == file.size
"""


def test_processes_that_want_the_same_file_wait_for_one_another(server: Server, tmp_path: Path) -> None:
    go = threading.Event()

    def first_never(request: BaseHTTPRequestHandler) -> None:
        if len(server.asked) == 1:
            go.wait(60)
        sends(CONTENT)(request)

    url = server.url("/f", first_never)
    command = [sys.executable, "-c", FETCHER, str(tmp_path), url, SHA256, str(len(CONTENT))]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    first = start()
    while not server.asked:
        time.sleep(0.01)
    others = [start() for _ in range(2)]
    time.sleep(0.5)  # both wait for the lock by now
    assert server.asked == ["/f"]
    assert [process.poll() for process in others] == [None, None]
    first.kill()  # in mid-download: one of the others takes over
    first.communicate()
    for process in others:
        process.communicate()
    go.set()
    assert [process.returncode for process in others] == [0, 0]
    assert server.asked == ["/f", "/f"]
    assert names(tmp_path) == ["set", "set/file.txt"]

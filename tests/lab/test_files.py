"""The door to disk: whole or not at all, whatever fails and whenever."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ungated.lab import files
from ungated.lab.errors import LabError, RunBusyError
from ungated.lab.files import FileLock, atomic_write, atomic_write_json, atomic_write_text, sweep_temporaries

OPERATIONS = ["create", "write", "fsync", "rename", "fsync folder"]

# Writes over a file, with SIGKILL or an error at the operation it is told.
CHILD = """
import os, signal, sys
from ungated.lab import files
path, n = sys.argv[1], int(sys.argv[2])
def before(operation, path):
    global n
    if n == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    n -= 1
files.before_operation = before
files.atomic_write_text(path, "new" * 1000)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_there(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", lambda file: file.write(b"\x00\xff"))
    atomic_write_text(tmp_path / "b", "é\r\n")
    atomic_write_json(tmp_path / "c.json", {"b": 1, "a": [0.1, None]})
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "é\r\n".encode()
    assert json.loads((tmp_path / "c.json").read_text()) == {"b": 1, "a": [0.1, None]}
    assert names(tmp_path) == ["a", "b", "c.json"]


def test_mode_is_that_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    atomic_write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_operations_come_in_the_order_that_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(files, "before_operation", lambda operation, path: seen.append(operation))
    atomic_write_text(tmp_path / "a", "x")
    assert seen == OPERATIONS


def test_file_and_folder_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which file is synced")
    monkeypatch.setattr(os, "fsync", watched)
    atomic_write_text(tmp_path / "a", "x")
    assert [name == tmp_path.name for name in synced] == [False, True]
    assert synced[0].startswith(".a-")


@pytest.mark.parametrize("n", range(len(OPERATIONS)))
def test_killed_at_operation(n: int, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    child = subprocess.run([sys.executable, "-c", CHILD, str(path), str(n)])
    assert child.returncode == -signal.SIGKILL
    assert path.read_text() == ("new" * 1000 if OPERATIONS[n] == "fsync folder" else "old")
    sweep_temporaries(tmp_path)
    assert names(tmp_path) == ["state"]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_refused_at_operation(operation: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    path.write_text("old")

    def fail(current: str, _: Path) -> None:
        if current == operation:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "before_operation", fail)
    with pytest.raises(LabError, match=f"cannot write {path}: {os.strerror(code)}") as caught:
        atomic_write_text(path, "new")
    assert path.read_text() == ("new" if operation == "fsync folder" else "old")
    assert names(tmp_path) == ["state"]
    assert ("bytes free" in str(caught.value)) == (code != errno.EIO)


def test_disk_full_in_mid_write_names_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import resource, signal, sys\n"
            "from ungated.lab.errors import LabError\n"
            "from ungated.lab.files import atomic_write\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try: atomic_write(sys.argv[1], lambda f: [f.write(bytes(9000)) for _ in range(20)])\n"
            "except LabError as error: print(error)\n",
            str(path),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"cannot write {path}: File too large" in child.stdout
    assert "bytes written so far" in child.stdout
    assert path.read_text() == "old"
    assert names(tmp_path) == ["state"]


def test_an_error_of_the_writer_passes_and_leaves_nothing(tmp_path: Path) -> None:
    def write(file: object) -> None:
        raise KeyError("writer")

    with pytest.raises(KeyError):
        atomic_write(tmp_path / "a", write)
    with pytest.raises(ValueError):
        atomic_write_json(tmp_path / "a", float("nan"))
    assert names(tmp_path) == []


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"cannot write .*No such file"):
        atomic_write_text(tmp_path / "missing" / "a", "")


def test_sweep_takes_only_our_leftovers(tmp_path: Path) -> None:
    mine = [".a-0123456789abcdef.ungated-tmp", ".a-b-0123456789abcdef.ungated-tmp"]
    others = ["a", ".a.tmp", ".a-0123.ungated-tmp", "a-0123456789abcdef.ungated-tmp"]
    for name in mine + others:
        (tmp_path / name).touch()
    assert [path.name for path in sweep_temporaries(tmp_path, "a")] == mine[:1]
    assert [path.name for path in sweep_temporaries(tmp_path)] == mine[1:]
    assert names(tmp_path) == sorted(others)


def test_temporary_folder_goes_and_is_swept(tmp_path: Path) -> None:
    with files.temporary_folder(tmp_path / "a") as folder:
        (folder / "x").touch()
        assert folder.parent == tmp_path
        assert sweep_temporaries(tmp_path) == [folder]
    assert names(tmp_path) == []


def test_sha256(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "a").touch()
    with (tmp_path / "a").open("rb") as file:
        assert files.sha256_of(b"") == files.sha256_of(tmp_path / "a") == files.sha256_of(file) == empty


HOLDER = """
import sys
from ungated.lab.files import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_the_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with (
        FileLock(path, "the run"),
        pytest.raises(RunBusyError, match=rf"the run is in use by process {os.getpid()} on \S+ \(since \d"),
    ):
        FileLock(path, "the run").acquire()
    with FileLock(path):
        pass


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with holder(path) as child:
        with pytest.raises(RunBusyError, match=f"process {child.pid} on"):
            FileLock(path).acquire()
        child.kill()
    with FileLock(path) as lock:
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert lock.held
    assert not lock.held


def test_a_lock_with_odd_content_still_locks(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with FileLock(path):
        path.write_text("[]")
        with pytest.raises(RunBusyError, match=r"another process"):
            FileLock(path).acquire()


def test_one_lock_object_is_taken_once(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock") as lock, pytest.raises(RunBusyError, match=r"this very process"):
        lock.acquire()


def test_lock_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"cannot write"):
        FileLock(tmp_path / "missing" / "lock").acquire()


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(LabError, match=r"cannot lock .*run.lock: No locks available"):
        FileLock(tmp_path / "run.lock").acquire()


def test_waiting_locks_that_go_away_exclude_each_other(tmp_path: Path) -> None:
    """Each of 4 processes adds 1 to a counter 50 times under a lock whose file is removed on release."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ungated.lab.files import FileLock\n"
        "counter = Path(sys.argv[1])\n"
        "for _ in range(50):\n"
        "    with FileLock(counter.with_name('.lock'), wait=True, remove=True):\n"
        "        counter.write_text(str(int(counter.read_text()) + 1))\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", program, str(counter)]) for _ in range(4)]
    assert [child.wait() for child in children] == [0, 0, 0, 0]
    assert counter.read_text() == "200"
    assert names(tmp_path) == ["counter"]

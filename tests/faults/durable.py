"""Counts the durable operations of this process below a directory, and lets one of them meet a fault.

An operation is whatever changes the disk: opening a file for writing, fsync, rename, removal, making a directory.
It is taken where Python does it (audit events and os.fsync), so no code can forget to report one.
"""

# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH115, PTH120, PTH202
# Plain functions on strings: what pathlib opens or asks in between would be counted too.

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Operations:
    """Counted from 1; `act` is called just before number `at` happens."""

    def __init__(self, directory: Path, at: int = 0, act: Callable[[Operations], None] | None = None) -> None:
        self.directory = os.path.realpath(directory)
        self.count = 0
        self.at, self.act = at, act
        #: Files written since they were last synced: how many bytes of them are safe.
        self.unsynced_files: dict[str, int] = {}
        #: Names that changed since their folder was last synced: the content they had before, None if there was none.
        self.unsynced_names: dict[str, bytes | None] = {}
        self.full = False
        self._fsync = os.fsync
        self._on = True
        os.fsync = self._count_fsync
        sys.addaudithook(self._audit)

    def stop(self) -> None:
        """Count no more."""
        self._on = False

    def _ours(self, path: object) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(self.directory)

    def _audit(self, event: str, args: tuple[object, ...]) -> None:
        if not self._on:
            return
        if event == "open" and self._ours(args[0]) and isinstance(args[2], int) and args[2] & _WRITING:
            self._happens(needs_room=True)
            path = os.path.abspath(str(args[0]))
            kept = os.path.getsize(path) if os.path.exists(path) and not args[2] & os.O_TRUNC else 0
            self.unsynced_files.setdefault(path, kept)
        elif event == "os.rename" and self._ours(args[1]):
            self._happens()
            source, target = (os.path.abspath(str(path)) for path in args[:2])
            self._note_name(target)
            if source in self.unsynced_files:
                self.unsynced_files[target] = self.unsynced_files[source]
        elif event == "os.mkdir" and self._ours(args[0]):
            self._happens(needs_room=True)
            self.unsynced_names[os.path.abspath(str(args[0]))] = None
        elif event in ("os.remove", "os.rmdir"):
            self._happens()

    def _count_fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if self._on and self._ours(path):
            self._happens(needs_room=not os.path.isdir(path))
            self.unsynced_files.pop(path, None)
            for name in [name for name in self.unsynced_names if os.path.dirname(name) == path]:
                del self.unsynced_names[name]
        self._fsync(descriptor)

    def _note_name(self, path: str) -> None:
        self._on = False
        if path not in self.unsynced_names:
            self.unsynced_names[path] = Path(path).read_bytes() if os.path.isfile(path) else None
        self._on = True

    def _happens(self, *, needs_room: bool = False) -> None:
        self.count += 1
        if self.count == self.at and self.act is not None:
            self._on = False
            self.act(self)
            self._on = True
        if self.full and needs_room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk(operations: Operations) -> None:
    """From here on there is no room for anything new."""
    operations.full = True


def kill(operations: Operations) -> None:
    """End the process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def cut_power(operations: Operations) -> None:
    """Lose or garble everything that was not synced, then end the process."""
    draw = random.Random(operations.count)
    for name, safe in sorted(operations.unsynced_files.items()):
        path = Path(name)
        if path.is_file() and (lost := len(content := bytearray(path.read_bytes())) - safe) > 0:
            for _ in range(lost // 2):
                content[safe + draw.randrange(lost)] = draw.randrange(256)
            path.write_bytes(content[: safe + draw.randint(0, lost)])
    for name, before in operations.unsynced_names.items():
        path = Path(name)
        if path.is_dir():
            shutil.rmtree(path)
        elif before is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(before)
    kill(operations)

"""Optuna's journal of a study on a file that several processes write, made safe against torn and damaged lines.

Optuna appends its next record to whatever is there. After a writer was killed or the disk was full in the middle of a
record, the next record would be glued to the torn one, and no later reader could open the file. Here a torn tail is
cut off, under the journal's own lock, before anything is appended. A journal that is damaged further up is set aside
and made anew from the run directories.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ungated.lab.errors import StudyError
from ungated.lab.files import sync_folder

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

#: Seconds after which the journal's lock is taken from a holder that died with it.
LOCK_GRACE = 10


def open_journal(path: Path) -> BaseStorage:
    """The storage on the file, which is made if need be. Raises StudyError where it cannot be written."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Backend(JournalFileBackend):
        """Cuts off a torn tail before it appends."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            lock.acquire()
            try:
                with path.open("r+b") as file:
                    file.truncate(_whole_lines(file))
                    file.seek(0, os.SEEK_END)
                    file.write(text.encode("utf-8"))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                lock.release()

    lock = JournalFileOpenLock(str(path), grace_period=LOCK_GRACE)
    try:
        if _damaged(path):
            lock.acquire()
            try:
                _set_aside(path)
            finally:
                lock.release()
        return JournalStorage(Backend(str(path), lock))
    except OSError as error:
        raise StudyError(f"cannot write the study's journal {path}: {error.strerror or error}") from error


def _whole_lines(file: BinaryIO) -> int:
    """How many bytes the whole lines of the file are."""
    end = file.seek(0, os.SEEK_END)
    if end == 0 or (file.seek(end - 1), file.read(1))[1] == b"\n":
        return end
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def _damaged(path: Path) -> bool:
    """Whether a whole line is no record; a torn last one does not count."""
    if not path.exists():
        return False
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            if not isinstance(json.loads(line), dict):
                return True
        except ValueError:
            return True
    return False


def _set_aside(path: Path) -> None:
    """Keep a damaged journal under another name; the run directories have all that is needed for a new one."""
    kept = path.with_name(f"damaged-{path.name}")
    number = 1
    while kept.exists():
        kept, number = path.with_name(f"damaged-{number}-{path.name}"), number + 1
    path.rename(kept)
    sync_folder(path.parent)

"""Who works on which run: a worker renews its lease until it is done, and a lease that is no longer renewed is over.

A lease carries a count of its renewals. Whoever watches goes by its own monotonic clock from the last change it saw,
so clocks of different machines need not agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from ungated.lab.files import atomic_write_json

#: Seconds within which a worker that died is noticed twice over; it renews its lease twice in that time.
HEARTBEAT = 60.0


class Lease(NamedTuple):
    """owner: the worker. beat: how often it renewed the lease. heartbeat: the seconds it works by."""

    owner: str
    beat: int
    heartbeat: float


class Leases(Protocol):
    """Where leases are kept: files of a shared directory, or the storage's server."""

    def write(self, number: int, lease: Lease) -> None:
        """Take or renew the lease of a run."""

    def read(self) -> Mapping[int, Lease]:
        """Every lease by the number of its run."""

    def drop(self, number: int) -> None:
        """End the lease of a run."""


def new_owner() -> str:
    """A name for this worker that no other has: host, process, and a random word."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class FileLeases:
    """One small file a lease, in a folder that all workers see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, number: int, lease: Lease) -> None:
        self._folder.mkdir(exist_ok=True)
        atomic_write_json(self._folder / f"{number:04d}.json", lease._asdict())

    def read(self) -> dict[int, Lease]:
        found = {}
        for path in self._folder.glob("[0-9]*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):  # being dropped, or none of ours
                found[int(path.stem)] = Lease(**json.loads(path.read_text(encoding="utf-8")))
        return found

    def drop(self, number: int) -> None:
        (self._folder / f"{number:04d}.json").unlink(missing_ok=True)

    def fresh(self, now: float) -> list[int]:
        """The runs whose lease was renewed within two heartbeats before `now`, by the file system's clock."""
        found = []
        for number, lease in self.read().items():
            with contextlib.suppress(OSError):
                renewed = (self._folder / f"{number:04d}.json").stat().st_mtime
                if now - renewed <= 2 * lease.heartbeat:
                    found.append(number)
        return found


class Watch:
    """Finds the leases that are over: not renewed for one and a half of their own heartbeats, while we looked on."""

    def __init__(self, heartbeat: float = HEARTBEAT) -> None:
        self._heartbeat = heartbeat
        self._seen: dict[int, tuple[Lease, float]] = {}
        self._looked = -float("inf")

    def blind(self) -> None:
        """Nothing could be seen for a while (the storage was away): whatever is seen next counts as new."""
        self._seen.clear()

    def over(self, running: Iterable[int], leases: Mapping[int, Lease]) -> list[int]:
        """Of the runs that someone is said to work on, those that nobody does. To be called several times a heartbeat.

        A run without a lease counts from when it was first seen so.
        """
        now = time.monotonic()
        if now - self._looked > self._heartbeat:  # we slept ourselves, and so perhaps did they
            self._seen.clear()
        self._looked = now
        found = []
        seen: dict[int, tuple[Lease, float]] = {}
        for number in running:
            lease = leases.get(number, Lease("", 0, self._heartbeat))
            before, since = self._seen.get(number, (lease, now))
            seen[number] = (lease, since if before == lease else now)
            if now - seen[number][1] > 1.5 * lease.heartbeat:
                found.append(number)
        self._seen = seen
        return found

"""Is this a sound Standard MIDI File? Asked before a library reads it, so that no file can keep it busy for long.

One pass over the bytes, bounded by their number: every chunk within the file, every event within its track, no
number longer than the four bytes the format allows (a longer one takes mido quadratic time).
"""

from __future__ import annotations

from ungated.lab.errors import DataError

_MOST_TRACKS = 1_000
_MOST_EVENTS = 150_000

#: Data bytes after a status byte, by its upper half.
_DATA_BYTES = {0x8: 2, 0x9: 2, 0xA: 2, 0xB: 2, 0xC: 1, 0xD: 1, 0xE: 2}


def check_midi(content: bytes, name: str) -> None:
    """Raise DataError with file and byte where `content` is not a sound MIDI file, or is an odd or huge one.

    Accepted: formats 0 and 1, time in ticks a quarter note, at most 1,000 tracks and 150,000 events.
    """
    _Reader(content, name).file()


class _Reader:
    """A position in the content, and what may come next."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content = content
        self.name = name
        self.at = 0
        self.end = len(content)
        self.events = 0

    def wrong(self, why: str, at: int | None = None) -> DataError:
        return DataError(f"{self.name} is not a sound MIDI file: {why} at byte {self.at if at is None else at}")

    def take(self, size: int, what: str) -> bytes:
        if self.at + size > self.end:
            raise self.wrong(f"{what} ({size:,} bytes) goes beyond the end ({self.end:,})")
        piece = self.content[self.at : self.at + size]
        self.at += size
        return piece

    def number(self, what: str) -> int:
        start, value = self.at, 0
        for _ in range(4):
            (byte,) = self.take(1, what)
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise self.wrong(f"{what} is a number of more than four bytes", start)

    def file(self) -> None:
        if self.take(4, "the header") != b"MThd":
            raise self.wrong("no header (MThd)", 0)
        size = int.from_bytes(self.take(4, "the header"))
        header = self.take(size, "the header")
        if size < 6:
            raise self.wrong(f"a header of {size} bytes", 4)
        form, tracks, division = (int.from_bytes(header[i : i + 2]) for i in (0, 2, 4))
        if form not in (0, 1):
            raise self.wrong(f"format {form}, where only 0 and 1 are pieces of music,", 8)
        if not 1 <= tracks <= _MOST_TRACKS:
            raise self.wrong(f"{tracks:,} tracks (1 to {_MOST_TRACKS:,} are read)", 10)
        if not 1 <= division < 0x8000:
            raise self.wrong("time that is not in ticks a quarter note", 12)
        for _ in range(tracks):
            self.chunk()

    def chunk(self) -> None:
        start = self.at
        kind = self.take(4, "a track")
        size = int.from_bytes(self.take(4, "a track"))
        if kind != b"MTrk":
            raise self.wrong("no track (MTrk)", start)
        if self.at + size > len(self.content):
            raise self.wrong(f"a track of {size:,} bytes, more than the file has,", start)
        self.end = self.at + size
        status = 0
        while self.at < self.end:
            status = self.event(status)
        self.end = len(self.content)

    def event(self, status: int) -> int:
        """Pass one event; return the running status after it."""
        self.events += 1
        if self.events > _MOST_EVENTS:
            raise self.wrong(f"more than {_MOST_EVENTS:,} events")
        self.number("a time")
        start = self.at
        if self.at >= self.end:
            raise self.wrong("a time without an event")
        if self.content[self.at] >= 0x80:
            status = self.content[self.at]
            self.at += 1
        elif not status:
            raise self.wrong("a data byte without a status before it")
        if status == 0xFF:
            self.take(1, "a meta event")
            self.take(self.number("a length"), "a meta event")
            return 0
        if status in (0xF0, 0xF7):
            self.take(self.number("a length"), "an exclusive message")
            return 0
        if status >= 0xF0:
            raise self.wrong(f"status 0x{status:02x}, which no file may have,", start)
        if any(byte >= 0x80 for byte in self.take(_DATA_BYTES[status >> 4], "an event")):
            raise self.wrong("a status byte where data should be", start)
        return status

"""One's own MIDI files: notes to rolls, and files that want to do harm."""

from __future__ import annotations

import io
import random
import struct
import time
from pathlib import Path

import mido
import numpy as np
import pytest

from ungated.lab.data import MusicData, midi_data
from ungated.lab.data.own_midi import MidiOptions, piano_roll
from ungated.lab.errors import DataError, DataMissingError, RecipeError


def midi(*tracks: list[tuple[str, int, int]], ticks: int = 480, channel: int = 0) -> bytes:
    """A file of (type, note, delta) events a track."""
    file = mido.MidiFile(ticks_per_beat=ticks)
    for events in tracks:
        track = mido.MidiTrack()
        track.append(mido.MetaMessage("set_tempo", tempo=400_000))
        for kind, note, delta in events:
            track.append(mido.Message(kind, channel=channel, note=note, velocity=64, time=delta))
        file.tracks.append(track)
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def note(key: int, start: int, length: int) -> list[tuple[str, int, int]]:
    return [("note_on", key, start), ("note_off", key, length)]


def roll(content: bytes, steps: int = 2) -> list[list[int]]:
    return [(np.flatnonzero(frame) + 21).tolist() for frame in piano_roll(content, "x.mid", steps)[0]]


def test_notes_become_frames() -> None:
    content = midi(note(60, 0, 480) + note(62, 0, 240), note(48, 240, 480))
    assert roll(content) == [[60], [48, 60], [48, 62]]
    assert roll(content, steps=1) == [[60], [48, 62]]
    assert roll(content, steps=4) == [[60], [60], [48, 60], [48, 60], [48, 62], [48, 62]]


def test_a_short_note_has_a_frame_and_times_are_rounded() -> None:
    assert roll(midi(note(60, 0, 1))) == [[60]]
    assert roll(midi(note(60, 239, 240))) == [[], [60]]
    assert roll(midi(note(60, 100, 300))) == [[60], [60]]


def test_notes_that_do_not_end_or_are_struck_again() -> None:
    assert roll(midi([("note_on", 60, 0), ("note_on", 64, 480)])) == [[60], [60], [64]]
    assert roll(midi([("note_on", 60, 0), ("note_on", 60, 480), ("note_off", 60, 480)])) == [[60]] * 4


def test_the_edges_of_the_keyboard() -> None:
    frames, left_out = piano_roll(
        midi(note(20, 0, 240) + note(21, 0, 240) + note(108, 0, 240) + note(109, 0, 240)), "x", 2
    )
    assert [np.flatnonzero(frame).tolist() for frame in frames] == [[], [0], [87]]
    assert left_out == {"notes outside the 88 keys": 2}
    frames, left_out = piano_roll(midi(note(60, 0, 240), channel=9), "x", 2)
    assert frames.shape == (0, 88)
    assert left_out == {"notes of the drum channel": 1}


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_a_folder(tmp_path: Path) -> None:
    files = {f"{'sub/' * (i % 2)}{i:02}.{'MID' if i % 3 else 'midi'}": midi(note(40 + i, 0, 960)) for i in range(20)}
    data_set = midi_data(folder(tmp_path, {**files, "notes.txt": b"x"}), steps_per_quarter=4)
    data = data_set.load()
    assert isinstance(data, MusicData)
    assert data_set.verify().counts == {
        "train songs": 16,
        "valid songs": 2,
        "test songs": 2,
        "train frames": 128,
        "valid frames": 16,
        "test frames": 16,
    }
    keys = [int(np.flatnonzero(song[0])[0]) + 21 for song in (*data.train, *data.valid, *data.test)]
    assert sorted(keys) == list(range(40, 60))
    again = midi_data(tmp_path).load()
    assert isinstance(again, MusicData)
    assert np.flatnonzero(again.test[0][0]) == np.flatnonzero(data.test[0][0])
    assert data.remarks == ()


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    good = midi(note(60, 0, 960))
    files = {"a.mid": good, "b.mid": good, "c.mid": good, "drums.mid": midi(note(60, 0, 960), channel=9)}
    data = midi_data(folder(tmp_path, files)).load()
    assert isinstance(data, MusicData)
    assert data.remarks == (
        "left out: 1 files with fewer than two frames of notes",
        "left out: 1 notes of the drum channel",
    )
    assert [len(part) for part in (data.train, data.valid, data.test)] == [1, 1, 1]


def test_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"there is no folder"):
        midi_data(tmp_path / "missing")
    good, silent = midi(note(60, 0, 960)), midi([])
    with pytest.raises(DataError, match=r"has 2 MIDI files \(.mid, .midi\); it takes 3"):
        midi_data(folder(tmp_path, {"a.mid": good, "b.mid": good}))
    with pytest.raises(DataError, match=r"has 2 MIDI files with notes; it takes 3"):
        midi_data(folder(tmp_path, {"c.mid": silent})).load()


@pytest.mark.parametrize("steps", [0, 97, 2.0, True])
def test_options_are_checked(steps: int) -> None:
    with pytest.raises(RecipeError, match=r"steps_per_quarter"):
        MidiOptions(steps)


# ---- files that want to do harm --------------------------------------------------------------------------


def header(form: int = 1, tracks: int = 1, division: int = 480) -> bytes:
    return b"MThd" + struct.pack(">IHHH", 6, form, tracks, division)


def track(events: bytes, size: int | None = None) -> bytes:
    return b"MTrk" + struct.pack(">I", len(events) if size is None else size) + events


END = b"\x00\xff\x2f\x00"

HOSTILE = {
    "endless number": (header() + track(b"\xff" * 320_000), r"a time is a number of more than four bytes at byte 22"),
    "five bytes": (
        header() + track(b"\x81\x80\x80\x80\x00\x90\x3c\x40" + END),
        r"a time is a number of more than four bytes",
    ),
    "endless length": (header() + track(b"\x00\xff\x01" + b"\x80" * 50_000), r"a length is a number of more than four"),
    "running status at the start": (
        header() + track(b"\x00\x3c\x40"),
        r"a data byte without a status before it at byte 23",
    ),
    "running status after meta": (
        header() + track(b"\x00\x90\x3c\x40\x00\xff\x01\x00\x00\x3c\x40"),
        r"without a status",
    ),
    "track longer than the file": (header() + track(END, size=1000), r"a track of 1,000 bytes, more than the file has"),
    "event beyond its track": (
        header() + track(b"\x00\x90", size=2) + b"\x3c\x40",
        r"an event \(2 bytes\) goes beyond",
    ),
    "meta beyond its track": (header() + track(b"\x00\xff\x01\x7fab"), r"a meta event \(127 bytes\) goes beyond"),
    "0 ticks": (header(division=0) + track(END), r"time that is not in ticks a quarter note at byte 12"),
    "SMPTE time": (header(division=0xE728) + track(END), r"time that is not in ticks a quarter note"),
    "65,535 tracks": (header(tracks=65_535) + track(END), r"65,535 tracks"),
    "no tracks": (header(tracks=0), r"0 tracks"),
    "fewer tracks than it says": (header(tracks=2) + track(END), r"a track \(4 bytes\) goes beyond the end"),
    "format 2": (header(form=2) + track(END), r"format 2"),
    "status in data": (header() + track(b"\x00\x90\x3c\x90"), r"a status byte where data should be"),
    "status of no file": (header() + track(b"\x00\xf4\x00"), r"status 0xf4"),
    "delta at the end": (header() + track(b"\x00"), r"a time without an event"),
    "other chunk": (header() + b"XFIH\0\0\0\0" + track(END), r"no track \(MTrk\) at byte 14"),
    "short header": (b"MThd" + struct.pack(">IHH", 4, 1, 1), r"a header of 4 bytes"),
    "empty": (b"", r"the header \(4 bytes\) goes beyond the end"),
    "page": (b"<html>" * 10, r"no header \(MThd\) at byte 0"),
    "hours": (
        header(division=1) + track(b"\x00\x90\x3c\x40\xff\xff\xff\x7f\x80\x3c\x40" + END),
        r"536,870,910 frames long",
    ),
    "events": (header() + track(b"\x00\x90\x3c\x40" + b"\x00\x3c\x00" * 200_000), r"more than 150,000 events"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_harm_is_refused_at_once(name: str) -> None:
    content, message = HOSTILE[name]
    start = time.process_time()
    with pytest.raises(DataError, match=r"^x.mid .*" + message):
        piano_roll(content, "x.mid", 2)
    assert time.process_time() - start < 2


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    good = midi(note(60, 0, 960))
    files = {"a.mid": good, "b.mid": good, "c.mid": good + bytes(1 << 20)}
    with pytest.raises(DataError, match=r"c.mid has more than 1,048,576 bytes"):
        midi_data(folder(tmp_path, files)).load()


def test_damaged_files_raise_nothing_else() -> None:
    """Damage at random places: a roll or a DataError, never another error, never long."""
    chooser = random.Random(0)
    whole = midi(note(60, 0, 480) * 8 + note(64, 10, 100) * 8, note(48, 240, 480) * 8)
    refused = 0
    start = time.process_time()
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chooser.randint(1, 4)):
            content[chooser.randrange(len(content))] = chooser.randrange(256)
        try:
            piano_roll(bytes(content[: chooser.choice([len(content), chooser.randrange(len(content))])]), "x.mid", 2)
        except DataError as error:
            assert str(error).startswith("x.mid ")
            refused += 1
    assert 100 < refused < 400
    assert time.process_time() - start < 20

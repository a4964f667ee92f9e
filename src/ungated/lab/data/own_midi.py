"""A user's own folder of MIDI files as a music data set: piano rolls of 88 keys.

A frame is a fraction of a quarter note (tempo changes play no part). A note sounds in the frames from the nearest to
its start to the one before the nearest to its end, and in one at least; the same key twice at once is one note.
Channel 10 (drums) is left out, and so are notes outside the 88 keys (MIDI 21 to 108); velocity and pedals play no
part. A roll goes from the beginning of the piece to the end of its last note, silent frames kept.

Files are split, never songs: in the order of a fixed shuffle of their sorted paths (NumPy's RandomState(0)), 80 %
train, 10 % valid, 10 % test, one file at least in each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.families import MusicData
from ungated.lab.data.midi_structure import check_midi
from ungated.lab.data.naming import own_name, own_options
from ungated.lab.errors import DataError, DataMissingError, RecipeError

_LOWEST, _KEYS = 21, 88
_DRUMS = 9  # channel 10, counted from 0
_FILE_LIMIT = 1 << 20  # bytes; the longest piano pieces take a tenth
_MOST_FILES = 50_000
_MOST_FRAMES = 100_000


@dataclass(frozen=True)
class MidiOptions:
    """How a piece becomes frames."""

    steps_per_quarter: int = 2  # frames a quarter note: 2 are eighths, 4 sixteenths

    def __post_init__(self) -> None:
        steps = self.steps_per_quarter
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 96:
            raise RecipeError(f"steps_per_quarter should be an int from 1 to 96, got {steps!r}")


def midi_data(directory: str | Path, *, steps_per_quarter: int = 2) -> DataSet:
    """The MIDI files (.mid, .midi) in a folder and its subfolders as a music data set.

    Raises DataMissingError where there is no such folder, DataError where it has fewer than three such files.
    `load` raises DataError, with file and byte, for a file that is not sound MIDI.
    """
    directory = Path(directory).expanduser().absolute()
    if not directory.is_dir():
        raise DataMissingError(f"there is no folder {directory}")
    paths = tuple(sorted(p for p in directory.rglob("*") if p.suffix.lower() in (".mid", ".midi") and p.is_file()))
    if not 3 <= len(paths) <= _MOST_FILES:
        raise DataError(
            f"{directory} has {len(paths):,} MIDI files (.mid, .midi); it takes 3 for train, valid and test, "
            f"and {_MOST_FILES:,} at most"
        )
    return DataSet(
        name=own_name("midi", directory),
        kind="music",
        summary=f"the MIDI files in {directory}",
        licence="your own",
        source=str(directory),
        parse=_parse,
        count=_count,
        paths=paths,
        path_limit=_FILE_LIMIT,
        Options=own_options(MidiOptions, steps_per_quarter=steps_per_quarter),
    )


def _parse(contents: Mapping[str, bytes], options: MidiOptions) -> MusicData:
    left_out: Counter[str] = Counter()
    rolls = []
    for path, content in contents.items():
        roll, notes = piano_roll(content, path, options.steps_per_quarter)
        left_out.update(notes)
        if len(roll) < 2:
            left_out["files with fewer than two frames of notes"] += 1
        else:
            rolls.append(roll)
    if len(rolls) < 3:
        raise DataError(f"{source_of(contents)} has {len(rolls)} MIDI files with notes; it takes 3")
    order = np.random.RandomState(0).permutation(len(rolls))
    held_out = max(1, len(rolls) // 10)
    train, valid, test = (
        [rolls[place] for place in part] for part in np.split(order, [len(rolls) - 2 * held_out, len(rolls) - held_out])
    )
    return MusicData(train, valid, test, tuple(f"left out: {n:,} {what}" for what, n in sorted(left_out.items())))


def source_of(contents: Mapping[str, bytes]) -> str:
    """The folder that the files have in common."""
    return str(Path(next(iter(contents))).parent)


def piano_roll(content: bytes, name: str, steps_per_quarter: int) -> tuple[NDArray[np.uint8], dict[str, int]]:
    """The roll uint8 (T, 88) of a MIDI file's content, and how many notes of which sort were left out.

    Raises DataError, naming the file, where it is not sound MIDI or has more than 100,000 frames.
    """
    import mido

    check_midi(content, name)
    try:
        file = mido.MidiFile(file=BytesIO(content))
    except Exception as error:  # mido raises half a dozen unrelated types for content it cannot read
        raise DataError(f"{name} is not a MIDI file that can be read: {error or type(error).__name__}") from error
    scale = steps_per_quarter / file.ticks_per_beat
    left_out: Counter[str] = Counter()
    sounding = []
    for track in file.tracks:
        for channel, key, start, end in _notes(track):
            if channel == _DRUMS:
                left_out["notes of the drum channel"] += 1
            elif not 0 <= key - _LOWEST < _KEYS:
                left_out["notes outside the 88 keys"] += 1
            else:
                first = int(start * scale + 0.5)
                sounding.append((key - _LOWEST, first, max(first + 1, int(end * scale + 0.5))))
    frames = max((end for _, _, end in sounding), default=0)
    if frames > _MOST_FRAMES:
        raise DataError(f"{name} would be {frames:,} frames long; {_MOST_FRAMES:,} are the most for one piece")
    roll = np.zeros((frames, _KEYS), dtype=np.uint8)
    for key, first, last in sounding:
        roll[first:last, key] = 1
    return roll, dict(left_out)


def _notes(track: object) -> list[tuple[int, int, int, int]]:
    """(channel, key, start, end) in ticks; a note that never ends does so with its track, or when struck again."""
    time = 0
    on: dict[tuple[int, int], int] = {}
    notes = []
    for message in track:  # type: ignore[attr-defined]
        time += message.time
        if message.type not in ("note_on", "note_off"):
            continue
        place = (message.channel, message.note)
        if place in on:
            notes.append((*place, on.pop(place), time))
        if message.type == "note_on" and message.velocity > 0:
            on[place] = time
    notes.extend((*place, start, time) for place, start in on.items())
    return notes


def _count(data: MusicData, options: object) -> dict[str, int]:
    counts = {}
    for split in ("train", "valid", "test"):
        rolls = getattr(data, split)
        counts[f"{split} songs"] = len(rolls)
        counts[f"{split} frames"] = sum(map(len, rolls))
    return counts

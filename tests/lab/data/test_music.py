"""The four polyphonic music sets against their published tables, and rolls that are none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from ungated.lab.data import DATASETS, MusicData, music
from ungated.lab.errors import DataError

NAMES = [name for name, data_set in DATASETS.items() if data_set.kind == "music"]

#: Frames that remain of train, valid, test without the silent ones.
KEPT = {
    "jsb": (13_789, 4_573, 4_708),
    "nottingham": (176_074, 45_462, 44_444),
    "musedata": (232_240, 78_343, 59_297),
    "piano-midi": (70_994, 8_289, 18_384),
}


def test_the_four_sets() -> None:
    assert list(KEPT) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_published_counts(name: str, data_dir: Path) -> None:
    data = DATASETS[name].load(data_dir, download=False)
    assert isinstance(data, MusicData)
    for songs, kept in zip((data.train, data.valid, data.test), KEPT[name], strict=True):
        assert all(song.dtype == np.uint8 and song.shape[1] == 88 and song.max() == 1 for song in songs)
        assert sum(int(song.any(axis=1).sum()) for song in songs) == kept


def test_first_chord_of_the_chorales(data_dir: Path) -> None:
    """The first frames of the first chorale as MIDI notes (they are in the authors' own file too)."""
    data = DATASETS["jsb"].load(data_dir, download=False)
    assert isinstance(data, MusicData)
    chords = [(np.flatnonzero(frame) + 21).tolist() for frame in data.train[0][:3]]
    assert chords == [[60, 72, 79, 88], [72, 79, 88], [67, 70, 76, 84]]


def mat(**changes: object) -> dict[str, bytes]:
    song = np.zeros((5, 88), dtype=np.uint8)
    cells = {}
    for key in ("traindata", "validdata", "testdata"):
        cells[key] = np.empty((1, 2), dtype=object)
        cells[key][0, 0] = cells[key][0, 1] = changes.get(key, song)
    file = io.BytesIO()
    savemat(file, cells)
    return {"x.mat": file.getvalue()}


def test_a_roll_is_frames_by_88_zeros_and_ones() -> None:
    assert len(music._parse(mat(), None).valid) == 2
    for song in (np.zeros((5, 87)), np.full((5, 88), 2), np.zeros((5, 88, 2)), np.full((5, 88), 0.5)):
        with pytest.raises(DataError, match=r"x.mat: song 0 of validdata is not a piano roll of 88 keys"):
            music._parse(mat(validdata=song), None)

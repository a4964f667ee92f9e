"""Batches, windows and streams: the rules on small cases, and the counts they give at published sizes."""

from __future__ import annotations

import numpy as np
import pytest

from ungated.lab.tasks.batching import blocks, interleaved, row_starts, window_starts


def test_the_last_ordinary_batch_takes_the_remainder() -> None:
    assert blocks(10, 3) == [slice(0, 3), slice(3, 6), slice(6, 10)]
    assert blocks(9, 3) == [slice(0, 3), slice(3, 6), slice(6, 9)]


def test_fewer_items_than_a_batch_make_one_batch_and_none_make_none() -> None:
    assert blocks(2, 3) == [slice(0, 2)]
    assert blocks(0, 3) == []


def test_continuous_batches_are_parallel_streams_without_the_remainder() -> None:
    assert interleaved(11, 3).tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert len(interleaved(2, 3)) == 0


def test_windows_lie_with_their_targets_within_the_stream() -> None:
    assert window_starts(9, 4, 4).tolist() == [0, 4]  # inputs 0-3, 4-7, targets to 8
    assert window_starts(8, 4, 4).tolist() == [0]
    assert window_starts(8, 4, 2).tolist() == [0, 2]
    assert len(window_starts(4, 4, 1)) == 0


def test_rows_are_cut_from_the_stream_of_symbols() -> None:
    # 23 symbols in 2 rows of 11: (11 - 1) // 4 = 2 windows each, starting at 0 and 11.
    assert row_starts(23, 2, 4).tolist() == [[0, 11], [4, 15]]
    # Rows of 8: the second window would have no target for its last symbol.
    assert row_starts(16, 2, 4).tolist() == [[0, 8]]
    assert len(row_starts(1, 2, 4)) == 0


@pytest.mark.parametrize(
    ("items", "batch_size", "batches", "last"),
    [
        (229, 16, 14, 21),  # JSB, training windows
        (1319, 16, 82, 23),  # Nottingham
        (2147, 16, 134, 19),  # MuseData
        (665, 16, 41, 25),  # Piano-midi.de
        (104, 16, 6, 24),  # its test windows
        (27_737, 128, 216, 217),  # word PTB, training
        (2_197, 128, 17, 149),  # validation
        (2_461, 128, 19, 157),  # test
        (20_000, 64, 312, 96),  # IMDB
        (5_000, 64, 78, 72),
        (25_000, 64, 390, 104),
        (50_000, 64, 781, 80),  # MNIST
        (10_000, 64, 156, 80),
    ],
)
def test_published_batch_counts(items: int, batch_size: int, batches: int, last: int) -> None:
    made = blocks(items, batch_size)
    assert len(made) == batches
    assert made[-1].stop - made[-1].start == last
    assert [b.stop for b in made[:-1]] == [b.start for b in made[1:]]


@pytest.mark.parametrize(
    ("symbols", "window", "stride", "windows"),
    [
        (887_644, 64, 32, 27_737),  # word PTB, the authors' stream
        (70_338, 64, 32, 2_197),
        (78_808, 64, 32, 2_461),
        (4_975_414, 512, 512, 9_717),  # char PTB
        (389_672, 512, 256, 1_521),
        (438_662, 512, 256, 1_712),
        (90_000_000, 256, 256, 351_562),  # enwik8, text8
        (5_000_000, 256, 128, 39_061),
    ],
)
def test_published_window_counts(symbols: int, window: int, stride: int, windows: int) -> None:
    assert len(window_starts(symbols, window, stride)) == windows


@pytest.mark.parametrize(
    ("windows", "batches", "dropped", "symbols_of_a_stream"),
    [
        (9_717, 151, 53, 151 * 512),
        (351_562, 5_493, 10, 5_493 * 256),
        (1_521, 23, 49, None),
        (1_712, 26, 48, None),
        (39_061, 610, 21, None),
    ],
)
def test_published_stream_counts(windows: int, batches: int, dropped: int, symbols_of_a_stream: int | None) -> None:
    made = interleaved(windows, 64)
    assert made.shape == (batches, 64)
    assert windows - made.size == dropped
    assert sorted(made.ravel()) == list(range(made.size))
    if symbols_of_a_stream is not None:
        assert symbols_of_a_stream in (77_312, 1_406_208)


@pytest.mark.parametrize(
    ("symbols", "rows", "window", "windows", "positions"),
    [
        (929_589, 20, 35, 1_327, 928_900),  # RHN: PTB train, valid, test
        (73_760, 20, 35, 105, 73_500),
        (82_430, 20, 35, 117, 81_900),
        (90_000_000, 128, 50, 14_062, 89_996_800),  # enwik8, text8
        (5_000_000, 128, 50, 781, 4_998_400),
    ],
)
def test_published_row_counts(symbols: int, rows: int, window: int, windows: int, positions: int) -> None:
    starts = row_starts(symbols, rows, window)
    assert starts.shape == (windows, rows)
    assert starts.size * window == positions
    assert int(starts.max()) + window < symbols
    assert np.all(np.diff(starts, axis=0) == window)

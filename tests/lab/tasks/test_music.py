"""Music: windows, both averages on worked examples, and the published counts on the real songs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ungated import RNN, count_parameters
from ungated.cells import CELLS
from ungated.cells.cell import State
from ungated.lab.data import DATASETS
from ungated.lab.data.families import MusicData
from ungated.lab.errors import DataError, RecipeError
from ungated.lab.tasks.baselines import NoteFrequencyModel
from ungated.lab.tasks.music import Frames, MusicModel, MusicTask, Window, cut, without_silence


def song(frames: int, notes: int = 3, seed: int = 0) -> Frames:
    """Frames with at least one note each."""
    roll = np.random.RandomState(seed).randint(0, 2, size=(frames, notes)).astype(np.uint8)
    roll[:, 0] |= ~roll.any(axis=1)
    return roll


def data_of(*songs: Frames) -> MusicData:
    return MusicData(list(songs), list(songs), list(songs))


class Certain(nn.Module):
    """Every note with a probability that depends on how many notes the frame before had: nats are easy to say."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))

    def forward(
        self, frames: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if state is None:
            state = torch.zeros(1, frames.shape[1], 1)
        count = frames.sum(-1, keepdim=True).float().expand(frames.shape)
        return count * math.log(3.0) + self.logit, state


def test_a_window_and_the_rest_predict_every_frame_but_the_first_once() -> None:
    assert cut([song(11)], 4) == [Window(0, 0, 4), Window(0, 4, 4), Window(0, 8, 2)]
    assert cut([song(9)], 4) == [Window(0, 0, 4), Window(0, 4, 4)]  # a rest of one frame is already predicted
    assert cut([song(5)], 4) == [Window(0, 0, 4)]
    assert cut([song(4), song(2), song(1)], 4) == [Window(0, 0, 3), Window(1, 0, 1)]


def test_training_windows_overlap() -> None:
    assert cut([song(9)], 4, 2) == [Window(0, 0, 4), Window(0, 2, 4), Window(0, 4, 4), Window(0, 6, 2)]


def test_whole_songs() -> None:
    assert cut([song(9), song(3)], None) == [Window(0, 0, 8), Window(1, 0, 2)]


def test_silent_frames_go_under_the_paper_protocol_alone() -> None:
    roll = song(4)
    roll[1] = 0
    assert without_silence([roll])[0].tolist() == roll[[0, 2, 3]].tolist()
    paper = MusicTask(data_of(roll), batch_size=1, protocol="paper").epoch(1, 0)[0]
    standard = MusicTask(data_of(roll), batch_size=1, protocol="standard").epoch(1, 0)[0]
    assert paper.inputs[:, 0].tolist() == roll[[0, 2]].tolist()
    assert paper.targets[:, 0].tolist() == roll[[2, 3]].tolist()
    assert standard.inputs[:, 0].tolist() == roll[:-1].tolist()
    assert standard.targets[:, 0].tolist() == roll[1:].tolist()


def test_both_metrics_on_a_worked_example() -> None:
    # One note; logit = ln 3 if it sounded before, else 0: a note after a note costs ln(4/3), none ln 4, and
    # after silence either costs ln 2. Song a, as it is: 1 1 0 1 1; without silence: 1 1 1 1. Song b: 1 1.
    a = np.array([[1], [1], [0], [1], [1]], dtype=np.uint8)
    b = np.array([[1], [1]], dtype=np.uint8)
    after_note, rest, after_rest = math.log(4 / 3), math.log(4), math.log(2)
    data = MusicData([a], [a], [a, b, b])
    task = MusicTask(data, MusicTask.Settings(window=2, train_stride=1), batch_size=2)
    standard = task.evaluate(Certain(), "test", "standard")
    assert standard["nll_per_frame"] == pytest.approx(
        ((after_note + rest + after_rest + after_note) + 2 * after_note) / 6
    )
    # Paper: windows of a: [1 1 -> 1 1], [1 -> 1]; b, b. All cost ln(4/3) a frame.
    assert task.evaluate(Certain(), "test", "paper")["nll_per_frame"] == pytest.approx(after_note)


def test_the_paper_average_is_over_windows_then_over_batches() -> None:
    # The two-note frame makes logits 2 ln 3: per note ln(10/9) if it sounds, ln 10 if not; one note: ln 3.
    both, one = [1, 1], [1, 0]
    a = np.array([both, both, one], dtype=np.uint8)  # window of 2 frames: 2 ln(10/9), then ln(10/9) + ln 10
    b = np.array([one, both], dtype=np.uint8)  # 2 ln(4/3)
    c = np.array([both, both], dtype=np.uint8)  # 2 ln(10/9)
    first = (2 * math.log(10 / 9) + math.log(10 / 9) + math.log(10)) / 2
    second, third = 2 * math.log(4 / 3), 2 * math.log(10 / 9)
    data = MusicData([a], [a], [a, b, c, c, c])
    task = MusicTask(data, batch_size=2)
    # Batches: (a, b), (c, c, c): the last takes the remainder and counts as one.
    expected = ((first + second) / 2 + third) / 2
    assert task.evaluate(Certain(), "test", "paper")["nll_per_frame"] == pytest.approx(expected)
    assert task.evaluate(Certain(), "test", "standard")["nll_per_frame"] == pytest.approx(
        (2 * first + second + 3 * third) / 6
    )


def test_the_training_loss_is_the_metric_of_its_protocol() -> None:
    songs = [song(n, seed=n) for n in (7, 12, 3)]
    torch.manual_seed(0)
    for protocol in ("paper", "standard"):
        task = MusicTask(
            data_of(*songs), MusicTask.Settings(window=20, train_stride=20), batch_size=3, protocol=protocol
        )
        model = task.model(lambda m: RNN(CELLS["gru"], m, 5))
        loss, total, state = task.loss(model, task.epoch(1, 0)[0])
        weight = task.epoch(1, 0)[0].weight
        metric = task.evaluate(model, "train", protocol)["nll_per_frame"]
        assert loss.item() == pytest.approx(metric, rel=1e-5)
        assert total.item() / weight == pytest.approx(metric, rel=1e-5)
        assert weight == (3 if protocol == "paper" else 6 + 11 + 2)
        assert state is None


def test_the_loss_of_parts_adds_up() -> None:
    songs = [song(n, seed=n) for n in (7, 12, 3, 5)]
    for protocol in ("paper", "standard"):
        task = MusicTask(data_of(*songs), batch_size=4, protocol=protocol)
        model = task.model(lambda m: RNN(CELLS["rru"], m, 5))
        batch = task.epoch(1, 0)[0]
        parts = [batch.part(i, 3) for i in range(3)]
        weighted = sum(part.weight * task.loss(model, part)[0].item() for part in parts)
        assert weighted / batch.weight == pytest.approx(task.loss(model, batch)[0].item(), rel=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_the_standard_metric_depends_on_no_batch_and_no_piece(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    songs = [song(n, seed=n) for n in (7, 12, 3, 30, 1, 9)]
    torch.manual_seed(1)
    model = MusicModel(RNN(CELLS[cell], 3, 4, dtype=torch.float64), 3).double()
    total, frames = 0.0, 0
    with torch.no_grad():
        for roll in songs:
            if len(roll) > 1:
                logits, _ = model(torch.from_numpy(roll[:-1, None]))
                p = torch.sigmoid(logits[:, 0])
                y = torch.from_numpy(roll[1:]).double()
                total -= float((y * p.log() + (1 - y) * (1 - p).log()).sum())
                frames += len(roll) - 1
    for batch_size in (1, 2, 4, 64):
        for piece in (1, 5, 1000):
            monkeypatch.setattr("ungated.lab.tasks.music._CHUNK", piece)
            measured = MusicTask(data_of(*songs), batch_size=batch_size).evaluate(model, "test", "standard")
            assert measured["nll_per_frame"] == pytest.approx(total / frames, rel=1e-12)


def test_epochs_are_shuffled_and_repeatable() -> None:
    task = MusicTask(data_of(*[song(n + 2, seed=n) for n in range(10)]), batch_size=3)

    def lengths(number: int, seed: int) -> list[list[int]]:
        return [b.lengths.tolist() for b in task.epoch(number, seed) if b.lengths is not None]

    assert lengths(1, 0) == lengths(1, 0)
    assert lengths(1, 0) != lengths(2, 0)
    assert lengths(1, 0) != lengths(1, 1)
    assert sorted(length for batch in lengths(1, 0) for length in batch) == list(range(1, 11))
    assert [len(batch) for batch in lengths(1, 0)] == [3, 3, 4]


def test_batches_are_trimmed_to_their_longest_window() -> None:
    batch = MusicTask(data_of(song(4), song(7)), batch_size=2).epoch(1, 0)[0]
    assert batch.inputs.shape == (6, 2, 3)


def test_nothing_to_predict_is_said() -> None:
    silent = np.zeros((5, 88), dtype=np.uint8)
    with pytest.raises(DataError, match="the valid songs hold nothing to predict"):
        MusicTask(MusicData([song(4)], [silent], [song(4)]), batch_size=1, protocol="paper")
    with pytest.raises(DataError, match="the train songs"):
        MusicTask(MusicData([], [song(4)], [song(4)]), batch_size=1)


def test_bad_settings_are_said() -> None:
    with pytest.raises(RecipeError, match="train_stride = 300 would skip frames"):
        MusicTask.Settings(window=200, train_stride=300)
    with pytest.raises(RecipeError, match="at least 1"):
        MusicTask.Settings(window=0)
    with pytest.raises(RecipeError, match='"windows", "songs"'):
        MusicTask.Settings(train_on="all")
    with pytest.raises(RecipeError, match="protocol"):
        MusicTask(data_of(song(4)), batch_size=1, protocol="papers")
    with pytest.raises(RecipeError, match="bidirectional"):
        MusicTask(data_of(song(4)), batch_size=1).model(lambda m: RNN(CELLS["gru"], m, 4, bidirectional=True))


@pytest.mark.parametrize(
    ("cell", "n", "options", "parameters"),
    [
        ("rru", 338, {"expansion": 7.31994, "output_size": 64}, 2_591_620),
        ("gru", 1007, {}, 3_399_720),
        ("lstm", 517, {}, 1_298_792),
        ("mogrifier", 472, {"rounds": 6, "rank": 58}, 1_297_352),
    ],
)
def test_published_sizes(cell: str, n: int, options: dict[str, float], parameters: int) -> None:
    task = MusicTask(data_of(song(4, notes=88)), batch_size=16)
    with torch.device("meta"):
        assert count_parameters(task.model(lambda m: RNN(CELLS[cell], m, n, **options))) == parameters


# Frames predicted, windows, batches, rows of the last batch; train, valid, test.
COUNTS = {
    "jsb": [(13_560, 229, 14, 21), (4497, 76, 4, 28), (4631, 77, 4, 29)],
    "nottingham": [(237_880, 1319, 82, 23), (45_289, 300, 18, 28), (44_274, 290, 18, 18)],
    "musedata": [(394_016, 2147, 134, 19), (78_208, 455, 28, 23), (59_173, 358, 22, 22)],
    "piano-midi": [(128_707, 665, 41, 25), (8277, 48, 3, 16), (18_359, 104, 6, 24)],
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name: str, data_dir: Path) -> None:
    """Windows and batches that the authors' code makes of the real songs."""
    data = DATASETS[name].load(data_dir, DATASETS[name].Options())
    task = MusicTask(data, batch_size=16, protocol="paper")
    epoch = task.epoch(1, 0)
    for split, expected in zip(("train", "valid", "test"), COUNTS[name], strict=True):
        songs = task.songs(split, "paper")
        windows = cut(songs, 200, 100 if split == "train" else 200)
        count = len(windows) // 16
        found = (sum(w.length for w in windows), len(windows), count, len(windows) - 16 * (count - 1))
        assert found == expected
    assert (len(epoch), epoch[-1].rows) == COUNTS[name][0][2:]
    assert sum(batch.rows for batch in epoch) == COUNTS[name][0][1]


def test_note_frequencies_through_the_same_code(data_dir: Path) -> None:
    """On JSB, against the sum written out."""
    data = DATASETS["jsb"].load(data_dir, DATASETS["jsb"].Options())
    task = MusicTask(data, batch_size=16)
    seen = np.concatenate([roll[1:] for roll in data.train])
    p = (seen.sum(0) + 1) / (len(seen) + 2)
    y = np.concatenate([roll[1:] for roll in data.test])
    nll = -np.where(y == 1, np.log(p), np.log1p(-p)).sum(1)
    measured = task.evaluate(NoteFrequencyModel(data.train), "test", "standard")["nll_per_frame"]
    assert measured == pytest.approx(nll.mean(), rel=1e-5)

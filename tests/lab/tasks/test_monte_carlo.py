"""Monte-Carlo dropout against the average computed by hand, and samples that are added, merged and refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ungated import RNN
from ungated.cells import CELLS, Cell
from ungated.cells.cell import Noise
from ungated.lab.data.families import LanguageData
from ungated.lab.errors import CheckpointError, RunError, UsageError
from ungated.lab.tasks.language import LanguageTask
from ungated.lab.tasks.language_model import LanguageModel, Masks
from ungated.lab.tasks.monte_carlo import PassMasks, draw_passes, monte_carlo

SYMBOLS = 7


def task_of(length: int = 40) -> LanguageTask:
    g = torch.Generator().manual_seed(1)
    streams = [torch.randint(0, SYMBOLS, (n,), generator=g) for n in (200, 60, length)]
    data = LanguageData(*streams, vocabulary=list("abcdefg"), unit="word", stream="standard")
    return LanguageTask(data, LanguageTask.Settings(window=8), batch_size=2)


def rhn(n: int = 6, **rates: float) -> LanguageModel:
    torch.manual_seed(3)
    options: dict[str, Any] = {"embedding_dropout": 0.25, "output_dropout": 0.5, **rates}
    return LanguageModel(
        lambda m: RNN(CELLS["rhn"], m, n, depth=2, init_scale=1.0, input_dropout=0.5, state_dropout=0.25),
        SYMBOLS,
        init_scale=1.0,
        **options,
    )


def run(model: LanguageModel, directory: Path, samples: int, **options: Any) -> dict[str, float]:
    return monte_carlo(
        model, task_of(), "test", samples=samples, directory=directory, identity={"weights": "these"}, **options
    )


def brute_force(model: LanguageModel, stream: torch.Tensor, masks: list[PassMasks]) -> tuple[float, list[float]]:
    """-ln of the mean of each position's probabilities over passes, one symbol at a time, and each pass's own nll."""
    sums = [0.0] * (len(stream) - 1)
    own = []
    model.eval()
    for held in masks:
        state, nll = None, 0.0
        z_o = held.output
        for t in range(len(stream) - 1):
            word = None if held.table is None else held.table[stream[t]].view(1, 1)
            with torch.no_grad():
                logits, state = model(stream[t].view(1, 1), state, Masks(word, z_o, held.cells))
            p = float(torch.softmax(logits[0, 0].double(), -1)[stream[t + 1]])
            sums[t] += p
            nll -= math.log(p)
        own.append(nll / len(sums))
    return sum(-math.log(total / len(masks)) for total in sums) / len(sums), own


@pytest.mark.parametrize("kind", ["position", "type"])
def test_probabilities_are_averaged_over_passes_with_held_masks(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = rhn(), task_of()
    drawn: list[PassMasks] = []
    create = PassMasks.__init__

    def recorded(self: PassMasks, *arguments: Any) -> None:
        create(self, *arguments)
        drawn.append(self)

    monkeypatch.setattr(PassMasks, "__init__", recorded)
    monkeypatch.setattr("ungated.lab.tasks.language_scores._PASS_LOGITS", 5 * SYMBOLS)  # pieces of five symbols
    measured = run(model, tmp_path, 4, word_masks=kind)
    expected, own = brute_force(model, task.data.test, drawn)
    assert len(drawn) == 4
    assert measured["nll"] == pytest.approx(expected, rel=1e-5)
    assert measured["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert measured["one_pass"] == pytest.approx(math.exp(sum(own) / 4), rel=1e-5)
    # ln of an average is never below the average of ln.
    assert measured["perplexity"] < measured["one_pass"]
    # The authors' vector has one position more, whose probability stays 0 and is clipped to 1e-10.
    assert measured["nll_paper"] == pytest.approx((39 * expected + 10 * math.log(10)) / 40, rel=1e-5)
    assert (measured["samples"], measured["rejected"]) == (4, 0)


def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stream = rhn(), task_of().data.test
    whole = draw_passes(model, stream, 0, 0, 3, "type")
    monkeypatch.setattr("ungated.lab.tasks.language_scores._PASS_LOGITS", 4 * 3 * SYMBOLS)
    assert np.allclose(draw_passes(model, stream, 0, 0, 3, "type"), whole, rtol=1e-5)


def test_rows_of_a_draw_are_different_passes() -> None:
    passes = draw_passes(rhn(), task_of().data.test, 0, 0, 3, "type")
    assert passes.shape == (3, 39)
    assert not np.array_equal(passes[0], passes[1])


def test_position_masks_drop_all_symbols_or_none() -> None:
    torch.manual_seed(0)
    masks = PassMasks(rhn(), 50, "position")
    assert masks.table is not None
    assert torch.equal(masks.table, masks.table[:1].expand(SYMBOLS, -1))
    assert masks.table.unique().tolist() == pytest.approx([0.0, 4 / 3])


@pytest.mark.parametrize("cell", ["rru", "lstm"])
def test_masks_of_single_steps_stay_fresh(cell: str) -> None:
    torch.manual_seed(0)
    model = LanguageModel(lambda m: RNN(CELLS[cell], m, 5, recurrent_dropout=0.5), SYMBOLS)
    held = PassMasks(model, 2, "type")
    first, second = held.of(torch.zeros(30, 2, dtype=torch.int64)), held.of(torch.zeros(30, 2, dtype=torch.int64))
    assert first.cells is not None
    assert second.cells is not None
    assert first.cells[0].shape[0] == 30  # type: ignore[union-attr]
    assert not torch.equal(first.cells[0], second.cells[0])  # type: ignore[arg-type]
    draw_passes(model, task_of().data.test, 0, 0, 2, "type")


class Mixed(Cell):
    """Own cell with a mask for the whole sequence and one for every step; `alone` has the first alone."""

    def __init__(self, input_size: int, hidden_size: int, alone: bool = False) -> None:
        super().__init__(input_size, hidden_size)
        self.alone = alone
        self.W = torch.nn.Parameter(torch.randn(input_size, hidden_size))

    def noise(self, time: int, batch: int) -> Noise:
        held, fresh = torch.rand(1, batch, self.hidden_size), torch.rand(time, batch, self.hidden_size)
        return held if self.alone else (held, fresh)

    def project(self, x: torch.Tensor, noise: Noise = None) -> torch.Tensor:
        return x @ self.W

    def step(self, drive: torch.Tensor, state: Any, noise: Any = None) -> tuple[torch.Tensor, Any]:
        state = torch.tanh(drive + state)
        return state, state


def test_masks_of_sequences_are_held_beside_masks_of_steps() -> None:
    ids = torch.zeros(4, 2, dtype=torch.int64)
    held = PassMasks(LanguageModel(lambda m: RNN(Mixed, m, 5), SYMBOLS), 2, "type")
    (first,), (second,) = held.of(ids).cells, held.of(ids).cells  # type: ignore[misc]
    assert torch.equal(first[0], second[0])  # type: ignore[index]
    assert not torch.equal(first[1], second[1])  # type: ignore[index]
    assert first[1].shape == (4, 2, 5)  # type: ignore[index]
    alone = PassMasks(LanguageModel(lambda m: RNN(Mixed, m, 5, alone=True), SYMBOLS), 2, "type")
    (first,), (second,) = alone.of(ids).cells, alone.of(ids).cells  # type: ignore[misc]
    assert torch.equal(first, second)  # type: ignore[arg-type]


def test_dropout_between_layers_alone_makes_passes_differ() -> None:
    torch.manual_seed(0)
    model = LanguageModel(lambda m: RNN(CELLS["gru"], m, 5, 2, dropout=0.5), SYMBOLS).eval()
    passes = draw_passes(model, task_of().data.test, 0, 0, 2, "type")
    assert not np.allclose(passes[0], passes[1])


def test_nothing_but_the_samples_changes(tmp_path: Path) -> None:
    model = rhn().eval()
    torch.manual_seed(9)
    before = torch.get_rng_state()
    run(model, tmp_path, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training


def test_samples_are_added_and_merged(tmp_path: Path) -> None:
    model = rhn()
    at_once = run(model, tmp_path / "a", 5)
    run(model, tmp_path / "b", 2)
    assert run(model, tmp_path / "b", 5) == at_once
    assert run(model, tmp_path / "b", 5) == at_once  # nothing is left to draw
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        *(f"0-{i:06d}.npy" for i in range(5)),
        "samples.json",
    ]
    # Two seeds, as of two processes: the average of all.
    run(model, tmp_path / "c", 2, seed=1)
    other = run(model, tmp_path / "c", 5, seed=2)
    assert other["samples"] == 5
    passes = [np.load(path, allow_pickle=False) for path in (tmp_path / "c").glob("*.npy")]
    assert {path.name[0] for path in (tmp_path / "c").glob("*.npy")} == {"1", "2"}
    assert other["nll"] == pytest.approx(float(-np.log(np.mean(passes, axis=0, dtype=np.float64)).mean()))


def test_passes_above_the_threshold_are_kept_but_not_counted(tmp_path: Path) -> None:
    model = rhn()
    run(model, tmp_path, 8)
    passes = [np.load(tmp_path / f"0-{i:06d}.npy") for i in range(8)]
    own = sorted(float(np.exp(-np.log(p.astype(np.float64)).mean())) for p in passes)
    threshold = (own[3] + own[4]) / 2
    measured = run(model, tmp_path, 4, accept_below=threshold)
    assert (measured["samples"], measured["rejected"]) == (4, 4)
    accepted = [p for p in passes if np.exp(-np.log(p.astype(np.float64)).mean()) < threshold]
    assert measured["nll"] == pytest.approx(float(-np.log(np.mean(accepted, axis=0, dtype=np.float64)).mean()))


def test_a_threshold_that_nothing_passes_ends(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none of the last 50 Monte-Carlo passes had a perplexity below 1\.5"):
        run(rhn(), tmp_path, 1, accept_below=1.5, parallel=25)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = rhn()
    run(model, tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"samples of something else \(another weights\)"):
        monte_carlo(model, task_of(), "test", samples=2, directory=tmp_path, identity={"weights": "others"})
    with pytest.raises(CheckpointError, match="another split"):
        monte_carlo(model, task_of(), "valid", samples=2, directory=tmp_path, identity={"weights": "these"})
    with pytest.raises(CheckpointError, match="another word_masks"):
        run(model, tmp_path, 2, word_masks="type")
    sample = tmp_path / "0-000001.npy"
    whole = sample.read_bytes()
    for damaged in (b"", whole[:50], whole[:-4] + b"\xff\xff\xff\xff"):
        sample.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"0-000001\.npy .* remove it"):
            run(model, tmp_path, 2)
    sample.unlink()
    assert run(model, tmp_path, 2)["samples"] == 2
    (tmp_path / "samples.json").unlink()
    with pytest.raises(CheckpointError, match=r"no samples\.json"):
        run(model, tmp_path, 2)


def test_wrong_use_is_said(tmp_path: Path) -> None:
    still = LanguageModel(lambda m: RNN(CELLS["gru"], m, 5), SYMBOLS)
    with pytest.raises(UsageError, match="no dropout"):
        run(still, tmp_path, 2)
    with pytest.raises(UsageError, match="at least one sample"):
        run(rhn(), tmp_path, 0)
    with pytest.raises(UsageError, match="never below 1"):
        run(rhn(), tmp_path, 1, accept_below=0.5)
    with pytest.raises(UsageError, match='"position" or "type"'):
        run(rhn(), tmp_path, 1, word_masks="word")

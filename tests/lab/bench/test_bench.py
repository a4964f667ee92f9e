"""`ungated bench` on networks of toy size: what is lined up, what the record says, and what a stop leaves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ungated.lab.bench import cases, measure, session
from ungated.lab.bench.cases import CASES, REFERENCE, WITHOUT_DROPOUT, Case, Goal
from ungated.lab.bench.measure import Measured, Timing
from ungated.lab.bench.peers import PEERS
from ungated.lab.bench.summary import summarise
from ungated.lab.bench.variants import Line, Variant, line_up
from ungated.lab.cli import main
from ungated.lab.reports.speed import load_benchmarks, record_markdown
from ungated.scan import PATHS
from ungated.sizing import count_parameters

CPU = torch.device("cpu")
TOY = {
    "train": Case("train", "RRU", 9, 3, 4, 900, goals=(Goal(0.5), Goal(0.4, REFERENCE, "torch"))),
    "dropped": Case("dropped", "RRU", 9, 3, 4, 900, peers=(), dropout=0.5, goals=(Goal(9.0, WITHOUT_DROPOUT),)),
    "inference": Case("inference", "GRU", 9, 1, 4, 900, mode="inference", peers=("nn.GRU",)),
    "stream": Case("stream", "LSTM", 5, 1, 4, 900, mode="stream", peers=("nn.LSTM", "nn.LSTMCell", "nn.GRU")),
    "layers": Case("layers", "LSTM", 9, 3, 4, size=8, layers=2, same_size=True, peers=("nn.LSTM", "haste LSTM")),
}


@pytest.fixture(autouse=True)
def toy_cases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(measure, "_SHORTEST", 0.0)
    for module in (cases, session):
        monkeypatch.setattr(module, "CASES", {"cpu": TOY, "cuda": TOY})
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def bench(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["bench", "--quiet", "--json", *words]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    return record


@pytest.mark.parametrize("name", TOY)
def test_every_path_and_peer_runs_and_is_of_comparable_size(name: str) -> None:
    case = TOY[name]
    line = line_up(case, CPU, case.dtypes, compiled=False)
    kinds = [variant.kind for variant in line.variants]
    assert "torch" in kinds
    assert ("reference" if case.mode == "stream" else REFERENCE) in kinds
    assert {variant.kind for variant in line.variants} | set(line.left_out) >= {*PATHS, *case.peers}
    for variant in line.variants:
        variant.prepare()
        variant.run()
        gradients = [parameter.grad is not None for parameter in variant.module.parameters()]
        assert all(gradients) if case.mode == "train" else not any(gradients)
        if variant.role == "peer" and not case.same_size:
            assert 0.8 * line.parameters < count_parameters(variant.module) <= line.parameters
    if case.same_size:
        assert [v.module.hidden_size for v in line.variants if v.kind == "nn.LSTM"] == [8]
        assert "not installed" in line.left_out["haste LSTM"]


def test_the_real_cases_can_be_built() -> None:
    for kind in ("cpu", "cuda"):
        for name, case in CASES[kind].items():
            assert name == case.name
            assert bool(case.size) != bool(case.parameters)
            assert set(case.peers) <= set(PEERS)
            assert case.goals or case.mode == "stream"


def test_peers_of_every_dtype_and_ours_of_the_first() -> None:
    line = line_up(TOY["train"], CPU, ("bfloat16", "float32"), compiled=False)
    dtypes = {variant.name: variant.x.dtype for variant in line.variants}
    assert dtypes["torch"] == dtypes["nn.LSTM bfloat16"] == torch.bfloat16
    assert dtypes["nn.LSTM float32"] == torch.float32
    for variant in line.variants:
        variant.run()


def timing(role: str, kind: str, seconds: list[float], memory: int | None = None, path: str = "auto") -> Timing:
    variant = Variant(kind, kind, role, torch.nn.LSTM(1, 1), torch.zeros(2, 1, 1), "train", path)
    return Timing(variant, 9.0, memory, seconds=seconds)


def test_ratios_are_of_the_same_round_and_to_the_best_peer() -> None:
    goals = (Goal(0.5), Goal(0.5, "nn.GRU"), Goal(0.3, REFERENCE, what="memory"), Goal(1.0, "haste LSTM"))
    case = Case("x", "RRU", 2, 1, 1, 10, goals=goals)
    timings = [
        timing("ours", "torch", [1.0, 10.0, 3.0], memory=20, path="torch"),
        timing("peer", "nn.LSTM", [2.0, 20.0, 4.0]),
        timing("peer", "nn.GRU", [4.0, 10.0, 9.0]),
        timing("peer", REFERENCE, [8.0, 80.0, 24.0], memory=100),
    ]
    measured = Measured(Line([t.variant for t in timings], {}, "torch", 1, 10), timings, complete=True)
    entry = summarise(case, measured)
    assert entry["best_peer"] == "nn.LSTM"  # medians 4, 9 and 24
    ours = entry["variants"][0]
    assert ours["milliseconds"] == {"median": 3000, "quartiles": [2000, 6500], "all": [1000, 10000, 3000]}
    assert ours["ratio_to_best_peer"]["all"] == [0.5, 0.5, 0.75]
    assert ours["ratio_to_reference"]["median"] == 0.125
    judged = [(goal["to"], goal["ratio"], goal["met"]) for goal in entry["goals"]]
    assert judged == [("nn.LSTM", 0.5, True), ("nn.GRU", 0.3333, True), (REFERENCE, 0.2, True)]
    assert summarise(case, measured, judged=False)["goals"] == []


def test_record_and_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "kept" / "here.json"
    record = bench(capsys, "--rounds", "3", "--threads", "1", "--case", "train", "--case", "dropped", "--out", str(out))
    assert load_benchmarks(out.parent) == {out: record}
    assert record["complete"]
    assert record["machine"]["threads"] == 1
    assert "command" not in record["machine"]
    train, dropped = record["cases"]
    assert train["rounds"] == 3
    assert [goal["of"] for goal in train["goals"]] == [train["auto"], "torch"]
    assert dropped["goals"][0]["to"].endswith(WITHOUT_DROPOUT)
    assert dropped["goals"][0]["to"].startswith(dropped["goals"][0]["of"])
    for variant in train["variants"]:
        assert len(variant["milliseconds"]["all"]) == 3
        assert variant["first_call_seconds"] > 0
        assert variant["memory_bytes"] > 4 * 9 * 3 * 8
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert text == record_markdown(record, level=1) + "\n"
    for word in ("train", "nn.LSTM", "goal 0.50", "seed 0", "1 thread"):
        assert word in text


def test_memory_is_what_the_backward_pass_needs(capsys: pytest.CaptureFixture[str]) -> None:
    line = line_up(TOY["train"], CPU, ("float32",), compiled=False)
    torch_path = next(variant for variant in line.variants if variant.kind == "torch")
    before = measure.memory_of(torch_path)
    torch_path.x = torch.randn(18, 3, 4)
    after = measure.memory_of(torch_path)
    assert before is not None and after is not None
    assert 1.8 * before < after < 2.1 * before


def test_a_quick_look_is_shorter_and_judges_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    record = bench(capsys, "--quick", "--case", "train")
    assert record["cases"][0]["T"] == 8
    assert record["cases"][0]["rounds"] == session.QUICK_ROUNDS
    assert record["cases"][0]["goals"] == []
    assert "Quick look" in record_markdown(record)


def test_a_peer_that_fails_is_left_out_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    monkeypatch.setitem(PEERS, "nn.GRU", broken)
    record = bench(capsys, "--case", "inference", "--rounds", "1")
    assert record["cases"][0]["left_out"]["nn.GRU"].startswith("failed: RuntimeError: ")
    assert "nn.GRU (failed: RuntimeError" in record_markdown(record)


def test_ctrl_c_keeps_the_rounds_that_are_complete(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs, stop_at = [], 60
    timed = measure._timed
    # A shell that starts the tests in the background lets them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def counting(variant: Variant, repeats: int) -> float:
        runs.append(variant.name)
        if len(runs) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return timed(variant, repeats)

    monkeypatch.setattr(measure, "_timed", counting)
    out = tmp_path / "here.json"
    status = main(["bench", "--case", "train", "--case", "stream", "--rounds", "100", "--out", str(out)])
    signal.signal(signal.SIGINT, before)
    assert status == 75
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("ungated: stopped")
    record = json.loads(out.read_text(encoding="utf-8"))
    assert not record["complete"]
    (case,) = record["cases"]
    variants = len(case["variants"])
    assert case["rounds"] == (stop_at - 1 - 2 * variants) // (2 * variants)
    assert {len(variant["milliseconds"]["all"]) for variant in case["variants"]} == {case["rounds"]}
    assert "Stopped before its end" in captured.out


def test_the_compiled_loop_is_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda layer, **_: compiler(layer, backend="eager"))
    line = line_up(TOY["train"], CPU, ("float32",), compiled=True)
    loop, compiled = (next(v for v in line.variants if v.kind == kind) for kind in (REFERENCE, "compiled loop"))
    torch.testing.assert_close(compiled.forward(), loop.forward())
    compiled.run()
    assert compiled.role == "peer"
    torch.compiler.reset()


def test_a_compiler_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(TimeoutError, match=r"not compiled within 0\.05 s"), measure._time_limit(0.05):
        while True:
            try:
                signal.pause()
            except Exception:  # as compilers do
                continue


def test_the_first_use_of_a_compiled_path_is_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ungated.lab.bench import first_use

    monkeypatch.setattr(first_use, "CELLS", {"lstm": None})
    record = bench(capsys, "--case", "first-use")
    (entry,) = record["first_use"]
    assert (entry["path"], entry["cell"]) == ("cpu", "lstm")
    if "failed" in entry:
        assert "cannot run this call" in entry["failed"]
    else:
        assert 0 < entry["cached"] < entry["empty_cache"]
    assert "adds, empty cache" in record_markdown(record)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--case", "rru"), 'there is no case "rru" on cpu: choose from train, '),
        (("--dtype", "half"), 'there is no dtype "half" here'),
        (("--out", "x.txt"), "--out should name a file that ends with .json"),
        (("--device", "tpu"), 'there is no device "tpu"'),
    ],
)
def test_wrong_words(words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("load", "busy"), [([0.1, 9.0, 9.0], False), ([2.5, 0.0, 0.0], True), ([], False)])
def test_progress_names_cases_and_goals_and_a_busy_machine(
    load: list[float], busy: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ungated.lab.bench.machine.load", lambda: load)
    assert main(["bench", "--case", "train", "--rounds", "1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert ("load 2.5" in lines[0]) == busy
    del lines[:busy]
    assert lines[0] == "1 of 1: train"
    assert "nn.LSTM" in lines[1]
    assert any("at most 0.5" in line for line in lines)

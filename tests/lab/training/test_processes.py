"""Several processes make the updates that one would make: two under torchrun against this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ungated.lab.data import DATASETS
from ungated.lab.training.progress import Progress
from ungated.lab.training.run import RunDirectory
from ungated.lab.training.train import resume, train

from ...faults import tiny
from .together import recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of two processes in two/, of this one in one/."""
    before = dict(DATASETS)
    tiny.register()
    folder = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("together.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(script), str(folder / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    for name in ("music", "text"):
        train(RunDirectory(folder / "one" / name), recipe(name))
    yield folder
    DATASETS.clear()
    DATASETS.update(before)


def assert_alike(one: Path, two: Path) -> None:
    """Equal up to the rounding that another order of sums brings."""
    runs = RunDirectory(one), RunDirectory(two)
    for a, b in zip(*(run.metrics() for run in runs), strict=True):
        assert a["step"] == b["step"]
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
    (a, about_a), (b, about_b) = (run.read_best() for run in runs)
    assert about_a == about_b
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["music", "text"])
def test_two_processes_train_as_one(folder: Path, name: str) -> None:
    assert_alike(folder / "one" / name, folder / "two" / name)
    assert RunDirectory(folder / "two" / name).read_environment()["processes"] == 2


def test_each_may_accumulate(folder: Path) -> None:
    assert_alike(folder / "one" / "text", folder / "two" / "accumulated")


def test_stopped_and_resumed_together_to_the_same_bits(folder: Path) -> None:
    for name in ("result.json", "best.safetensors"):
        assert (folder / "two" / "here" / name).read_bytes() == (folder / "two" / "text" / name).read_bytes()


def test_one_process_goes_on_where_two_were_stopped(folder: Path) -> None:
    notices = []

    class Notes(Progress):
        def notice(self, text: str) -> None:
            notices.append(text)

    run = RunDirectory(folder / "two" / "elsewhere")
    assert not run.finished
    resume(run, progress=Notes())
    assert "processes 2 is now 1" in notices[0]
    assert_alike(folder / "one" / "text", run.path)


def test_what_stops_the_first_stops_all(folder: Path) -> None:
    lines = sorted((folder / "printed").read_text().splitlines())
    assert "finished run" in lines[0] and lines[0].startswith("0:")
    assert lines[1] == "1: process 1 stops because the first process did"


@pytest.mark.skipif(sys.platform != "linux", reason="threads have names in /proc on Linux alone")
def test_no_thread_of_the_group_outlives_it(folder: Path) -> None:
    # Gloo's would abort a process that is about to end, should it then free a tensor that Python knows.
    for rank in range(2):
        threads = (folder / "two" / f"threads-{rank}").read_text().split()
        assert threads and not [name for name in threads if "gloo" in name]

"""Training states: what is saved comes back, what is damaged is noticed, and there is always one to fall back on."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ungated.lab.errors import CheckpointError
from ungated.lab.training import checkpoint
from ungated.lab.training.checkpoint import differing, load_state, remove_states, save_state, set_aside

TIED = torch.arange(6.0).reshape(2, 3)
STATE = {
    "position": {"epoch": 3, "best": 0.1 + 0.2, "stopped": "", "none": None, "flag": True, "nan": math.nan},
    "model": {"a/b": TIED, "tied": TIED, "a~b": torch.randn(4).bfloat16(), "scalar": torch.tensor(7)},
    "optimizer": {"state": {0: {"step": torch.tensor(1.0)}, 11: {}}, "groups": [{"betas": (0.9, 0.999), "sizes": [2]}]},
    "carried": (torch.zeros(2, 0, 3), torch.ones(1, 2, 3).transpose(0, 2)),
    "random": {"torch": torch.get_rng_state(), "python": [3, [1, 2], None]},
}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def numbered(number: int) -> dict[str, object]:
    return {"number": number, "tensor": torch.full((3,), float(number))}


def load_number(run: Path) -> object:
    loaded = load_state(run)
    assert loaded is not None
    return loaded.state["number"]


def test_a_state_comes_back_with_its_types(tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    loaded = load_state(tmp_path)
    assert loaded is not None and not loaded.damaged
    assert same(loaded.state, STATE)


def test_loaded_tensors_have_aligned_memory_of_their_own(tmp_path: Path) -> None:
    save_state(tmp_path, {"odd": torch.zeros(3, dtype=torch.uint8), "a": torch.ones(5), "b": torch.ones(7)})
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert all(loaded.state[name].data_ptr() % 64 == 0 for name in ("a", "b"))


@pytest.mark.parametrize("value", [{"x": object()}, {"x": {1.5: 2}}, {"x": {True: 2}}, {"x": {1, 2}}])
def test_other_types_are_refused(tmp_path: Path, value: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        save_state(tmp_path, value)
    assert load_state(tmp_path) is None


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        save_state(tmp_path, numbered(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-000004", "state-000005"]
    assert load_number(tmp_path) == 4


def test_an_unfinished_state_does_not_count_and_goes(tmp_path: Path) -> None:
    save_state(tmp_path, numbered(1))
    path = save_state(tmp_path, numbered(2))
    (path / "manifest.json").unlink()
    assert load_number(tmp_path) == 1
    save_state(tmp_path, numbered(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-000001", "state-000003"]


def test_what_is_not_a_state_is_left_alone(tmp_path: Path) -> None:
    for name in ("state-x", "state-000001.txt", "estate-000001"):
        (tmp_path / name).mkdir()
    (tmp_path / "state-000009").write_text("a file")
    save_state(tmp_path, numbered(1))
    remove_states(tmp_path)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["estate-000001", "state-000001.txt", "state-000009", "state-x"]


def test_nothing_saved_is_no_error(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None


def flips(size: int, count: int, seed: str) -> list[int]:
    return random.Random(seed).sample(range(8 * size), min(count, 8 * size))


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_every_flipped_bit_is_noticed_named_and_fallen_back_from(tmp_path: Path, name: str) -> None:
    save_state(tmp_path, numbered(1))
    file = save_state(tmp_path, STATE) / name
    whole = file.read_bytes()
    for bit in flips(len(whole), 100, name):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        loaded = load_state(tmp_path)
        assert loaded is not None and loaded.state["number"] == 1
        ((path, sentence),) = loaded.damaged
        assert path == file.parent and str(file) in sentence


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_every_cut_is_noticed(tmp_path: Path, name: str) -> None:
    save_state(tmp_path, numbered(1))
    file = save_state(tmp_path, numbered(2)) / name
    whole = file.read_bytes()
    for size in {*random.Random(name).sample(range(len(whole)), 20), 0, len(whole) - 1}:
        file.write_bytes(whole[:size])
        assert load_number(tmp_path) == 1
    file.write_bytes(whole + b"\n")
    assert load_number(tmp_path) == 1
    file.unlink()
    assert load_number(tmp_path) == 1


def test_all_states_damaged_is_an_error_that_names_the_files(tmp_path: Path) -> None:
    files = [save_state(tmp_path, numbered(number)) / "state.json" for number in (1, 2)]
    for file in files:
        file.write_bytes(b"{}")
    with pytest.raises(CheckpointError) as error:
        load_state(tmp_path)
    assert all(str(file) in str(error.value) for file in files)


def test_a_damaged_state_set_aside_is_never_counted_again(tmp_path: Path) -> None:
    save_state(tmp_path, numbered(1))
    damaged = save_state(tmp_path, numbered(2))
    (damaged / "state.json").write_bytes(b"{}")
    loaded = load_state(tmp_path)
    assert loaded is not None
    for path, _ in loaded.damaged:
        set_aside(path)
    save_state(tmp_path, numbered(3))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["damaged-state-000002", "state-000001", "state-000002"]
    loaded = load_state(tmp_path)
    assert loaded is not None and loaded.state["number"] == 3 and not loaded.damaged


@pytest.mark.parametrize(("offset", "word"), [(1, "newer"), (-1, "older")])
def test_another_format_is_refused_and_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, word: str
) -> None:
    save_state(tmp_path, numbered(1))
    with monkeypatch.context() as other_version:
        other_version.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + offset)
        save_state(tmp_path, numbered(2))
    sentence = f"format {checkpoint.FORMAT + offset}.*reads {checkpoint.FORMAT}.*{word}"
    with pytest.raises(CheckpointError, match=sentence):
        load_state(tmp_path)


def test_no_file_is_a_pickle(tmp_path: Path) -> None:
    path = save_state(tmp_path, STATE)
    assert json.loads((path / "manifest.json").read_bytes())["format"] == checkpoint.FORMAT
    assert json.loads((path / "state.json").read_bytes())
    assert int.from_bytes((path / "tensors.safetensors").read_bytes()[:8], "little") < 10_000


DISK_FULL = """
import resource, sys
from pathlib import Path
import torch
from ungated.lab.errors import CheckpointError
from ungated.lab.training.checkpoint import load_state, save_state

run = Path(sys.argv[1])
old = {"number": 1, "tensor": torch.zeros(500)}
new = {"number": 2, "tensor": torch.ones(500), "list": list(range(300))}
save_state(run, old)
for limit in [0, 1, 100, 250, 350, 900, 1000, 1500, 2000, 2060]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save_state(run, new)
    except CheckpointError as error:
        message = str(error)
    else:
        message = "saved"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "not saved" in message and "free" in message and str(run) in message, (limit, message)
    assert [path.name for path in run.iterdir()] == ["state-000001"], limit
    assert load_state(run).state["number"] == 1
save_state(run, new)
assert load_state(run).state["number"] == 2
print("done")
"""


def test_a_full_disk_costs_no_state(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DISK_FULL, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


def test_a_read_only_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match=f"{tmp_path}.*Permission denied"):
        save_state(tmp_path, numbered(1))


def test_differing_names_every_entry() -> None:
    before = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1, 2]}
    assert differing(before, {"a": 1, "b": {"c": 2, "d": 3}, "e": [1, 2]}) == ""
    assert differing(before, {"a": 2, "b": {"c": 2, "d": 4}, "f": 0}) == (
        "a was 1, is 2; b.d was 3, is 4; e was [1, 2], is None; f was None, is 0"
    )

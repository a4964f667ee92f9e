"""Which path runs: argument, `with` block, environment, in this order."""

from __future__ import annotations

import threading

import pytest
import torch

import ungated
from ungated.scan import BACKENDS, PATHS, chosen_backend, scan


def test_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNGATED_BACKEND", raising=False)
    assert chosen_backend() == "auto"
    monkeypatch.setenv("UNGATED_BACKEND", "")
    assert chosen_backend() == "auto"


def test_order_of_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNGATED_BACKEND", "reference")
    assert chosen_backend() == "reference"
    with ungated.backend("auto"):
        assert chosen_backend() == "auto"
        assert chosen_backend("reference") == "reference"
        with ungated.backend("reference"):
            assert chosen_backend() == "reference"
        assert chosen_backend() == "auto"
    assert chosen_backend() == "reference"


def test_an_error_inside_the_block_restores_the_choice() -> None:
    before = chosen_backend()
    with pytest.raises(RuntimeError, match="inside"), ungated.backend("reference"):
        raise RuntimeError("inside")
    assert chosen_backend() == before


def test_another_thread_is_not_affected() -> None:
    seen: list[str] = []
    before = chosen_backend()
    with ungated.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(chosen_backend()))
        thread.start()
        thread.join()
    assert seen == [before]


def test_unknown_names_are_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = ungated.LSTMCell(2, 3)
    drive, state = cell.project(torch.zeros(1, 1, 2)), cell.initial_state(1)
    message = rf"unknown backend 'fastest': choose one of {', '.join(BACKENDS)}"
    with pytest.raises(ValueError, match=message):
        scan(cell, drive, state, backend="fastest")
    with pytest.raises(ValueError, match=message), ungated.backend("fastest"):
        pass
    monkeypatch.setenv("UNGATED_BACKEND", "fastest")
    with pytest.raises(ValueError, match=message):
        scan(cell, drive, state)


@pytest.mark.parametrize("cell_name", ungated.CELLS)
@pytest.mark.parametrize("name", BACKENDS)
def test_a_path_that_is_forced_gives_the_reference_s_result_or_says_why_not(name: str, cell_name: str) -> None:
    torch.manual_seed(0)
    cell = ungated.CELLS[cell_name](2, 3)
    drive, state = cell.project(torch.randn(6, 4, 2)), cell.initial_state(4)
    want = scan(cell, drive, state, backend="reference")
    with ungated.backend(name):
        try:
            got = scan(cell, drive, state)
        except RuntimeError as error:
            assert name not in ("auto", "reference")
            assert f"backend {name!r} cannot run this call: " in str(error)
            return
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(scan(cell, drive, state, backend=name), want)


def test_a_path_that_is_not_written_for_a_cell_says_so() -> None:
    missing = [
        (path, name) for path, cells in PATHS.items() for name, cell in ungated.CELLS.items() if cell not in cells
    ]
    for path, name in missing:
        cell = ungated.CELLS[name](2, 3)
        with pytest.raises(RuntimeError, match=f"it is not written for {type(cell).__name__}"):
            scan(cell, cell.project(torch.zeros(5, 1, 2)), cell.initial_state(1), backend=path)
    assert missing, "every path runs every cell: this test can go"

"""Memory of large tensors that is used again."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import ungated
from ungated import pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="torch's own memory elsewhere")

LARGE = 1 << 20  # floats: two huge pages
FLOATS = torch.empty(0)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gc.collect()
    monkeypatch.setattr(pages, "_left", [])
    yield


def left() -> int:
    return sum(map(len, pages._left))


def test_it_is_used_again_once_no_view_of_it_is_left() -> None:
    first = pages.fresh(FLOATS, LARGE)
    address, view = first.data_ptr(), first.view(2, -1)[1]
    del first
    assert pages.fresh(FLOATS, LARGE).data_ptr() != address
    view.fill_(3.0)
    assert float(view.sum()) == 3.0 * LARGE / 2
    del view
    assert address in {pages.fresh(FLOATS, LARGE).data_ptr(), pages.fresh(FLOATS, LARGE - 5).data_ptr()}


def test_two_at_once_are_apart() -> None:
    one, other = (pages.fresh(FLOATS, 3, LARGE) for _ in range(2))
    one.fill_(1.0)
    other.fill_(2.0)
    assert float(one.sum()) == 3.0 * LARGE


def test_a_little_less_fits_and_far_less_does_not() -> None:
    pages.fresh(FLOATS, 8 * LARGE)
    kept = left()
    assert kept >= 32 * LARGE
    somewhat_less = pages.fresh(FLOATS, 7 * LARGE)
    assert left() == 0
    del somewhat_less
    far_less = pages.fresh(FLOATS, LARGE)
    assert left() == kept
    assert far_less.shape == (LARGE,)


def test_what_is_kept_has_a_limit_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "KEPT", 20 * LARGE)
    for size in (4 * LARGE, LARGE // 2, 6 * LARGE):  # four bytes each: the last is above the limit by itself
        pages.fresh(FLOATS, size)
    assert left() == 16 * LARGE + 2 * LARGE
    pages.fresh(FLOATS, 3 * LARGE // 2)
    assert left() == 2 * LARGE + 6 * LARGE


def test_without_memory_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(pages.mmap, "mmap", no_memory)
    assert pages.fresh(FLOATS, LARGE).shape == (LARGE,)


def test_dtype_and_poison() -> None:
    made = pages.fresh(torch.empty(0, dtype=torch.float64), 2, LARGE)
    assert made.dtype == torch.float64
    del made
    torch.use_deterministic_algorithms(True)
    try:
        assert pages.fresh(FLOATS, 4 * LARGE).isnan().all()
    finally:
        torch.use_deterministic_algorithms(False)


def test_many_threads() -> None:
    wrong = []

    def work(number: int) -> None:
        for _ in range(20):
            mine = pages.fresh(FLOATS, LARGE)
            mine[::4096] = number
            if not bool((mine[::4096] == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_gradients_that_are_held_keep_their_numbers() -> None:
    """Two backward passes of one graph, and others between: each gradient is its own."""
    torch.manual_seed(0)
    layer, x = ungated.RRU(4, 96), torch.randn(150, 40, 4)

    def gradients() -> list[Tensor]:
        output, _ = layer(x)
        return list(torch.autograd.grad(output.square().sum(), list(layer.parameters())))

    first = gradients()
    copies = [gradient.clone() for gradient in first]
    torch.nn.init.normal_(layer.get_parameter("cells.0.Z"))
    gradients()
    assert all(torch.equal(one, other) for one, other in zip(first, copies, strict=True))

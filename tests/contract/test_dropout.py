"""Dropout: where it acts, that it can be repeated, and that the masks are the same for every path."""

from __future__ import annotations

import pytest
import torch

from ungated.rnn import RNN
from ungated.scan import backend

from .conftest import fast_paths_of
from .entries import Entry, assert_close, assert_equal, parts, random_state


def with_dropout(entry: Entry) -> Entry:
    if not entry.dropouts():
        pytest.skip("this cell has no dropout of its own")
    return entry


def test_the_cell_s_dropout_acts_in_training_only(entry: Entry) -> None:
    layer = with_dropout(entry).layer(3, 16, dropped=True)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    a, b = layer(x)[0], layer(x)[0]
    assert not torch.allclose(a, b)
    layer.eval()
    assert_equal(layer(x)[0], layer(x)[0])
    assert_equal(layer(x)[0], entry.layer(3, 16)(x)[0])


def test_same_seed_same_masks(entry: Entry) -> None:
    layer = with_dropout(entry).layer(3, 16, 2, dropped=True, dropout=0.5)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    results = []
    for _ in range(2):
        torch.manual_seed(11)
        results.append(layer(x))
    assert_equal(*results)


def test_masks_drawn_before_are_used_on_every_path(entry: Entry) -> None:
    layer = with_dropout(entry).layer(3, 5, 2, bidirectional=True, dropped=True, dtype=torch.float32)
    x, state = torch.randn(6, 4, 3), random_state(layer, 4)
    noise = layer.noise(6, 4)
    with backend("reference"):
        want = layer(x, state, noise=noise)
    for name in ("auto", "reference", *fast_paths_of(entry)):
        with backend(name):
            assert_close(layer.train()(x, state, noise=noise), want)
            assert not torch.allclose(layer(x, state)[0], want[0])
            assert_close(layer.eval()(x, state, noise=noise), want)  # masks that are given hold in eval too


def test_step_in_training_draws_fresh_masks(entry: Entry) -> None:
    layer = with_dropout(entry).layer(3, 16, dropped=True)
    x, state = torch.randn(4, 3, dtype=torch.float64), random_state(layer, 4)
    first, second = (parts(layer.step(x, state)[1])[-1] for _ in range(2))
    assert not torch.allclose(first, second)
    layer.eval()
    assert_equal(layer.step(x, state), layer.step(x, state))


def test_dropout_between_layers_spares_the_last(entry: Entry) -> None:
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    one = entry.layer(3, 16, 1, dropout=0.9)
    assert_equal(one(x), entry.layer(3, 16, 1)(x))

    two, plain = entry.layer(3, 16, 2, dropout=0.5), entry.layer(3, 16, 2)
    y, last = two(x)
    y_plain, last_plain = plain(x)
    assert not torch.allclose(y, y_plain)
    for got, want in zip(parts(last), parts(last_plain), strict=True):
        assert_equal(got[0], want[0])  # layer 1 is before any dropout
        assert not torch.allclose(got[1], want[1])
    assert_equal(two.eval()(x), plain(x))


def test_dropout_between_layers_is_inverted_and_fresh_at_every_entry(entry: Entry) -> None:
    """What layer 2 receives: the outputs of layer 1, each entry 0 or twice itself."""
    layer = entry.layer(3, 16, 2, dropout=0.5)
    seen = []
    project = layer.cells[1].project
    layer.cells[1].project = lambda x, noise=None: seen.append(x) or project(x, noise)
    x = torch.randn(20, 4, 3, dtype=torch.float64)
    layer(x)
    del layer.cells[1].project
    one = RNN(lambda *_, **__: layer.cells[0], 3, 16)
    (received,), (sent, _) = seen, one(x)
    dropped = received == 0
    assert_close(received, torch.where(dropped, 0.0, 2.0 * sent))
    assert 0.4 < dropped.double().mean() < 0.6
    assert not torch.equal(dropped[0], dropped[1])
    assert not torch.equal(dropped[:, 0], dropped[:, 1])


def test_monte_carlo_mean_of_dropped_passes_is_near_the_whole(entry: Entry) -> None:
    """Inverted dropout keeps the scale: rates are of dropping, and kept entries are raised."""
    with_dropout(entry)
    layer = RNN(entry.cell, 3, 64, dtype=torch.float64, **entry.options, **dict.fromkeys(entry.dropouts(), 0.1))
    plain = RNN(entry.cell, 3, 64, dtype=torch.float64, **entry.options)
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith(".Z"):
                parameter.fill_(0.1)
        layer.load_state_dict(plain.state_dict())
        x = torch.randn(2, 3, dtype=torch.float64)
        mean = torch.stack([parts(layer.step(x)[1])[-1] for _ in range(400)]).mean(0)
        whole = parts(plain.step(x)[1])[-1]
    assert (mean - whole).norm() < 0.1 * whole.norm()

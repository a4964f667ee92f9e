"""LSTM and GRU(reset="after") are torch.nn's: outputs, states and gradients from the same weights, to 1e-10."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ungated.cells.cell import State
from ungated.layers import GRU, LSTM
from ungated.rnn import RNN

from .entries import draws, parts

PAIRS: dict[str, tuple[type[nn.RNNBase], Any]] = {"lstm": (nn.LSTM, LSTM), "gru": (nn.GRU, GRU)}
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def pair(name: str, *sizes: int, **options: Any) -> tuple[nn.RNNBase, RNN]:
    torch.manual_seed(0)
    theirs, ours = PAIRS[name]
    peer = theirs(*sizes, **options).double()
    return peer, ours.from_torch(peer)


def named_gradients(layer: RNN, peer: nn.RNNBase) -> dict[str, tuple[Tensor, Tensor]]:
    """Gradients of both under torch's names; ours transposed, in torch's order of the gates."""
    n, found = peer.hidden_size, {}
    for k, cell in enumerate(layer.cells):
        suffix = f"_l{k // layer.directions}" + ("_reverse" if k % layer.directions else "")
        g = {parameter: value.grad for parameter, value in cell.named_parameters()}
        if isinstance(peer, nn.LSTM):
            i, j, f, o = range(4)
            order = torch.cat([torch.arange(n) + n * gate for gate in (i, f, j, o)])
            ours = {"weight_ih": g["W_x"].T[order], "weight_hh": g["W_h"].T[order]}
            ours |= {"bias_ih": g["b"][order], "bias_hh": g["b"][order]}
        else:
            ours = {
                "weight_ih": torch.cat([g["W_xg"], g["W_xc"]], dim=1).T,
                "weight_hh": torch.cat([g["W_hg"], g["W_hc"]], dim=1).T,
                "bias_ih": torch.cat([g["b_g"], g["b_c"]]),
                "bias_hh": torch.cat([g["b_g"], g["b_hc"]]),
            }
        for kind, value in ours.items():
            if peer.bias or not kind.startswith("bias"):
                found[kind + suffix] = (value, getattr(peer, kind + suffix).grad)
    return found


def assert_same(
    layer: RNN, peer: nn.RNNBase, x: Tensor, state: State | None = None, lengths: Tensor | None = None
) -> None:
    x_ours, x_theirs = (x.clone().requires_grad_() for _ in range(2))
    y, last = layer(x_ours, state, lengths)
    if lengths is None:
        y_peer, last_peer = peer(x_theirs, state)
    else:
        packed = pack_padded_sequence(x_theirs, lengths, batch_first=peer.batch_first, enforce_sorted=False)
        y_peer, last_peer = peer(packed, state)
        time = x.shape[1 if peer.batch_first else 0]
        y_peer, _ = pad_packed_sequence(y_peer, batch_first=peer.batch_first, total_length=time)
    torch.testing.assert_close(y, y_peer, **EXACT)
    torch.testing.assert_close(parts(last), parts(last_peer), **EXACT)
    upstream = torch.randn_like(y)
    for output, end in ((y, last), (y_peer, last_peer)):
        ((output * upstream).sum() + sum(part.square().sum() for part in parts(end))).backward()
    torch.testing.assert_close(x_ours.grad, x_theirs.grad, **EXACT)
    compared = named_gradients(layer, peer)
    assert {name for name, _ in peer.named_parameters()} == set(compared)
    for name, (ours, theirs) in compared.items():
        torch.testing.assert_close(ours, theirs, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@draws
@given(
    name=st.sampled_from(["lstm", "gru"]),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(1, 20), st.integers(1, 20)),
    layers=st.integers(1, 3),
    options=st.fixed_dictionaries({key: st.booleans() for key in ("bidirectional", "batch_first", "bias")}),
    data=st.data(),
)
def test_drawn_shapes(
    name: str, shape: tuple[int, int, int, int], layers: int, options: dict[str, bool], data: st.DataObject
) -> None:
    T, B, m, n = shape
    peer, layer = pair(name, m, n, layers, **options)
    x = torch.randn((B, T, m) if options["batch_first"] else (T, B, m), dtype=torch.float64)
    like = layer.initial_state(B)
    state = tuple(torch.randn_like(p) for p in like) if isinstance(like, tuple) else torch.randn_like(like)
    given_lengths = data.draw(st.none() | st.lists(st.integers(1, T), min_size=B, max_size=B))
    lengths = None if given_lengths is None else torch.tensor(given_lengths)
    assert_same(layer, peer, x, data.draw(st.sampled_from([None, state])), lengths)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 9, 1, 9]], ids=["full", "ragged"])
def test_outputs_states_and_gradients(name: str, layers: int, bidirectional: bool, lengths: list[int] | None) -> None:
    peer, layer = pair(name, 5, 7, layers, bidirectional=bidirectional)
    x = torch.randn(9, 4, 5, dtype=torch.float64)
    assert_same(layer, peer, x, None, None if lengths is None else torch.tensor(lengths))


@pytest.mark.parametrize("name", PAIRS)
def test_unbatched(name: str) -> None:
    peer, layer = pair(name, 5, 7, 2, bidirectional=True)
    x = torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), peer(x), **EXACT)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_in_packed_out(name: str, enforce_sorted: bool) -> None:
    peer, layer = pair(name, 5, 7, 2, bidirectional=True, batch_first=True)
    lengths = torch.tensor([9, 6, 6, 1] if enforce_sorted else [6, 9, 1, 6])
    x = torch.randn(4, 9, 5, dtype=torch.float64)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=enforce_sorted)
    (y, last), (y_peer, last_peer) = layer(packed), peer(packed)
    torch.testing.assert_close(y.data, y_peer.data, **EXACT)
    torch.testing.assert_close(y.batch_sizes, y_peer.batch_sizes)
    torch.testing.assert_close(last, last_peer, **EXACT)
    for ours, theirs in ((y.sorted_indices, y_peer.sorted_indices), (y.unsorted_indices, y_peer.unsorted_indices)):
        assert ours is None is theirs or torch.equal(ours, theirs)


@pytest.mark.parametrize("name", PAIRS)
def test_conversion_takes_over_the_settings(name: str) -> None:
    theirs, ours = PAIRS[name]
    peer = theirs(5, 7, 2, batch_first=True, dropout=0.25, bidirectional=True)
    layer = ours.from_torch(peer)
    assert type(layer) is ours
    for setting in ("input_size", "hidden_size", "num_layers", "batch_first", "dropout", "bidirectional"):
        assert getattr(layer, setting) == getattr(peer, setting)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
    before = layer.state_dict()["cells.0.W_x" if name == "lstm" else "cells.0.W_xc"].clone()
    with torch.no_grad():
        peer.weight_ih_l0.zero_()
    assert torch.equal(layer.state_dict()["cells.0.W_x" if name == "lstm" else "cells.0.W_xc"], before)


def test_projections_are_refused() -> None:
    with pytest.raises(ValueError, match="proj_size should be 0, got 3"):
        LSTM.from_torch(nn.LSTM(5, 7, proj_size=3))


def test_gru_with_reset_before_is_another_function() -> None:
    peer, layer = pair("gru", 5, 7)
    other = GRU(5, 7, dtype=torch.float64)
    other.load_state_dict({name: value for name, value in layer.state_dict().items() if "b_hc" not in name})
    x = torch.randn(9, 4, 5, dtype=torch.float64)
    assert not torch.allclose(other(x)[0], peer(x)[0])


def test_lstm_forget_bias_is_torch_s_bias_plus_a_constant() -> None:
    peer, layer = pair("lstm", 5, 7)
    other = LSTM(5, 7, forget_bias=1.0, dtype=torch.float64)
    state = layer.state_dict()
    state["cells.0.b"] = state["cells.0.b"].clone()
    state["cells.0.b"][2 * 7 : 3 * 7] -= 1.0  # columns i, j, f, o
    other.load_state_dict(state)
    x = torch.randn(9, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(other(x), peer(x), **EXACT)

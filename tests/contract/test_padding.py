"""Ragged batches: how lengths may be given, what they hide, and how wrong ones are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, unpack_sequence

from ungated.cells.cell import map_state

from .entries import Entry, assert_close, assert_equal, gradients, parts, random_state

LENGTHS = [2, 5, 1, 3]


def ragged(entry: Entry, **options: Any) -> tuple[Any, torch.Tensor]:
    layer = entry.layer(num_layers=2, bidirectional=True, **options)
    return layer, torch.randn(5, 4, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    "lengths",
    [
        LENGTHS,
        tuple(LENGTHS),
        torch.tensor(LENGTHS),
        torch.tensor(LENGTHS, dtype=torch.int32),
        torch.tensor(LENGTHS, dtype=torch.uint8),
        torch.tensor([[2, 0], [5, 0], [1, 0], [3, 0]])[:, 0],
    ],
    ids=["list", "tuple", "int64", "int32", "uint8", "strided"],
)
def test_lengths_may_come_in_any_form(entry: Entry, lengths: Any) -> None:
    layer, x = ragged(entry)
    want = layer(x, None, torch.tensor(LENGTHS))
    assert_equal(layer(x, lengths=lengths), want)


def test_full_lengths_change_nothing(entry: Entry) -> None:
    layer, x = ragged(entry)
    assert_equal(layer(x, lengths=[5] * 4), layer(x))


def test_outputs_in_the_padding_are_zero_and_the_state_is_of_the_last_step(entry: Entry) -> None:
    layer, x = ragged(entry)
    y, last = layer(x, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        assert torch.count_nonzero(y[length:, row]) == 0
        assert torch.count_nonzero(y[:length, row]) > 0
        y_alone, last_alone = layer(x[:length, row : row + 1])
        assert_close(y[:length, row : row + 1], y_alone)
        assert_close(map_state(lambda part, row=row: part[:, row : row + 1], last), last_alone)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e300])
def test_poison_in_the_padding_reaches_nothing(entry: Entry, poison: float) -> None:
    layer, x = ragged(entry, dropped=True, dropout=0.3)
    for row, length in enumerate(LENGTHS):
        x[length:, row] = poison
    x.requires_grad_()
    state = map_state(lambda part: part.requires_grad_(), random_state(layer, 4))
    y, last = layer(x, state, LENGTHS)
    found = gradients(layer, y.square().sum(), *(p.square().sum() for p in parts(last)), also=(x, *parts(state)))
    assert all(tensor.isfinite().all() for tensor in (y, *parts(last), *found))


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_gradients_equal_padded_gradients(entry: Entry, enforce_sorted: bool) -> None:
    layer, x = ragged(entry)
    lengths = torch.tensor(sorted(LENGTHS, reverse=True) if enforce_sorted else LENGTHS)
    x.requires_grad_()
    y, last = layer(x, lengths=lengths)
    packed, last_packed = layer(pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted))
    assert isinstance(packed, PackedSequence)
    want = gradients(layer, y.square().sum(), *(part.sum() for part in parts(last)), also=(x,))
    got = gradients(layer, packed.data.square().sum(), *(part.sum() for part in parts(last_packed)), also=(x,))
    assert_close(got, want)


def test_packed_output_feeds_the_next_layer(entry: Entry) -> None:
    first, second = entry.layer(3, 4), entry.layer(entry.layer(3, 4).output_size, 2)
    sequences = [torch.randn(length, 3, dtype=torch.float64) for length in LENGTHS]
    packed, _ = first(pack_sequence(sequences, enforce_sorted=False))
    y, _ = second(packed)
    for got, sequence in zip(unpack_sequence(y), sequences, strict=True):
        assert_close(got, second(first(sequence)[0])[0])


def test_packed_ignores_batch_first_as_torch_does(entry: Entry) -> None:
    time_first, batch_first = entry.layer(), entry.layer(batch_first=True)
    packed = pack_padded_sequence(torch.randn(5, 4, 3, dtype=torch.float64), torch.tensor([5, 4, 2, 1]))
    assert_equal(batch_first(packed)[0].data, time_first(packed)[0].data)


@pytest.mark.parametrize("packed", [False, True])
def test_state_of_an_unsorted_batch_is_in_the_caller_s_order(entry: Entry, packed: bool) -> None:
    layer, x = ragged(entry)
    state = random_state(layer, 4)
    lengths = torch.tensor(LENGTHS)
    if packed:
        _, last = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), state)
    else:
        _, last = layer(x, state, lengths)
    row = 1
    _, alone = layer(x[:5, row : row + 1], map_state(lambda part: part[:, row : row + 1], state))
    assert_close(map_state(lambda part: part[:, row : row + 1], last), alone)


def test_empty_batch_with_lengths(entry: Entry) -> None:
    layer = entry.layer()
    y, last = layer(torch.randn(5, 0, 3, dtype=torch.float64), lengths=torch.zeros(0, dtype=torch.int64))
    assert y.shape == (5, 0, layer.output_size)
    assert all(part.shape == (1, 0, 4) for part in parts(last))


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([2, 0, 1, 3], ValueError, r"lengths .*1\.\.5.* got 0 at index 1"),
        ([2, 5, -1, 3], ValueError, r"lengths .*1\.\.5.* got -1 at index 2"),
        ([2, 5, 1, 6], ValueError, r"lengths .*1\.\.5.* got 6 at index 3"),
        (torch.tensor([6, 5, 1, 6]), ValueError, r"lengths .*1\.\.5.* got 6 at index 0"),
        ([2, 5, 1], ValueError, r"lengths .*\(4,\).* got \(3,\)"),
        (torch.tensor([LENGTHS]), ValueError, r"lengths .*\(4,\).* got \(1, 4\)"),
        (3, ValueError, r"lengths .*\(4,\).* got \(\)"),
        ([2.0, 5.0, 1.0, 3.0], TypeError, r"lengths .*integers.* got torch\.float"),
        (torch.ones(4, dtype=torch.bool), TypeError, r"lengths .*integers.* got torch\.bool"),
    ],
)
def test_wrong_lengths_are_refused(entry: Entry, lengths: Any, error: type[Exception], message: str) -> None:
    layer, x = ragged(entry)
    with pytest.raises(error, match=message):
        layer(x, lengths=lengths)


def test_packed_with_lengths_is_refused(entry: Entry) -> None:
    layer, x = ragged(entry)
    packed = pack_padded_sequence(x, torch.tensor([5, 4, 2, 1]))
    with pytest.raises(ValueError, match=re.compile("lengths .*PackedSequence")):
        layer(packed, lengths=[5, 4, 2, 1])

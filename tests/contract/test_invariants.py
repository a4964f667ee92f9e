"""What holds for every cell at every size, drawn by Hypothesis.

Bit-equal where the same operations run on the same shapes, else up to the rounding of another summation order.
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ungated.cells.cell import map_state
from ungated.rnn import RNN
from ungated.scan import backend, scan

from .entries import (
    Entry,
    Problem,
    assert_close,
    assert_equal,
    draws,
    gradients,
    parts,
    problems,
    random_state,
)


def lengths_for(data: st.DataObject, problem: Problem) -> torch.Tensor:
    drawn = data.draw(st.lists(st.integers(1, problem.T), min_size=problem.B, max_size=problem.B))
    return torch.tensor(drawn, dtype=torch.int64)


@draws
@given(problem=problems(min_T=2, min_B=1), data=st.data())
def test_whole_equals_pieces_with_the_state_carried(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    layer, x = problem.layer(entry), problem.x()
    cut = data.draw(st.integers(1, problem.T - 1))
    with torch.no_grad():
        whole, last = layer(x)
        first, middle = layer(x[:cut])
        second, end = layer(x[cut:], middle)
    assert_close((torch.cat([first, second]), end), (whole, last), problem.scale)


@draws
@given(problem=problems(min_T=2), data=st.data())
def test_reference_in_pieces_is_bit_equal_on_the_reference(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    layer, x = problem.layer(entry), problem.x()
    cell, cut = layer.cells[0], data.draw(st.integers(1, problem.T - 1))
    with torch.no_grad(), backend("reference"):
        drive = cell.project(x)
        whole, last = scan(cell, drive, cell.initial_state(problem.B))
        first, middle = scan(cell, drive[:cut], cell.initial_state(problem.B))
        second, end = scan(cell, drive[cut:], middle)
    assert_equal((torch.cat([first, second]), end), (whole, last))


@draws
@given(problem=problems(min_T=2, min_B=1), data=st.data())
def test_the_future_leaves_the_past_alone(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    layer, x = problem.layer(entry), problem.x()
    t = data.draw(st.integers(1, problem.T - 1))
    changed = x.clone()
    changed[t:] = data.draw(st.sampled_from([0.0, -3.0, float("nan"), float("inf")]))
    with torch.no_grad():
        assert_equal(layer(changed)[0][:t], layer(x)[0][:t])


@draws
@given(problem=problems(min_B=2), data=st.data())
def test_one_row_leaves_the_others_alone(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    layer, x = problem.layer(entry, bidirectional=data.draw(st.booleans())), problem.x()
    row = data.draw(st.integers(0, problem.B - 1))
    others = [i for i in range(problem.B) if i != row]
    changed = x.clone()
    changed[:, row] = data.draw(st.sampled_from([0.0, -3.0, float("nan"), float("inf")]))
    with torch.no_grad():
        (y, state), (y_changed, state_changed) = layer(x), layer(changed)
    assert_equal(y_changed[:, others], y[:, others])
    for got, want in zip(parts(state_changed), parts(state), strict=True):
        assert_equal(got[:, others], want[:, others])


@draws
@given(problem=problems(min_B=1), data=st.data())
def test_padding_changes_nothing(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    layer = problem.layer(entry, bidirectional=data.draw(st.booleans()))
    lengths = lengths_for(data, problem)
    real = (torch.arange(problem.T)[:, None] < lengths).unsqueeze(-1)
    base = problem.x()
    results = []
    for padding in (0.0, data.draw(st.sampled_from([1.0, -1e30, float("nan"), float("inf")]))):
        x = torch.where(real, base, padding).requires_grad_()
        state = map_state(lambda part: part.requires_grad_(), random_state_of(layer, problem))
        y, last = layer(x, state, lengths)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        losses = ((y * weights).sum(), *(part.square().sum() for part in parts(last)))
        results.append((y.detach(), last, gradients(layer, *losses, also=(x, *parts(state)))))
        assert torch.count_nonzero(y.masked_select(~real)) == 0
        x_gradient = results[-1][2][len(list(layer.parameters()))]
        assert torch.count_nonzero(x_gradient.masked_select(~real)) == 0
    assert_equal(results[1], results[0])


def random_state_of(layer: RNN, problem: Problem) -> torch.Tensor | tuple[torch.Tensor, ...]:
    torch.manual_seed(5)
    return random_state(layer, problem.B)


@draws
@given(problem=problems(min_B=1), data=st.data())
def test_ragged_batch_equals_each_sequence_alone(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    layer, x = problem.layer(entry, bidirectional=data.draw(st.booleans())), problem.x()
    lengths, state = lengths_for(data, problem), random_state(layer, problem.B)
    with torch.no_grad():
        y, last = layer(x, state, lengths)
        for row, length in enumerate(lengths.tolist()):
            own = map_state(lambda part, row=row: part[:, row : row + 1], state)
            y_alone, last_alone = layer(x[:length, row : row + 1], own)
            assert_close(y[:length, row : row + 1], y_alone, problem.scale)
            assert_close(map_state(lambda part, row=row: part[:, row : row + 1], last), last_alone, problem.scale)


@draws
@given(problem=problems(), data=st.data())
def test_permuting_the_batch_permutes_the_result(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    layer, x = problem.layer(entry), problem.x()
    state, order = random_state(layer, problem.B), data.draw(st.permutations(range(problem.B)))
    with torch.no_grad():
        y, last = layer(x, state)
        y_permuted, last_permuted = layer(x[:, order], map_state(lambda part: part[:, order], state))
    assert_close(
        (y_permuted, last_permuted), (y[:, order], map_state(lambda part: part[:, order], last)), problem.scale
    )


@draws
@given(problem=problems())
def test_step_by_step_equals_the_sequence(entry: Entry, problem: Problem) -> None:
    layer, x = problem.layer(entry), problem.x()
    with torch.no_grad():
        y, last = layer(x)
        state, outputs = None, []
        for x_t in x:
            y_t, state = layer.step(x_t, state)
            outputs.append(y_t)
    assert_close((torch.stack(outputs), state), (y, last), problem.scale)


@draws
@given(problem=problems(), data=st.data())
def test_unbatched_equals_a_batch_of_one(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    layer = problem.layer(entry, bidirectional=data.draw(st.booleans()), batch_first=data.draw(st.booleans()))
    x, state = torch.randn(problem.T, problem.I, dtype=problem.dtype), random_state(layer, None)
    batch_dim = 0 if layer.batch_first else 1
    with torch.no_grad():
        y, last = layer(x, state)
        y_one, last_one = layer(x.unsqueeze(batch_dim), map_state(lambda part: part.unsqueeze(1), state))
    assert_equal(y, y_one.squeeze(batch_dim))
    assert_equal(last, map_state(lambda part: part.squeeze(1), last_one))


@draws
@given(problem=problems(min_B=1), data=st.data())
def test_bidirectional_equals_two_runs_and_a_flip(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    both = problem.layer(entry, bidirectional=True)
    x, state = problem.x(), random_state(both, problem.B)
    lengths = lengths_for(data, problem) if data.draw(st.booleans()) else None
    size = both.cells[0].output_size

    def flipped(tensor: torch.Tensor) -> torch.Tensor:
        if lengths is None:
            return tensor.flip(0)
        result = tensor.clone()
        for row, length in enumerate(lengths.tolist()):
            result[:length, row] = tensor[:length, row].flip(0)
        return result

    with torch.no_grad():
        y, last = both(x, state, lengths)
        for layer in range(problem.layers):
            results = []
            for direction in range(2):
                index = 2 * layer + direction
                one = RNN(lambda *sizes, index=index, **_: both.cells[index], both.cells[index].input_size, problem.H)
                own = map_state(lambda part, index=index: part[index : index + 1], state)
                out, end = one(flipped(x) if direction else x, own, lengths)
                results.append(flipped(out) if direction else out)
                assert_close(map_state(lambda part, index=index: part[index : index + 1], last), end, problem.scale)
            x = torch.cat(results, dim=-1)
    assert y.shape[-1] == 2 * size == both.output_size
    assert_close(y, x, problem.scale)


@draws
@given(problem=problems(min_B=1), data=st.data())
def test_packed_equals_padded_with_lengths(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    layer = problem.layer(entry, bidirectional=data.draw(st.booleans()))
    x, state, lengths = problem.x(), random_state(layer, problem.B), lengths_for(data, problem)
    sort = data.draw(st.booleans())
    if sort:
        lengths = lengths.sort(descending=True).values
    packed = pack_padded_sequence(x, lengths, enforce_sorted=sort)
    with torch.no_grad():
        y, last = layer(x, state, lengths)
        y_packed, last_packed = layer(packed, state)
    assert_equal(y_packed.batch_sizes, packed.batch_sizes)
    y_back, lengths_back = pad_packed_sequence(y_packed, total_length=problem.T)
    assert_equal(lengths_back, lengths)
    assert_close((y_back, last_packed), (y, last), problem.scale)


@draws
@given(problem=problems(), data=st.data())
def test_dropout_is_the_identity_in_eval(entry: Entry, problem: Problem, data: st.DataObject) -> None:
    plain, dropped = problem.layer(entry), problem.layer(entry, dropped=True, dropout=0.5).eval()
    x = problem.x()
    with torch.no_grad():
        assert_equal(dropped(x), plain(x))


def test_input_and_state_both_matter(entry: Entry) -> None:
    layer = entry.layer(5, 16, 2)
    x, state = torch.randn(3, 4, 5, dtype=torch.float64), random_state(layer, 4)
    with torch.no_grad():
        y, last = layer(x, state)
        y_state, last_state = layer(x, map_state(lambda part: part + 1.0, state))
        y_input, last_input = layer(x + 1.0, state)
    for other in ((y_state, *parts(last_state)), (y_input, *parts(last_input))):
        for got, want in zip(other, (y, *parts(last)), strict=True):
            assert not torch.isclose(got, want).all(dim=-1).any()

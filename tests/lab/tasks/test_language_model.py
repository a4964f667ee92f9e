"""The language model: sizes, tying, initial values, masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ungated import RNN, count_parameters
from ungated.cells import CELLS
from ungated.lab.errors import RecipeError
from ungated.lab.tasks.language_model import LanguageModel, Masks


def make(cell: str = "gru", n: int = 6, layers: int = 1, **cell_options: Any) -> Any:
    return lambda m: RNN(CELLS[cell], m, n, layers, **cell_options)


def parameters(symbols: int, make_rnn: Any, **options: Any) -> int:
    with torch.device("meta"):
        return count_parameters(LanguageModel(make_rnn, symbols, **options))


@pytest.mark.parametrize(
    ("symbols", "width", "cell", "n", "options", "expected"),
    [
        (9650, 64, "rru", 830, {"expansion": 6.86655, "output_size": 128}, 25_853_279),
        (9650, 64, "gru", 610, {}, 9_983_430),
        (9650, 64, "lstm", 727, {}, 14_177_076),
        (9650, 64, "mogrifier", 1014, {"rounds": 5, "rank": 74}, 24_174_908),
        (51, 16, "rru", 628, {"expansion": 4.0, "relu_layers": 2, "output_size": 128}, 23_981_659),
        (51, 16, "mogrifier", 1396, {"rounds": 4, "rank": 24}, 23_970_359),
        (207, 32, "rru", 914, {"expansion": 4.0, "relu_layers": 2, "output_size": 128}, 47_954_555),
        (29, 32, "lstm", 1993, {}, 47_994_390),
    ],
)
def test_sizes_of_the_rru_paper(
    symbols: int, width: int, cell: str, n: int, options: dict[str, Any], expected: int
) -> None:
    assert parameters(symbols, make(cell, n, 2, **options), embedding_size=width) == expected


@pytest.mark.parametrize(
    ("symbols", "depth", "n", "options", "expected"),
    [
        (10_000, 10, 830, {"tied": True}, 23_482_400),  # ptb_sota
        (10_000, 9, 860, {"tied": True}, 23_417_480),
        (10_000, 8, 890, {}, 32_082_040),
        (10_000, 5, 1000, {"tied": True}, 22_020_000),
        (205, 5, 1500, {}, 27_630_205),  # m = n, as first released
        (205, 5, 1500, {"embedding_rule": "smaller"}, 23_479_730),
        (205, 10, 1000, {"embedding_rule": "smaller"}, 20_677_230),
        (205, 10, 1500, {"embedding_rule": "smaller"}, 45_994_730),  # enwik8_sota
        (27, 10, 1000, {"embedding_rule": "smaller"}, 20_101_756),
        (27, 10, 1500, {"embedding_rule": "smaller"}, 45_152_256),  # text8_sota
        (10_000, 4, 1000, {"tied": True, "embedding_rule": "smaller"}, 20_018_000),
        (10_000, 1, 1275, {"embedding_rule": "smaller"}, 32_015_050),  # the depth table, first and last
        (10_000, 10, 830, {}, 31_782_400),
    ],
)
def test_sizes_of_the_rhn_paper(symbols: int, depth: int, n: int, options: dict[str, Any], expected: int) -> None:
    assert parameters(symbols, make("rhn", n, depth=depth), **options) == expected


def test_tied_matrices_are_one() -> None:
    model = LanguageModel(make("rhn", 5, depth=2), 11, tied=True, init_scale=0.04)
    assert model.output.weight is model.embedding.weight
    model(torch.tensor([[3]]))[0].sum().backward()
    assert model.embedding.weight.grad is not None
    assert model.embedding.weight.grad.any(dim=1).all()  # every row, through the softmax


def test_a_tied_embedding_is_as_wide_as_the_output() -> None:
    assert LanguageModel(make("rru", 5, output_size=3), 11, tied=True).embedding.embedding_dim == 3
    with pytest.raises(RecipeError, match="as wide as the layer's output, 3, but embedding_size is 4"):
        LanguageModel(make("rru", 5, output_size=3), 11, tied=True, embedding_size=4)


def test_initial_values() -> None:
    torch.manual_seed(0)
    rru = LanguageModel(make(), 200, embedding_size=50)
    assert 0.99 < float(rru.embedding.weight.detach().abs().max()) <= 1.0
    assert not rru.output.bias.any()
    rhn = LanguageModel(make(), 200, embedding_size=50, init_scale=0.04)
    for tensor in (rhn.embedding.weight, rhn.output.weight, rhn.output.bias):
        assert 0.038 < float(tensor.detach().abs().max()) <= 0.04


def test_finding_the_width_draws_nothing() -> None:
    torch.manual_seed(5)
    by_rule = LanguageModel(make(), 11)
    torch.manual_seed(5)
    named = LanguageModel(make(), 11, embedding_size=6)
    assert all(torch.equal(a, b) for a, b in zip(by_rule.parameters(), named.parameters(), strict=True))


def test_streams_begin_at_zeros_on_request() -> None:
    assert LanguageModel(make("rru"), 5).initial_state(2).any()  # type: ignore[union-attr]
    assert not LanguageModel(make("rru"), 5, zero_state=True).initial_state(2).any()  # type: ignore[union-attr]
    for state in LanguageModel(make("lstm"), 5, zero_state=True).initial_state(2):
        assert state.shape == (1, 2, 6)


@pytest.mark.parametrize("cell", CELLS)
def test_two_halves_with_the_state_carried_equal_the_whole(cell: str) -> None:
    torch.manual_seed(0)
    model = LanguageModel(make(cell, layers=2), 9).double()
    ids = torch.randint(0, 9, (8, 3))
    whole, last = model(ids)
    first, state = model(ids[:3])
    second, end = model(ids[3:], state)
    assert torch.allclose(torch.cat([first, second]), whole, atol=1e-12)
    assert torch.allclose(_first(end), _first(last), atol=1e-12)


def _first(state: Any) -> torch.Tensor:
    return state if isinstance(state, torch.Tensor) else state[0]


@pytest.mark.parametrize("rate", ["embedding_dropout", "output_dropout"])
def test_masks_act_in_training_alone(rate: str) -> None:
    torch.manual_seed(0)
    model = LanguageModel(make("rru"), 9, **{rate: 0.5})
    ids = torch.randint(0, 9, (8, 3))
    model.train()
    assert not torch.equal(model(ids)[0], model(ids)[0])
    model.eval()
    assert torch.equal(model(ids)[0], model(ids)[0])


def test_given_masks_are_used_as_they_are() -> None:
    torch.manual_seed(0)
    model = LanguageModel(make(), 9, embedding_dropout=0.5, output_dropout=0.5).eval()
    ids = torch.randint(0, 9, (4, 2))
    word = torch.tensor([[0.0, 2.0], [2.0, 0.0], [2.0, 2.0], [0.0, 0.0]])
    output = torch.rand(1, 2, 6)
    features, _ = model.rnn(model.embedding(ids) * word[..., None])
    expected = model.output(features * output)
    assert torch.allclose(model(ids, None, Masks(word, output))[0], expected)
    model.train()
    assert torch.allclose(model(ids, None, Masks(word, output))[0], expected)


def test_the_output_mask_holds_for_the_window() -> None:
    model = LanguageModel(make(), 9, output_dropout=0.5)
    mask = model.draw_masks(torch.zeros(7, 3, dtype=torch.int64)).output
    assert mask is not None
    assert mask.shape == (1, 3, 6)
    assert set(mask.unique().tolist()) <= {0.0, 2.0}


def test_wrong_options_are_said() -> None:
    with pytest.raises(RecipeError, match="bidirectional"):
        LanguageModel(lambda m: RNN(CELLS["gru"], m, 4, bidirectional=True), 5)
    with pytest.raises(RecipeError, match="embedding_size = 0"):
        LanguageModel(make(), 5, embedding_size=0)
    with pytest.raises(ValueError, match="output_dropout"):
        LanguageModel(make(), 5, output_dropout=1.0)

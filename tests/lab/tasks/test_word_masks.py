"""Dropout of whole symbols."""

from __future__ import annotations

import pytest
import torch

from ungated.lab.tasks.word_masks import share_first, word_mask, word_table


def test_the_first_occurrence_decides() -> None:
    # The RHN paper's code on ids (5, 2, 5, 2, 5) with draws (1, 0, 0, 1, 0): occurrences take the first one's.
    ids = torch.tensor([[5, 2, 5, 2, 5]]).T
    draws = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0]]).T
    assert share_first(ids, draws, 6).T.tolist() == [[1.0, 0.0, 1.0, 0.0, 1.0]]


def test_rows_are_apart() -> None:
    ids = torch.tensor([[1, 1], [1, 0]])
    draws = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    assert share_first(ids, draws, 2).tolist() == [[0.0, 2.0], [0.0, 0.0]]


@pytest.mark.parametrize("kind", ["position", "type"])
def test_a_symbol_is_kept_or_dropped_as_a_whole(kind: str) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (100, 200))
    mask = word_mask(ids, 20, 0.25, kind, torch.zeros(1))
    assert mask.unique().tolist() == pytest.approx([0.0, 4 / 3])
    for symbol in range(20):
        place = ids == symbol
        of_row = (mask * place).sum(0)
        assert torch.allclose(of_row[of_row > 0], (place.sum(0) * 4 / 3)[of_row > 0])
    # 20 * 200 independent draws: standard deviation 0.007 of the share dropped.
    table = torch.zeros(20, 200).scatter(0, ids, mask)
    assert abs(float((table == 0).float().mean()) - 0.25) < 0.03


def test_tables_for_whole_passes() -> None:
    torch.manual_seed(0)
    by_type = word_table(500, 3, 0.5, "type", torch.zeros(1))
    assert by_type.shape == (500, 3)
    assert 0.4 < float((by_type == 0).float().mean()) < 0.6
    # The RHN paper's Monte-Carlo code: one draw decides over all symbols of a pass.
    at_once = word_table(500, 200, 0.5, "position", torch.zeros(1))
    assert at_once.shape == (500, 200)
    assert torch.equal(at_once, at_once[:1].expand(500, -1))
    assert 0.3 < float((at_once[0] == 0).float().mean()) < 0.7

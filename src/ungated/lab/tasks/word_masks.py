"""Dropout of whole symbols: z_x of the RHN paper (Gal and Ghahramani 2016), over any embedding.

The embedding of a symbol is dropped at all of its places in a row of a window, or at none. Two ways to draw that:

    position  one draw a place, of which the first occurrence's holds for all (authors' TensorFlow code, rhn_train.py)
    type      one draw a symbol of the vocabulary (Gal and Ghahramani)

Within one window both have the same distribution. They differ where masks outlive a window (Monte-Carlo evaluation).
"""

from __future__ import annotations

import torch
from torch import Tensor


def share_first(ids: Tensor, draws: Tensor, symbols: int) -> Tensor:
    """ids, draws (T, B) -> (T, B): at each place the draw of the first occurrence of its symbol in that column."""
    time, batch = ids.shape
    places = torch.arange(time, device=ids.device)[:, None].expand(time, batch)
    first = torch.full((symbols, batch), time, device=ids.device).scatter_reduce(0, ids, places, "amin")
    return draws.gather(0, first.gather(0, ids))


def word_mask(ids: Tensor, symbols: int, rate: float, kind: str, like: Tensor) -> Tensor:
    """Inverted dropout mask (T, B) for the ids of a window, kind "position" or "type"; dtype and device of `like`."""
    if kind == "type":
        return word_table(symbols, ids.shape[1], rate, "type", like).gather(0, ids)
    draws = like.new_empty(ids.shape).bernoulli_(1.0 - rate).div_(1.0 - rate)
    return share_first(ids, draws, symbols)


def word_table(symbols: int, rows: int, rate: float, kind: str, like: Tensor) -> Tensor:
    """Masks (symbols, B) that can be held for a whole pass: mask = table.gather(0, ids).

    kind "type": a draw for each symbol. "position": the authors' Monte-Carlo code draws for a window of one symbol
    and keeps that one draw for the whole pass, so that it decides over all symbols at once.
    """
    drawn = symbols if kind == "type" else 1
    table = like.new_empty(drawn, rows).bernoulli_(1.0 - rate).div_(1.0 - rate)
    return table.expand(symbols, rows)

# mypy: ignore-errors
# (Triton's compiler reads these functions, not Python.)
"""Triton kernels of the RRU, one product each, with everything elementwise around it: notation as in scan/rru_torch.py.

A time step forward is `widen` (a_t from h_t), a `middle` for every further ReLU layer, and `narrow` (W_c'); backwards
it is `widen` (W_c), the `middle`s from the last one on, and `narrow` (W_h'). `narrow` splits the rows of its weights
among programs, for there are few columns; the next `widen` adds their partial sums up, in order, so that results do
not depend on which program came first. All sizes but that of the batch are known when a kernel is compiled.

BACKWARD and the other names in capitals are of the compiler; a pointer that they leave unused may be any tensor's.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_sums(sums, rows, B, TILES: tl.constexpr, BLOCK_TILES: tl.constexpr):
    """Sum over the tiles of (TILES, B) partial sums."""
    tiles = tl.arange(0, BLOCK_TILES)
    inside = (tiles[:, None] < TILES) & (rows[None, :] < B)
    return tl.sum(tl.load(sums + tiles[:, None] * B + rows[None, :], inside, 0.0), 0)


@triton.jit
def inverse_rms(sums, rows, B, g: tl.constexpr, EPSILON: tl.constexpr, TILES: tl.constexpr, BLOCK_TILES: tl.constexpr):
    """r of each row, from the partial sums of a^2."""
    return tl.rsqrt(row_sums(sums, rows, B, TILES, BLOCK_TILES) / g + EPSILON)


@triton.jit
def widen(
    before, partial, ended, ends, s, shift, after, W, base, mask, gate, out, sums, B,
    n: tl.constexpr, g: tl.constexpr, SPLITS: tl.constexpr, FIRST: tl.constexpr, ENDED: tl.constexpr,
    BACKWARD: tl.constexpr, BASE: tl.constexpr, MASK: tl.constexpr, MASKED_GATE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """after = s * before + shift + partial sums, but before where a row had `ended`; FIRST: it is before.

    Forward: out (B, g) = base + after W, and partial sums of its squares.
    Backward: out = (base + after W) * mask where gate > 0, else 0, and partial sums of out * gate. There is no shift,
    rows that had ended still get the partial sums, and those that `ends` now names count as zeros in the product.
    """
    tile, rows = tl.program_id(0), tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    columns, in_batch = tile * BLOCK_G + tl.arange(0, BLOCK_G), rows < B
    product = tl.zeros((BLOCK_B, BLOCK_G), tl.float32)
    for block in range(tl.cdiv(n, BLOCK_N)):
        ks = block * BLOCK_N + tl.arange(0, BLOCK_N)
        here, inside = rows[:, None] * n + ks[None, :], in_batch[:, None] & (ks < n)[None, :]
        h = tl.load(before + here, inside, 0.0)
        if not FIRST:
            new = tl.load(s + ks, ks < n, 0.0)[None, :] * h
            if not BACKWARD:
                new += tl.load(shift + ks, ks < n, 0.0)[None, :]
            if BACKWARD and ENDED:
                new = tl.where((tl.load(ended + rows, in_batch, 1) != 0)[:, None], h, new)
            for split in tl.static_range(SPLITS):
                new += tl.load(partial + split * B * n + here, inside, 0.0)
            if ENDED and not BACKWARD:
                new = tl.where((tl.load(ended + rows, in_batch, 1) != 0)[:, None], h, new)
            h = new
            if block % tl.num_programs(0) == tile:
                tl.store(after + here, h, inside)
        if BACKWARD and ENDED:
            h = tl.where((tl.load(ends + rows, in_batch, 1) != 0)[:, None], 0.0, h)
        weights = tl.load(W + ks[:, None] * g + columns[None, :], (ks < n)[:, None] & (columns < g)[None, :], 0.0)
        product = tl.dot(h.to(weights.dtype), weights, product, input_precision=PRECISION)
    here, inside = rows[:, None] * g + columns[None, :], in_batch[:, None] & (columns < g)[None, :]
    if BASE:
        product += tl.load(base + here, inside, 0.0)
    factor = product
    if BACKWARD:
        factor = tl.load(gate + here, inside, 0.0)
        opens = factor
        if MASK:
            by = tl.load(mask + here, inside, 0.0)
            product *= by
            if MASKED_GATE:
                opens *= by
        product = tl.where(opens > 0, product, 0.0)
    tl.store(out + here, product, inside)
    tl.store(sums + tile * B + rows, tl.sum(product * factor, 1), in_batch)


@triton.jit
def middle(
    x, W, bias, gate, sums_before, r, y, out, sums, B,
    g: tl.constexpr, BACKWARD: tl.constexpr, FIRST: tl.constexpr, NORMALIZE: tl.constexpr, EPSILON: tl.constexpr,
    TILES: tl.constexpr, BLOCK_TILES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Forward: out = ReLU(x W + bias); FIRST: x is a, of which y and r are made and left in their places.

    Backward: out = x W where gate > 0, else 0, and partial sums of out * gate.
    """
    tile, rows = tl.program_id(0), tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    columns, in_batch = tile * BLOCK_G + tl.arange(0, BLOCK_G), rows < B
    scale = tl.full((BLOCK_B,), 1.0, tl.float32)
    if FIRST and NORMALIZE:
        scale = inverse_rms(sums_before, rows, B, g, EPSILON, TILES, BLOCK_TILES)
        if tile == 0:
            tl.store(r + rows, scale, in_batch)
    product = tl.zeros((BLOCK_B, BLOCK_G), tl.float32)
    for block in range(tl.cdiv(g, BLOCK_K)):
        ks = block * BLOCK_K + tl.arange(0, BLOCK_K)
        here, inside = rows[:, None] * g + ks[None, :], in_batch[:, None] & (ks < g)[None, :]
        part = tl.load(x + here, inside, 0.0)
        if FIRST:
            part *= scale[:, None]
            if block % tl.num_programs(0) == tile:
                tl.store(y + here, part, inside)
            part = tl.maximum(part, 0.0)
        weights = tl.load(W + ks[:, None] * g + columns[None, :], (ks < g)[:, None] & (columns < g)[None, :], 0.0)
        product = tl.dot(part.to(weights.dtype), weights, product, input_precision=PRECISION)
    here, inside = rows[:, None] * g + columns[None, :], in_batch[:, None] & (columns < g)[None, :]
    if BACKWARD:
        opens = tl.load(gate + here, inside, 0.0)
        product = tl.where(opens > 0, product, 0.0)
        tl.store(sums + tile * B + rows, tl.sum(product * opens, 1), in_batch)
    else:
        product = tl.maximum(product + tl.load(bias + columns, columns < g, 0.0)[None, :], 0.0)
    tl.store(out + here, product, inside)


@triton.jit
def narrow(
    x, W, mask, y, r, sums, out, partial, B,
    n: tl.constexpr, g: tl.constexpr, SPLITS: tl.constexpr, BACKWARD: tl.constexpr, MASK: tl.constexpr,
    FIRST: tl.constexpr, NORMALIZE: tl.constexpr, EPSILON: tl.constexpr, KEEP: tl.constexpr,
    TILES: tl.constexpr, BLOCK_TILES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """partial (SPLITS, B, n): the shares of each range of g in a product with W (g, n), which is

    forward: out W with out = d = ReLU(y) * mask, FIRST: of y = r x, which with r is left in its place if KEEP;
    otherwise x is what the mask is for.
    Backward: out W with out = G(a) = r (x - y mean(x y)), from the partial sums of x y; x alone if not NORMALIZE.
    """
    tile, split = tl.program_id(0), tl.program_id(1)
    rows = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    columns, in_batch = tile * BLOCK_N + tl.arange(0, BLOCK_N), rows < B
    scale, mean = tl.full((BLOCK_B,), 1.0, tl.float32), tl.zeros((BLOCK_B,), tl.float32)
    if NORMALIZE and BACKWARD:
        scale = tl.load(r + rows, in_batch, 0.0)
        mean = row_sums(sums, rows, B, TILES, BLOCK_TILES) / g
    if NORMALIZE and FIRST and not BACKWARD:
        scale = inverse_rms(sums, rows, B, g, EPSILON, TILES, BLOCK_TILES)
        if KEEP and tile == 0 and split == 0:
            tl.store(r + rows, scale, in_batch)
    product = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
    BLOCKS: tl.constexpr = (g + BLOCK_G * SPLITS - 1) // (BLOCK_G * SPLITS)
    for block in range(BLOCKS):
        ks = (split * BLOCKS + block) * BLOCK_G + tl.arange(0, BLOCK_G)
        here, inside = rows[:, None] * g + ks[None, :], in_batch[:, None] & (ks < g)[None, :]
        part = tl.load(x + here, inside, 0.0)
        if BACKWARD:
            if NORMALIZE:
                part = scale[:, None] * (part - tl.load(y + here, inside, 0.0) * mean[:, None])
        else:
            if FIRST:
                part *= scale[:, None]
                if KEEP and tile == 0:
                    tl.store(y + here, part, inside)
                part = tl.maximum(part, 0.0)
            if MASK:
                part *= tl.load(mask + here, inside, 0.0)
        if tile == 0:
            tl.store(out + here, part, inside)
        weights = tl.load(W + ks[:, None] * n + columns[None, :], (ks < g)[:, None] & (columns < n)[None, :], 0.0)
        product = tl.dot(part.to(weights.dtype), weights, product, input_precision=PRECISION)
    here = (split * B + rows[:, None]) * n + columns[None, :]
    tl.store(partial + here, product, in_batch[:, None] & (columns < n)[None, :])

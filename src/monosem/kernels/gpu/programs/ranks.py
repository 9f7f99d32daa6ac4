"""Entries of each row that may reach its floor, of given scores or of a product that is never stored."""

from typing import no_type_check

from monosem.kernels.gpu.programs.late import tl

SHARED = ()
"""Names of programs that other programs call."""


@no_type_check
def keep(
    score, score_row, bias, floor, reach_x, reach_w, kept, place, count, columns, first, capacity,
    WIDTH: tl.constexpr, BIAS: tl.constexpr, ERROR: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Append the entries of one row that may reach its floor, in column order; `count` goes on beyond `capacity`.

    An entry is score + bias; with ERROR it is known to within LAST (|entry| + |bias|) + <reach_x[row], reach_w[column]>
    (two terms). A bias of -inf excludes its column; NaN is kept.
    """
    row = tl.program_id(0).to(tl.int64)
    have, bar = tl.load(count + row), tl.load(floor + row)
    for start in range(0, columns, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < columns
        s = tl.load(score + row * score_row + column, mask=inside, other=0)
        if ERROR:
            s = s.to(tl.float32)
        chosen = inside
        if BIAS:
            b = tl.load(bias + first + column, mask=inside, other=0)
            s += b
            chosen = chosen & (b != float("-inf"))
        upper = s
        if ERROR:
            wide = LAST * (tl.abs(s) + tl.abs(b))
            wide += tl.load(reach_x + 2 * row) * tl.load(reach_w + 2 * (first + column), mask=inside, other=0)
            wide += tl.load(reach_x + 2 * row + 1) * tl.load(reach_w + 2 * (first + column) + 1, mask=inside, other=0)
            upper = s + tl.where(chosen, wide, 0.0)
        chosen = chosen & ((upper >= bar) | (upper != upper))
        at = have + tl.cumsum(chosen.to(tl.int32), 0) - 1
        fits = chosen & (at < capacity)
        tl.store(kept + row * capacity + at, s, mask=fits)
        tl.store(place + row * capacity + at, first + column, mask=fits)
        have += tl.sum(chosen.to(tl.int32), 0)
    tl.store(count + row, have)


@no_type_check
def keep_product(
    x, x_row, weight, weight_row, bias, floor, reach_x, reach_w, kept, place, count, batch, n_q, width, tiles, capacity,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, ERROR: tl.constexpr,
    LAST: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """As keep, of x W^T + bias, which is never stored.

    A program takes ROWS rows and one split of the columns, `tiles` tiles of COLUMNS; each split has its own part of
    the kept lists.
    """
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    split, splits = tl.program_id(1), tl.num_programs(1)
    in_batch = row < batch
    bar = tl.load(floor + row, mask=in_batch, other=float("inf"))
    have = tl.zeros([ROWS], dtype=tl.int32)
    for tile in range(tiles):
        column = (split * tiles + tile) * COLUMNS + tl.arange(0, COLUMNS)
        inside = column < n_q
        z = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        for start in range(0, width, DEPTH):
            depth = start + tl.arange(0, DEPTH)
            deep = depth < width
            a = tl.load(x + row[:, None] * x_row + depth[None, :], mask=in_batch[:, None] & deep[None, :], other=0)
            w = weight + column[None, :].to(tl.int64) * weight_row + depth[:, None]
            b = tl.load(w, mask=inside[None, :] & deep[:, None], other=0)
            if UPCAST:
                a, b = a.to(tl.float32), b.to(tl.float32)
            z = tl.dot(a, b, z, input_precision="ieee")
        shift = tl.load(bias + column, mask=inside, other=0)
        z += shift[None, :]
        chosen = in_batch[:, None] & (inside & (shift != float("-inf")))[None, :]
        upper = z
        if ERROR:
            wide = LAST * (tl.abs(z) + tl.abs(shift)[None, :])
            near = tl.load(reach_x + 2 * row, mask=in_batch, other=0)[:, None]
            wide += near * tl.load(reach_w + 2 * column, mask=inside, other=0)[None, :]
            near = tl.load(reach_x + 2 * row + 1, mask=in_batch, other=0)[:, None]
            wide += near * tl.load(reach_w + 2 * column + 1, mask=inside, other=0)[None, :]
            upper = z + tl.where(chosen, wide, 0.0)
        chosen = chosen & ((upper >= bar[:, None]) | (upper != upper))
        at = have[:, None] + tl.cumsum(chosen.to(tl.int32), 1) - 1
        fits = chosen & (at < capacity)
        where = (row * splits + split)[:, None] * capacity + at
        tl.store(kept + where, z, mask=fits)
        tl.store(place + where, column[None, :] + tl.zeros([ROWS, COLUMNS], dtype=tl.int32), mask=fits)
        have += tl.sum(chosen.to(tl.int32), 1)
    tl.store(count + row * splits + split, have, mask=in_batch)

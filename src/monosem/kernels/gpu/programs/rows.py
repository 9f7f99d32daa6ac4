"""One pass over the rows of a weight: its fp16 copy with norms, the norm of its gradient, a step of Adam."""

from typing import no_type_check

from monosem.kernels.gpu.programs.late import tl
from monosem.kernels.gpu.programs.sums import sum_run

SHARED = ("gradient", "any_cells")
"""Names of programs that other programs call."""


@no_type_check
def gradient(
    base, starts, first, index, values, x, x_row, partial, starts2, first2, index2, values2, x2, x2_row, partial2,
    row, column, inside, width,
    BASE: tl.constexpr, SETS: tl.constexpr, CELLS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A piece of a row's gradient: a dense part and up to two sets of cells."""
    g = tl.zeros([WIDTH], dtype=tl.float32)
    if BASE:
        g += tl.load(base + row * width + column, mask=inside, other=0).to(tl.float32)
    if SETS >= 1:
        begin, end = tl.load(starts + first + row), tl.load(starts + first + row + 1)
        g += sum_run(
            x, x_row, index, values, partial, begin, end, column, inside, width, CELLS, WIDTH, CHUNK, tl.float32
        )
    if SETS >= 2:
        begin, end = tl.load(starts2 + first2 + row), tl.load(starts2 + first2 + row + 1)
        g += sum_run(
            x2, x2_row, index2, values2, partial2, begin, end, column, inside, width, CELLS, WIDTH, CHUNK, tl.float32
        )
    return g


@no_type_check
def any_cells(starts, first, starts2, first2, row, BASE: tl.constexpr, SETS: tl.constexpr):
    """Whether a row has any gradient at all."""
    cells = row * 0
    if BASE:
        cells += 1
    if SETS >= 1:
        cells += tl.load(starts + first + row + 1) - tl.load(starts + first + row)
    if SETS >= 2:
        cells += tl.load(starts2 + first2 + row + 1) - tl.load(starts2 + first2 + row)
    return cells > 0


@no_type_check
def row_norm(
    weight, base, starts, first, index, values, x, x_row, partial, starts2, first2, index2, values2, x2, x2_row,
    partial2, bounds, out, kept, width,
    BASE: tl.constexpr, SETS: tl.constexpr, PROJECT: tl.constexpr, KEEP: tl.constexpr,
    CELLS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """out[row, piece] = |projected gradient|^2 where there is any, with KEEP the gradient itself; else nothing."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.load(bounds + piece) + tl.arange(0, WIDTH)
    inside = column < tl.load(bounds + piece + 1)
    if any_cells(starts, first, starts2, first2, row, BASE, SETS):
        g = gradient(
            base, starts, first, index, values, x, x_row, partial, starts2, first2, index2, values2, x2, x2_row,
            partial2, row, column, inside, width, BASE, SETS, CELLS, WIDTH, CHUNK,
        )  # fmt: skip
        if PROJECT:
            w = tl.load(weight + row * width + column, mask=inside, other=0)
            g -= w * (tl.sum(g * w, 0) / tl.maximum(tl.sum(w * w, 0), 1e-30))
        tl.store(out + row * tl.num_programs(1) + piece, tl.sum(g * g, 0))
        if KEEP:
            tl.store(kept + row * width + column, g, mask=inside)


@no_type_check
def row_step(
    weight, base, starts, first, index, values, x, x_row, partial, starts2, first2, index2, values2, x2, x2_row,
    partial2, bounds, low, mean, square, moved, scale, kept, width, rate, beta1, left1, beta2, left2, root, eps,
    BASE: tl.constexpr, SETS: tl.constexpr, PROJECT: tl.constexpr, UNIT: tl.constexpr, MOVED: tl.constexpr,
    LOW: tl.constexpr, KEPT: tl.constexpr, CELLS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Adam on one piece of a row, read once and written once: project, clip, moments, step, unit norm, bf16 copy."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.load(bounds + piece) + tl.arange(0, WIDTH)
    inside = column < tl.load(bounds + piece + 1)
    busy = any_cells(starts, first, starts2, first2, row, BASE, SETS)
    alive = busy
    if MOVED:  # a row that never had a gradient has zero moments: it stays where it is
        alive = busy | (tl.load(moved + row) != 0)
    if alive:
        at = row * width + column
        if KEPT:  # a row without cells has none: its place holds whatever was there
            g = tl.load(kept + at, mask=tl.where(busy, inside, False), other=0)
        else:
            g = gradient(
                base, starts, first, index, values, x, x_row, partial, starts2, first2, index2, values2, x2, x2_row,
                partial2, row, column, inside, width, BASE, SETS, CELLS, WIDTH, CHUNK,
            )  # fmt: skip
        w = tl.load(weight + at, mask=inside, other=0)
        m, v = tl.load(mean + at, mask=inside, other=0), tl.load(square + at, mask=inside, other=0)
        if PROJECT and not KEPT:
            g -= w * (tl.sum(g * w, 0) / tl.maximum(tl.sum(w * w, 0), 1e-30))
        g *= tl.load(scale)
        m = beta1 * m + left1 * g
        v = beta2 * v + left2 * g * g
        w -= rate * m / (tl.sqrt(v) / root + eps)
        if UNIT:
            w = w / tl.sqrt(tl.maximum(tl.sum(w * w, 0), 1e-30))
        tl.store(weight + at, w, mask=inside)
        tl.store(mean + at, m, mask=inside)
        tl.store(square + at, v, mask=inside)
        if LOW:
            tl.store(low + at, w.to(tl.bfloat16), mask=inside)
        if MOVED:
            tl.store(moved + row, busy | (tl.load(moved + row) != 0))


@no_type_check
def narrow(
    weight, weight_row, scale, low, size, off, rows, width, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """ROWS rows times a power of two in fp16, their norms and the norms of what fp16 loses; all in float32."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    whole, lost = tl.zeros([ROWS, WIDTH], dtype=tl.float32), tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        mask = there[:, None] & (column < width)[None, :]
        w = tl.load(weight + row[:, None] * weight_row + column[None, :], mask=mask, other=0).to(tl.float32)
        w *= tl.load(scale)
        whole += w * w
        rough = w.to(tl.float16)
        loss = w - rough.to(tl.float32)
        lost += loss * loss
        tl.store(low + row[:, None] * width + column[None, :], rough, mask=mask)
    tl.store(size + row, tl.sqrt(tl.sum(whole, 1)), mask=there)
    tl.store(off + row, tl.sqrt(tl.sum(lost, 1)), mask=there)

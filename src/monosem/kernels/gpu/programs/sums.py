"""Sums over cells: runs of weighted rows, and one inner product per cell."""

from typing import no_type_check

from monosem.kernels.gpu.programs.late import tl

SHARED = ("sum_run",)
"""Names of programs that other programs call."""


@no_type_check
def sum_run(
    table, table_row, index, values, partial, first, stop, column, inside, width,
    CELLS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """sum over cells first..stop of values[cell] table[index[cell]], whole chunks of them from `partial`."""
    up, down = (first + CHUNK - 1) // CHUNK * CHUNK, stop // CHUNK * CHUNK
    up, down = tl.where(up < down, up, stop), tl.where(up < down, down, stop)
    total = tl.zeros([CELLS, WIDTH], dtype=ACC)
    for side in tl.static_range(2):  # the cells before the first whole chunk, and after the last
        begin, end = (first, up) if side == 0 else (down, stop)
        for start in range(begin, end, CELLS):
            cell = start + tl.arange(0, CELLS)
            there = cell < end
            row = tl.load(index + cell, mask=there, other=0).to(tl.int64)
            value = tl.load(values + cell, mask=there, other=0).to(ACC)
            at = table + row[:, None] * table_row + column[None, :]
            total += value[:, None] * tl.load(at, mask=there[:, None] & inside[None, :], other=0).to(ACC)
    out = tl.sum(total, 0)
    for chunk in range(up // CHUNK, down // CHUNK):
        out += tl.load(partial + chunk * width + column, mask=inside, other=0)
    return out


@no_type_check
def chunk(
    table, table_row, index, values, whole, partial, width,
    CELLS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """partial[chunk] = the sum over its CHUNK cells, where `whole` says that they are all of one run."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    chunk = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    if tl.load(whole + chunk) != 0:
        total = tl.zeros([CELLS, WIDTH], dtype=ACC)
        inside = column < width
        for start in range(0, CHUNK, CELLS):
            cell = chunk * CHUNK + start + tl.arange(0, CELLS)
            row = tl.load(index + cell).to(tl.int64)
            at = table + row[:, None] * table_row + column[None, :]
            total += tl.load(values + cell).to(ACC)[:, None] * tl.load(at, mask=inside[None, :], other=0).to(ACC)
        tl.store(partial + chunk * width + column, tl.sum(total, 0), mask=inside)


@no_type_check
def bag(
    table, table_row, index, offsets, values, partial, out, width,
    CELLS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """out[run] = sum over the run's cells of values[cell] table[index[cell]]; one run and WIDTH columns each."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    run = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < width
    first, stop = tl.load(offsets + run), tl.load(offsets + run + 1)
    total = sum_run(
        table, table_row, index, values, partial, first, stop, column, inside, width, CELLS, WIDTH, CHUNK, ACC
    )
    tl.store(out + run * width + column, total, mask=inside)


@no_type_check
def inner(
    x, x_row, weight, weight_row, row, col, out, cells, width,
    CELLS: tl.constexpr, WIDTH: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """out[cell] = <x[row[cell]], weight[col[cell]]>; CELLS neighbouring cells each, which mostly share a row of x."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    cell = tl.program_id(0).to(tl.int64) * CELLS + tl.arange(0, CELLS)
    there = cell < cells
    left = x + tl.load(row + cell, mask=there, other=0).to(tl.int64)[:, None] * x_row
    right = weight + tl.load(col + cell, mask=there, other=0).to(tl.int64)[:, None] * weight_row
    total = tl.zeros([CELLS, WIDTH], dtype=ACC)
    for start in range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        mask = there[:, None] & (column < width)[None, :]
        a = tl.load(left + column[None, :], mask=mask, other=0).to(ACC)
        total += a * tl.load(right + column[None, :], mask=mask, other=0).to(ACC)
    tl.store(out + cell, tl.sum(total, 1), mask=there)

"""Sums over active cells as Triton programs: a run of cells into a row, and one inner product per cell."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.kernels.gpu.launch import launch

CHUNK = 128
"""Cells that one program adds up at most, twice: before and after the whole chunks of its run."""


def rows_in_order(table: Tensor) -> Tensor:
    """The same matrix with neighbouring columns side by side: itself where that is so already."""
    return table if table.stride(-1) == 1 or table.shape[-1] <= 1 else table.contiguous()


def power_of_two(number: int, most: int) -> int:
    """The least power of two that reaches `number`, at most `most`: how wide a program works."""
    return min(most, 1 << max(0, number - 1).bit_length())


def partial_sums(
    table: Float[Tensor, "rows width"],
    index: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " runs_and_1"],
    values: Float[Tensor, " nnz"],
) -> Float[Tensor, "chunks width"]:
    """The sums over every CHUNK cells that lie in one run (other chunks: undefined), so that no run is long.

    One latent may fire on every row; a program that walked all its cells alone would outlast all others.
    """
    chunks, width = index.numel() // CHUNK, table.shape[1]
    out = torch.empty(chunks, width, dtype=values.dtype, device=values.device)
    if chunks and width:
        first = torch.arange(0, chunks * CHUNK, CHUNK, device=offsets.device)
        run = torch.searchsorted(offsets, first, right=True) - 1
        wide = power_of_two(width, 512)
        launch(
            "chunk", (chunks, -(-width // wide)), table, table.stride(0), index, values,
            offsets[run + 1] >= first + CHUNK, out, width,
            CELLS=8, WIDTH=wide, CHUNK=CHUNK, DOUBLE=values.dtype == torch.float64,
        )  # fmt: skip
    return out


def bag(
    table: Float[Tensor, "rows width"],
    index: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " runs_and_1"],
    values: Float[Tensor, " nnz"],
) -> Float[Tensor, "runs width"]:
    """Weighted sums of rows: what a sparse code writes, and every weight's gradient.

    Equation: out[i] = sum over cells offsets[i] <= c < offsets[i + 1] of values[c] table[index[c]]; an empty run
        gives zeros. Summed in float32 (float64 for float64 values) in an order that the offsets decide: the same
        cells give the same bits; no atomics.
    Shapes: out has the dtype of `values`; `table` may hold bf16. `offsets` go from 0 to nnz.
    """
    table, index, values = rows_in_order(table), index.contiguous(), values.contiguous()
    offsets = offsets.contiguous()
    runs, width = offsets.numel() - 1, table.shape[1]
    out = torch.empty(runs, width, dtype=values.dtype, device=values.device)
    if runs and width:
        wide = power_of_two(width, 512)
        launch(
            "bag", (runs, -(-width // wide)), table, table.stride(0), index, offsets, values,
            partial_sums(table, index, offsets, values), out, width,
            CELLS=8, WIDTH=wide, CHUNK=CHUNK, DOUBLE=values.dtype == torch.float64,
        )  # fmt: skip
    return out


def inner_full(
    at: Positions, x: Float[Tensor, "batch width"], weight: Float[Tensor, "n_q width"]
) -> Float[Tensor, " nnz"]:
    """Inner products at the cells: a value's gradient, or a pre-activation.

    Equation: out[cell] = <x[row], weight[latent]>, summed in float32 (float64 for float64 x) in an order that only
        the width decides.
    Shapes: out has the dtype of `x`; `weight` may hold bf16.
    """
    x, weight = rows_in_order(x), rows_in_order(weight)
    out = torch.empty(at.nnz, dtype=x.dtype, device=x.device)
    if at.nnz:
        cells, wide = 16, power_of_two(x.shape[1], 256)
        launch(
            "inner", (-(-at.nnz // cells),), x, x.stride(0), weight, weight.stride(0), at.row, at.col.contiguous(),
            out, at.nnz, x.shape[1],
            CELLS=cells, WIDTH=wide, DOUBLE=x.dtype == torch.float64,
        )  # fmt: skip
    return out

"""Sums over the cells of a sparse code, by the compiled kernels; see cells.c.

Every function takes float32 CPU tensors; `usable` says whether a set of tensors qualifies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.kernels.native.build import library
from monosem.kernels.native.team import address, each, runs_of, runs_of_cost

_TILE_BYTES = 2**22
"""Rows that a unit of `scatter` writes: what stays in a second-level cache, more or less."""


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled kernels exist and take these tensors: float32, on the CPU, unit stride along columns."""
    for t in tensors:
        if t.dtype != torch.float32 or t.device.type != "cpu" or (t.numel() and t.stride(-1) != 1):
            return False
    return library() is not None


def row_tile(batch: int, width: int) -> int:
    """Rows per unit of `scatter`; sums are row by row, so that it may depend on the number of threads."""
    return max(1, min(_TILE_BYTES // (4 * max(width, 1)), -(-batch // torch.get_num_threads())))


@dataclass(frozen=True, eq=False)
class Ordered:
    """Cells of rows [row0, row1), latent by latent: where each latent's run starts; each cell's row and number."""

    row0: int
    row1: int
    starts: Tensor
    row: Tensor
    cell: Tensor


def order_cells(crow: Tensor, col: Tensor, n_q: int, tile: int) -> list[Ordered]:
    """Cells in latent-major order, tile of rows by tile of rows."""
    batch, crow, col = crow.numel() - 1, crow.contiguous(), col.contiguous()
    tiles, units = [], []
    for row0 in range(0, max(batch, 1), tile):
        row1 = min(row0 + tile, batch)
        nnz = int(crow[row1] - crow[row0])
        starts = torch.empty(n_q + 1, dtype=torch.int64)
        row, cell = torch.empty(nnz, dtype=torch.int32), torch.empty(nnz, dtype=torch.int64)
        tiles.append(Ordered(row0, row1, starts, row, cell))
        units.append((address(crow), address(col), row0, row1, n_q, *_order(tiles[-1])))
    each("latent_major", units)
    return tiles


def _order(t: Ordered) -> tuple[int, int, int]:
    return address(t.starts), address(t.row), address(t.cell)


def scatter(tiles: Sequence[Ordered], first: int, last: int, values: Tensor, weight: Tensor, out: Tensor) -> None:
    """out[row] += values[cell] * weight[latent - first], for the cells of latents [first, last)."""
    values = values.contiguous()
    rest = (
        first, last, address(values), address(weight), weight.stride(0), weight.shape[1], address(out), out.stride(0),
    )  # fmt: skip
    each("scatter", [(*_order(t), *rest) for t in tiles])


def inner(cells: Ordered, first: int, last: int, x: Tensor, weight: Tensor, values: Tensor) -> None:
    """values[cell] += <x[row], weight[latent - first]>, for the cells of latents [first, last).

    Threads share the latents, not the rows: each row of the weight is then read by one of them.
    """
    step, rest = weight.stride(0), (address(x), x.stride(0))
    units = [
        (*_order(cells), first + a, first + b, *rest, address(weight) + 4 * a * step, step, weight.shape[1],
         address(values))
        for a, b in runs_of_cost(cells.starts[first : last + 1], 32)
    ]  # fmt: skip
    each("inner", units)


def bags(cells: Ordered, first: int, last: int, values: Tensor, x: Tensor) -> Tensor:
    """out[latent - first] = sum over the latent's cells of values[cell] * x[row]."""
    values = values.contiguous()
    out = x.new_empty(last - first, x.shape[1])
    given, step = (address(values), address(x), x.stride(0), x.shape[1]), out.stride(0)
    runs = [(first + a, first + b, *given, address(out) + 4 * a * step, step) for a, b in runs_of(last - first, 64)]
    each("bags", [(*_order(cells), *run) for run in runs])
    return out

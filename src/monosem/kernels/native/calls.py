"""Typed calls of the compiled kernels: checks of dtype and layout, pointers, and the split over threads.

Every function takes float32 CPU tensors; `usable` says whether a set of tensors qualifies. Work is split into fixed
units (tiles of rows, runs of latents), so that results do not depend on the number of threads.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from monosem.kernels.native.build import library

__all__ = [
    "Ordered",
    "bags",
    "inner",
    "order_cells",
    "pointer",
    "row_tile",
    "runs_of",
    "scatter",
    "spread",
    "usable",
]

_TILE_BYTES = 2**22
"""Rows that a unit of `scatter` or `inner` writes: what stays in a second-level cache, more or less."""

_P = ctypes.c_void_p
_I = ctypes.c_int64
_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled kernels exist and take these tensors: float32, on the CPU, unit stride along columns."""
    for t in tensors:
        if t.dtype != torch.float32 or t.device.type != "cpu" or (t.numel() and t.stride(-1) != 1):
            return False
    return library() is not None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="monosem")


@cache
def _team() -> Callable[..., None] | None:
    """`GOMP_parallel` of the OpenMP library that torch runs on, where that is GNU's.

    Its threads spin for some 15 ms after each of torch's products; threads of our own would share the cores with that.
    """
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*")):
        try:
            call = ctypes.CDLL(str(path), os.RTLD_NOLOAD | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):  # not loaded: torch runs on something else
            continue
        call.restype, call.argtypes = None, [_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        return call
    return None


def spread(work: Callable[[int], None], units: int) -> None:
    """work(0), ..., work(units - 1), over torch's number of threads; the C calls release the interpreter lock."""
    threads = min(torch.get_num_threads(), units)
    if threads <= 1:
        for unit in range(units):
            work(unit)
        return
    numbers, failed = iter(range(units)), []  # numbers are shared: whoever is done takes the next

    def some(_: object = None) -> None:
        try:
            for unit in numbers:
                work(unit)
        except BaseException as error:
            failed.append(error)

    team = _team()
    if team is not None:
        team(_Work(some), None, threads, 0)
    else:
        others = [_pool(threads).submit(some) for _ in range(threads - 1)]
        some()
        wait(others)
    if failed:
        raise failed[0]


def pointer(t: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's first element lies; NULL for None."""
    return _P(None if t is None else t.data_ptr())


_p = pointer


def runs_of(length: int, most: int) -> list[tuple[int, int]]:
    """0..length in about `most` runs of equal length."""
    size = max(1, -(-length // most))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def row_tile(batch: int, width: int) -> int:
    """Rows per unit of `scatter` and `inner`; sums are row by row, so that it may depend on the number of threads."""
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
    lib, batch = library(), crow.numel() - 1
    assert lib is not None
    crow, col = crow.contiguous(), col.contiguous()
    tiles = []
    for row0 in range(0, max(batch, 1), tile):
        row1 = min(row0 + tile, batch)
        nnz = int(crow[row1] - crow[row0])
        starts = torch.empty(n_q + 1, dtype=torch.int64)
        row, cell = torch.empty(nnz, dtype=torch.int32), torch.empty(nnz, dtype=torch.int64)
        lib.monosem_latent_major(_p(crow), _p(col), _I(row0), _I(row1), _I(n_q), _p(starts), _p(row), _p(cell))
        tiles.append(Ordered(row0, row1, starts, row, cell))
    return tiles


def scatter(tiles: Sequence[Ordered], first: int, last: int, values: Tensor, weight: Tensor, out: Tensor) -> None:
    """out[row] += values[cell] * weight[latent - first], for the cells of latents [first, last)."""
    lib = library()
    assert lib is not None
    values = values.contiguous()

    def work(unit: int) -> None:
        t = tiles[unit]
        lib.monosem_scatter(
            _p(t.starts), _p(t.row), _p(t.cell), _I(first), _I(last), _p(values), _p(weight), _I(weight.stride(0)),
            _I(weight.shape[1]), _p(out), _I(out.stride(0)),
        )  # fmt: skip

    spread(work, len(tiles))


def inner(tiles: Sequence[Ordered], first: int, last: int, x: Tensor, weight: Tensor, values: Tensor) -> None:
    """values[cell] += <x[row], weight[latent - first]>, for the cells of latents [first, last)."""
    lib = library()
    assert lib is not None

    def work(unit: int) -> None:
        t = tiles[unit]
        lib.monosem_inner(
            _p(t.starts), _p(t.row), _p(t.cell), _I(first), _I(last), _p(x), _I(x.stride(0)), _p(weight),
            _I(weight.stride(0)), _I(weight.shape[1]), _p(values),
        )  # fmt: skip

    spread(work, len(tiles))


def bags(cells: Ordered, first: int, last: int, values: Tensor, x: Tensor) -> Tensor:
    """out[latent - first] = sum over the latent's cells of values[cell] * x[row]."""
    lib = library()
    assert lib is not None
    values = values.contiguous()
    out = x.new_empty(last - first, x.shape[1])
    runs = runs_of(last - first, 64)

    def work(unit: int) -> None:
        a, b = runs[unit]
        lib.monosem_bags(
            _p(cells.starts), _p(cells.row), _p(cells.cell), _I(first + a), _I(first + b), _p(values), _p(x),
            _I(x.stride(0)), _I(x.shape[1]), _P(out.data_ptr() + 4 * a * out.stride(0)), _I(out.stride(0)),
        )  # fmt: skip

    spread(work, len(runs))
    return out

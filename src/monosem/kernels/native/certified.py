"""Exact selection from a bfloat16 encoder product; see certified.c for the bound that proves it."""

import ctypes
from collections.abc import Iterator
from itertools import accumulate
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.kernels.native.build import library
from monosem.kernels.native.calls import inner, order_cells, usable
from monosem.kernels.native.select import join, largest, top
from monosem.kernels.native.team import address, each, runs_of
from monosem.kernels.workspace import workspace

ROWS, COLUMNS = 1024, 2048
"""Rows and latents of one product: W then goes through it once, and its output stays in cache."""

_SAMPLE_ROWS = 64
_RUNS = 8
"""Runs of rows for several threads; what is selected does not depend on it."""

_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Product(ctypes.Structure):
    _fields_: ClassVar = [
        ("y", _P), ("bias", _P), ("lost", _P), ("size", _P), ("w", _P), ("x", _P), ("x_lost", _P), ("x_size", _P),
        ("ld_y", _I), ("ld_w", _I), ("ld_x", _I), ("first", _I), ("n", _I), ("width", _I), ("summation", _F),
    ]  # fmt: skip


class _Proposed(ctypes.Structure):
    _fields_: ClassVar = [
        ("k", _I), ("room", _I), ("index", _P), ("low", _P), ("up", _P), ("filled", _P), ("floors", _P),
    ]  # fmt: skip


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices (AMX or AVX-512 BF16) and the kernels are there."""
    flags: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if flags:
        return library() is not None and bool(flags.get("amx_bf16") or flags.get("avx512_bf16"))
    asked = (
        getattr(torch.cpu, name, lambda: False) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return library() is not None and any(bool(ask()) for ask in asked)


def _halve(a: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """bfloat16 copies of rows, the norms of what that lost, and the norms of the copies (rounded up)."""
    rows, width = a.shape
    half = workspace(name, (rows, width), torch.bfloat16, a.device)
    lost, size = torch.empty(rows), torch.empty(rows)
    step = a.stride(0)
    units = [
        (address(a) + 4 * i * step, step, j - i, width, address(half) + 2 * i * width, address(lost) + 4 * i,
         address(size) + 4 * i)
        for i, j in runs_of(rows, 16)
    ]  # fmt: skip
    each("halve", units)
    return half, lost, size


class Halved:
    """An encoder in both precisions, for the batches of one step.

    z[b, j] = <W[j], x[b]> + bias[j] in float32, summed in one defined order (64 running sums, then a tree).
    `fell_back` counts rows that the bound could not decide within `limit` exact values: those are computed in full.
    """

    def __init__(self, weight: Float[Tensor, "n_q n_p"], bias: Float[Tensor, " n_q"]) -> None:
        assert usable(weight, bias)
        self.weight, self.bias = weight, bias.contiguous()
        self.half, self.lost, self.size = _halve(weight, "half W")
        self.fell_back = self.rows = self.computed = 0

    def _products(self, x: Tensor) -> Iterator[tuple[_Product, Tensor]]:
        """(the product of some rows with some latents for C, and as a tensor), latents by latents."""
        half, x_lost, x_size = _halve(x, "half x")
        for first in range(0, self.bias.numel(), COLUMNS):
            some = self.half[first : first + COLUMNS]
            y = workspace("half z", (x.shape[0], some.shape[0]), torch.bfloat16, x.device)
            torch.mm(half, some.T, out=y)
            yield self._parts(x, x_lost, x_size, y, first), y

    def _parts(self, x: Tensor, x_lost: Tensor | None, x_size: Tensor | None, y: Tensor, first: int) -> _Product:
        width = self.weight.shape[1]
        return _Product(
            y=address(y), bias=address(self.bias), lost=address(self.lost), size=address(self.size),
            w=address(self.weight), x=address(x), x_lost=address(x_lost), x_size=address(x_size),
            ld_y=y.stride(0), ld_w=self.weight.stride(0), ld_x=x.stride(0), first=first, n=y.shape[1], width=width,
            summation=(width + 2) * 2.0**-24 * 1.01,
        )  # fmt: skip

    def sample(self, x: Float[Tensor, "rows n_p"], size: int) -> Float[Tensor, " some"]:
        """Near values of about `size` cells of evenly spaced rows."""
        some = x[:: max(1, x.shape[0] // _SAMPLE_ROWS)]
        half, _, _ = _halve(some, "half x")
        near = torch.mm(self.half, half.T)  # this way round twice as fast for few rows
        stride = max(1, near.numel() // size)
        return near.reshape(-1)[::stride].float() + self.bias[torch.arange(0, near.numel(), stride) // some.shape[0]]

    def top(self, x: Float[Tensor, "rows n_p"], k: int, limit: int | None = None) -> tuple[Tensor, Tensor] | None:
        """(columns, z) of the k largest z of each row, columns ascending; None if NaN is met."""
        parts = [self._top(x[i : i + ROWS], k, limit) for i in range(0, x.shape[0], ROWS)]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts):
            return None
        return torch.cat([index for index, _ in whole]), torch.cat([z for _, z in whole])

    def _top(self, x: Tensor, k: int, limit: int | None) -> tuple[Tensor, Tensor] | None:
        rows, n = x.shape[0], self.bias.numel()
        limit = min(n, 8 * k + 64) if limit is None else limit
        room = max(limit, k) + 64
        kept = torch.empty(rows, room, dtype=torch.int32), torch.empty(rows, room), torch.empty(rows, room)
        filled, floors = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), -torch.inf)
        state = _Proposed(k, room, *map(address, (*kept, filled, floors)))
        runs = runs_of(rows, _RUNS)
        scratch = torch.empty(len(runs), 2 * (min(n, COLUMNS) + 64) + room)
        for parts, _y in self._products(x):
            head = address(state), address(parts)
            each("propose", [(*head, *run, address(own)) for run, own in zip(runs, scratch, strict=True)])
        units = [(address(state), *run, limit, address(own)) for run, own in zip(runs, scratch, strict=True)]
        before = [0, *accumulate(each("proposed", units))]
        col = torch.empty(before[-1], dtype=torch.int64)
        each("hand", [(address(state), *run, address(col[at:]), 0) for run, at in zip(runs, before, strict=False)])
        z = self._exact(x, filled, col)
        if bool(z.isnan().any()):
            return None
        each("hand", [(address(state), *run, 0, address(z[at:])) for run, at in zip(runs, before, strict=False)])
        again = (filled == 0).nonzero().squeeze(1)
        self.rows, self.fell_back = self.rows + rows, self.fell_back + again.numel()
        index, value, _ = largest(k, kept[0], kept[1], filled)
        if again.numel():
            full = top(self._exact_rows(x, again), k)
            if full is None:
                return None
            index[again], value[again] = full
        return index, value

    def above(self, x: Float[Tensor, "rows n_p"], floors: Tensor | float, room: int) -> tuple[Tensor, ...] | None:
        """(cells per row, columns, z) of every z above its column's floor; None if they exceed `room`, or on NaN."""
        parts = [self._above(x[i : i + ROWS], floors, room) for i in range(0, x.shape[0], ROWS)]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts) or sum(part[1].numel() for part in whole) > room:
            return None
        return tuple(torch.cat(column) for column in zip(*whole, strict=True))

    def _above(self, x: Tensor, floors: Tensor | float, room: int) -> tuple[Tensor, Tensor, Tensor] | None:
        rows = x.shape[0]
        floors = floors.contiguous() if isinstance(floors, Tensor) else torch.tensor(floors)
        runs, left, pieces = runs_of(rows, _RUNS), room, []
        for parts, _y in self._products(x):
            counts, share = torch.empty(rows, dtype=torch.int64), -(-left // max(len(runs), 1))
            index = torch.empty(len(runs), share, dtype=torch.int64)
            given = address(floors), int(floors.ndim > 0), share, address(counts)
            units = [(address(parts), *run, *given, address(own)) for run, own in zip(runs, index, strict=True)]
            totals = each("certified_above", units)
            if not all(0 <= total <= share for total in totals):
                return None
            pieces.append((counts, torch.cat([own[:total] for own, total in zip(index, totals, strict=True)]), None))
            left -= sum(totals)
        counts, col, _ = join(pieces)
        z = self._exact(x, counts, col)
        keep = z > (floors[col] if floors.ndim else floors)
        kept = torch.zeros(keep.numel() + 1, dtype=torch.int64)  # before each cell
        torch.cumsum(keep, 0, out=kept[1:])
        ends = counts.cumsum(0)
        self.rows += rows
        return kept[ends] - kept[ends - counts], col[keep], z[keep]

    def _exact(self, x: Tensor, counts: Tensor, col: Tensor) -> Tensor:
        """z of some cells, row by row; computed latent by latent, so that rows of W come one after another."""
        crow = torch.zeros(counts.numel() + 1, dtype=torch.int64)
        torch.cumsum(counts, 0, out=crow[1:])
        z, n = torch.zeros(col.numel()), self.bias.numel()
        inner(order_cells(crow, col, n, x.shape[0])[0], 0, n, x, self.weight, z)
        self.computed += col.numel()
        return z.add_(self.bias[col])

    def _exact_rows(self, x: Tensor, chosen: Tensor) -> Tensor:
        n = self.bias.numel()
        out, parts = torch.empty(chosen.numel(), n), self._parts(x, None, None, self.half[:0], 0)
        head = address(parts), address(chosen), chosen.numel(), n
        each("exact_rows", [(*head, *run, address(out)) for run in runs_of(n, 64)])
        return out

    def every(self, x: Float[Tensor, "rows n_p"]) -> Float[Tensor, "rows n_q"]:
        """z of every cell in the defined order: what `top` and `above` are exact about."""
        return self._exact_rows(x, torch.arange(x.shape[0]))

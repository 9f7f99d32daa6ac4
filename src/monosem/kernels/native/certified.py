"""Exact selection from a bfloat16 encoder product; see certified.c for the bound that proves it."""

import ctypes
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.kernels.native.build import library
from monosem.kernels.native.calls import inner, order_cells, pointer, row_tile, runs_of, spread, usable
from monosem.kernels.native.select import top
from monosem.kernels.workspace import workspace

__all__ = ["TILE", "Halved", "has_bfloat16"]

TILE = 256
"""Rows of one product: its output then stays in cache."""

_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Product(ctypes.Structure):
    _fields_: ClassVar = [
        ("y", _P), ("bias", _P), ("lost", _P), ("size", _P), ("w", _P), ("x", _P), ("x_lost", _P), ("x_size", _P),
        ("ld_y", _I), ("ld_w", _I), ("ld_x", _I), ("n", _I), ("width", _I), ("summation", _F),
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
    lib, (rows, width) = library(), a.shape
    assert lib is not None
    half = workspace(name, (rows, width), torch.bfloat16, a.device)
    lost, size = torch.empty(rows), torch.empty(rows)
    runs = runs_of(rows, 16)

    def work(unit: int) -> None:
        i, j = runs[unit]
        lib.monosem_halve(
            _P(a.data_ptr() + 4 * i * a.stride(0)), _I(a.stride(0)), _I(j - i), _I(width),
            _P(half.data_ptr() + 2 * i * width), _P(lost.data_ptr() + 4 * i), _P(size.data_ptr() + 4 * i),
        )  # fmt: skip

    spread(work, len(runs))
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
        self._last: tuple[Tensor, _Product, list[Tensor]] | None = None

    def _product(self, x: Tensor) -> tuple[_Product, list[Tensor]]:
        """The product of some rows; of the same rows once more, the same."""
        if self._last is None or self._last[0] is not x:
            self._last = x, *self._fresh(x)
        return self._last[1], self._last[2]

    def _fresh(self, x: Tensor) -> tuple[_Product, list[Tensor]]:
        half, x_lost, x_size = _halve(x, "half x")
        y = workspace("half z", (x.shape[0], self.bias.numel()), torch.bfloat16, x.device)
        torch.mm(half, self.half.T, out=y)
        width = self.weight.shape[1]
        parts = _Product(
            y=pointer(y), bias=pointer(self.bias), lost=pointer(self.lost), size=pointer(self.size),
            w=pointer(self.weight), x=pointer(x), x_lost=pointer(x_lost), x_size=pointer(x_size),
            ld_y=y.stride(0), ld_w=self.weight.stride(0), ld_x=x.stride(0), n=y.shape[1], width=width,
            summation=(width + 2) * 2.0**-24 * 1.01,
        )  # fmt: skip
        return parts, [y, x_lost, x_size]

    def sample(self, x: Float[Tensor, "rows n_p"], size: int) -> Float[Tensor, " some"]:
        """Near values of about `size` cells."""
        n = self.bias.numel()
        _, held = self._product(x)
        stride = max(1, x.shape[0] * n // size)
        cells = torch.arange(0, x.shape[0] * n, stride)
        return held[0].reshape(-1)[::stride].float() + self.bias[cells % n]

    def top(self, x: Float[Tensor, "rows n_p"], k: int, limit: int | None = None) -> tuple[Tensor, Tensor] | None:
        """(columns, z) of the k largest z of each row of a tile, columns ascending; None if NaN is met."""
        lib, rows, n = library(), x.shape[0], self.bias.numel()
        assert lib is not None
        limit = min(n, 8 * k + 64) if limit is None else limit
        parts, held = self._product(x)
        index, value = torch.empty(rows, k, dtype=torch.int64), torch.empty(rows, k)
        failed = torch.empty(rows, dtype=torch.bool)
        runs = runs_of(rows, 16)
        computed = [0] * len(runs)

        def work(unit: int) -> None:
            i, j = runs[unit]
            scratch = torch.empty(7 * n + 64)
            computed[unit] = lib.monosem_certified_top(
                ctypes.byref(parts), _I(i), _I(j), _I(k), _I(limit), pointer(index), pointer(value), pointer(failed),
                pointer(scratch),
            )  # fmt: skip

        spread(work, len(runs))
        again = failed.nonzero().squeeze(1)
        self.rows, self.fell_back, self.computed = (
            self.rows + rows,
            self.fell_back + again.numel(),
            self.computed + sum(computed),
        )
        if again.numel():
            full = top(self._exact_rows(parts, again), k)
            if full is None:
                return None
            index[again], value[again] = full
        del held
        return index, value

    def above(self, x: Float[Tensor, "rows n_p"], floors: Tensor | float, room: int) -> tuple[Tensor, ...] | None:
        """(cells per row, columns, z) of every z above its column's floor; None if they exceed `room`, or on NaN."""
        lib, rows, n = library(), x.shape[0], self.bias.numel()
        assert lib is not None
        parts, held = self._product(x)
        runs = runs_of(rows, 8)
        share = -(-room // max(len(runs), 1))
        counts = torch.zeros(rows, dtype=torch.int64)
        found: list[Tensor] = [torch.empty(0)] * len(runs)
        full = [False] * len(runs)
        columns, one = (floors.contiguous(), 0.0) if isinstance(floors, Tensor) else (None, float(floors))

        def work(unit: int) -> None:
            i, j = runs[unit]
            index, scratch = torch.empty(share, dtype=torch.int64), torch.empty(4 * n)
            total = lib.monosem_certified_above(
                ctypes.byref(parts), _I(i), _I(j), pointer(columns), _F(one), _I(share), pointer(counts),
                pointer(index), pointer(scratch),
            )  # fmt: skip
            full[unit] = not 0 <= total <= share
            found[unit] = index[: max(total, 0)].clone()

        spread(work, len(runs))
        del held
        if any(full):
            return None
        col = torch.cat(found)
        crow = torch.zeros(rows + 1, dtype=torch.int64)
        torch.cumsum(counts, 0, out=crow[1:])
        z = torch.zeros(col.numel())  # latent by latent, so that rows of W come one after another
        inner(order_cells(crow, col, n, row_tile(crow.numel() - 1, x.shape[1])), 0, n, x, self.weight, z)
        z += self.bias[col]
        keep = z > (one if columns is None else columns[col])
        row = torch.repeat_interleave(torch.arange(rows), counts)[keep]
        self.rows, self.computed = self.rows + rows, self.computed + col.numel()
        return torch.bincount(row, minlength=rows), col[keep], z[keep]

    def _exact_rows(self, parts: _Product, chosen: Tensor) -> Tensor:
        lib, n = library(), self.bias.numel()
        assert lib is not None
        out = torch.empty(chosen.numel(), n)
        runs = runs_of(n, 64)

        def work(unit: int) -> None:
            i, j = runs[unit]
            lib.monosem_exact_rows(ctypes.byref(parts), pointer(chosen), _I(chosen.numel()), _I(i), _I(j), pointer(out))

        spread(work, len(runs))
        return out

    def every(self, x: Float[Tensor, "rows n_p"]) -> Float[Tensor, "rows n_q"]:
        """z of every cell in the defined order: what `top` and `above` are exact about."""
        parts, held = self._product(x)
        out = self._exact_rows(parts, torch.arange(x.shape[0]))
        del held
        return out

"""Passes over the rows of a weight: an fp16 copy with norms, and an optimiser step from cells or a dense gradient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check
from monosem.kernels.gpu.cells import CHUNK, partial_sums, power_of_two, rows_in_order
from monosem.kernels.gpu.launch import launch
from monosem.kernels.native.calls import Ordered
from monosem.kernels.native.rows import KEEP_ABOVE, CellSet

WIDEST = 2**14
"""Columns of a piece of a row that one program can hold."""


@dataclass(frozen=True, eq=False)
class Narrowed:
    """scale * table in fp16, with |scale row| and |scale row - low row| of each row."""

    low: Float[Tensor, "rows width"]
    scale: Float[Tensor, ""]
    size: Float[Tensor, " rows"]
    off: Float[Tensor, " rows"]


class RowStep:
    """Projection, clipping and Adam for one float32 weight [rows, width], in place.

    The gradient is `base` (dense, or None) plus a sum over the cells of every set, which is never written out.
    `bounds`: columns where pieces of a row begin and end; each piece is projected on (its part along the weight is
    taken out of the gradient) with `project` and brought to unit norm with `unit`; with neither, rows are cut anywhere.

    Raises: ShapeError, DataError.
    """

    def __init__(
        self,
        weight: Float[Tensor, "rows width"],
        base: Float[Tensor, "rows width"] | None,
        sets: Sequence[CellSet],
        bounds: Sequence[int],
        project: bool,
        unit: bool,
    ) -> None:
        if not (project or unit):
            bounds = sorted({*bounds, *range(0, weight.shape[1], WIDEST)})
        _check(weight, base, bounds)
        self.weight, self.base, self.project, self.unit = weight, base, project, unit
        self._widest = max(b - a for a, b in pairwise(bounds))
        self.bounds = torch.tensor(bounds, dtype=torch.int32, device=weight.device)
        self._sets = sets if len(sets) <= 2 else [sets[0], _merged(sets[1:], weight.shape[0])]
        self._parts = [_arguments(part) for part in self._sets]
        self._kept: Tensor | None = None

    def _launch(self, name: str, *arguments: Any, **constants: Any) -> None:
        weight, pieces = self.weight, self.bounds.numel() - 1
        nothing = (weight, 0, weight, weight, weight, 0, weight)  # stands for a set that is not there
        first, second = [*self._parts, nothing, nothing][:2]
        wide = power_of_two(self._widest, WIDEST)
        launch(
            name, (weight.shape[0], pieces), weight, weight if self.base is None else self.base, *first, *second,
            self.bounds, *arguments,
            BASE=self.base is not None, SETS=len(self._sets), PROJECT=self.project, WIDTH=wide, CHUNK=CHUNK,
            CELLS=max(1, min(8, 2**14 // wide)), warps=max(4, min(16, wide // 256)), **constants,
        )  # fmt: skip

    def squared_norm(self) -> Float[Tensor, ""]:
        """||projected gradient||^2, summed over all rows; a tensor on the device, so that nobody waits for it.

        Where many rows are gathered for each row of the weight, their sums are kept for `adam`.
        """
        squares = torch.zeros(self.weight.shape[0], self.bounds.numel() - 1, device=self.weight.device)
        if squares.numel():
            keep = sum(part.cells.cell.numel() for part in self._sets) > KEEP_ABOVE * self.weight.shape[0]
            self._kept = torch.empty_like(self.weight) if keep else None
            kept = self.weight if self._kept is None else self._kept
            self._launch("row_norm", squares, kept, self.weight.shape[1], KEEP=keep)
        return squares.sum(dtype=torch.float64).float()

    def adam(
        self,
        m: Float[Tensor, "rows width"],
        v: Float[Tensor, "rows width"],
        moved: Bool[Tensor, " rows"] | None,
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        scale: Float[Tensor, ""] | float,
        low: Float[Tensor, "rows width"] | None = None,
    ) -> None:
        """Step number `step` (from 1) of Adam, in place.

        Equation: g <- scale (projected gradient); m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2;
            w <- w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps); each piece of w to unit norm (unit);
            low <- w rounded to bf16.
        `moved` marks rows that had a gradient at any time and is kept up to date: others have zero moments and are
        passed over. Every row that ever moved moves again, whether its gradient is zero or not: this is Adam, not
        an optimiser over touched rows. `low` must hold the rounding of w before.
        Source: Kingma and Ba 2015, algorithm 1.
        """
        weight = self.weight
        for name, tensor in (("m", m), ("v", v), ("low", low)):
            fits = tensor is None or (tensor.shape == weight.shape and tensor.is_contiguous())
            check(fits, f"{name} must be contiguous and of the weight's shape {tuple(weight.shape)}", ShapeError)
        if not weight.numel():
            return
        scale = torch.as_tensor(scale, dtype=torch.float32).to(weight.device)
        self._launch(
            "row_step", weight if low is None else low, m, v, weight if moved is None else moved, scale,
            weight if self._kept is None else self._kept, weight.shape[1],
            lr / (1 - betas[0] ** step), betas[0], 1 - betas[0], betas[1], 1 - betas[1],
            (1 - betas[1] ** step) ** 0.5, eps, UNIT=self.unit, MOVED=moved is not None, LOW=low is not None,
            KEPT=self._kept is not None,
        )  # fmt: skip


def narrowed(table: Float[Tensor, "rows width"]) -> Narrowed:
    """A float32 or bf16 table in fp16, times the power of two that brings every row to a norm of at most 128.

    An inner product of two such rows is at most 2^14, and numbers of 2^-20 of the largest are still normal in fp16.
    """
    table = rows_in_order(table)
    rows, width = table.shape
    low = torch.empty(rows, width, dtype=torch.float16, device=table.device)
    size, off = (torch.zeros(rows, dtype=torch.float32, device=table.device) for _ in range(2))
    scale = torch.ones((), device=table.device)
    if rows and width:
        largest = torch.linalg.vector_norm(table, torch.inf).float()
        exponent = torch.frexp(torch.where(largest.isfinite(), largest, scale)).exponent
        half_width = math.ceil(math.log2(width) / 2)  # |row| <= 2^half_width |row|_inf
        scale = torch.ldexp(scale, (7 - half_width - exponent).clamp(-60, 60))
        launch(
            "narrow", (-(-rows // 16),), table, table.stride(0), scale, low, size, off, rows, width,
            ROWS=16, WIDTH=power_of_two(width, 256),
        )  # fmt: skip
    return Narrowed(low, scale, size, off)


def _merged(sets: Sequence[CellSet], rows: int) -> CellSet:
    """Several sets as one, their tables on top of each other: the programs take two."""
    latents, cells, values, above = [], [], [], 0
    for part in sets:
        starts = part.cells.starts[part.first : part.first + rows + 1]
        inside = slice(int(starts[0]), int(starts[-1]))
        latents.append(torch.repeat_interleave(torch.arange(rows, device=starts.device), starts.diff()))
        cells.append(part.cells.row[inside].long() + above)
        values.append(part.values[part.cells.cell[inside].long()])
        above += part.x.shape[0]
    latent = torch.cat(latents)
    order, runs = torch.argsort(latent, stable=True), torch.zeros(rows + 1, dtype=torch.int64, device=latent.device)
    torch.cumsum(torch.bincount(latent, minlength=rows), 0, out=runs[1:])
    together = Ordered(0, above, runs, torch.cat(cells)[order], order)
    return CellSet(together, torch.cat(values), torch.cat([part.x for part in sets]), 0)


def _arguments(part: CellSet) -> tuple[Any, ...]:
    """A set as the programs take it: its values in the order of its cells, and the sums of its whole chunks."""
    x, values = rows_in_order(part.x), part.values[part.cells.cell.long()].float()
    starts, row = part.cells.starts.contiguous(), part.cells.row.contiguous()
    return starts, part.first, row, values, x, x.stride(0), partial_sums(x, row, starts, values)


def _check(weight: Tensor, base: Tensor | None, bounds: Sequence[int]) -> None:
    check(weight.dtype == torch.float32, f"weight is {weight.dtype}; give the float32 master", DataError)
    check(weight.is_contiguous(), "weight is not contiguous; keep latents as rows", DataError)
    if base is not None:
        shapes = f"base has shape {tuple(base.shape)}, weight {tuple(weight.shape)}; they must agree"
        check(base.shape == weight.shape, shapes, ShapeError)
        check(base.is_contiguous(), "base is not contiguous; give base.contiguous()", DataError)
    pairs = list(pairwise(bounds))
    whole = bool(pairs) and bounds[0] == 0 and bounds[-1] == weight.shape[1] and all(a <= b for a, b in pairs)
    check(whole, f"bounds={tuple(bounds)} must rise from 0 to the weight's {weight.shape[1]} columns", ShapeError)
    widest = max(b - a for a, b in pairs)
    check(widest <= WIDEST, f"a piece of {widest} columns, at most {WIDEST} fit: cut it, or use torch.optim.Adam")

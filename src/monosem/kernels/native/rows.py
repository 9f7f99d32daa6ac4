"""One optimiser step on the rows of a weight whose gradient is still cells; see rows.c."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from monosem.kernels.native.calls import Ordered
from monosem.kernels.native.team import address, each, runs_of_cost
from monosem.kernels.workspace import workspace

_P, _I, _F, _N = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int32
KEEP_ABOVE = 8
"""Cells per row above which a gradient is built once and kept between the norm and the step."""

_RUNS, _ROW = 32, 8
"""Runs of rows for several threads, and what a row costs in cells; no result depends on them."""


class _Set(ctypes.Structure):
    _fields_: ClassVar = [
        ("starts", _P), ("order_cell", _P), ("order_row", _P), ("values", _P), ("x", _P), ("ld_x", _I), ("first", _I),
    ]  # fmt: skip


class _Rows(ctypes.Structure):
    _fields_: ClassVar = [
        ("w", _P), ("m", _P), ("v", _P), ("share", _P), ("base", _P), ("kept", _P), ("sets", _P),
        ("bounds", _P), ("width", _I), ("n_sets", _I),
        ("pieces", _I), ("project", _N), ("unit", _N), ("shared", _N), ("scale", _F), ("beta1", _F),
        ("beta2", _F), ("step", _F),
        ("root", _F), ("eps", _F),
    ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class CellSet:
    """A part of a weight's gradient: row j gets sum over latent (first + j)'s cells of values[cell] * x[row].

    `along`, if known: the share of the weight's row in it, and the squared norm of the rest, row by row.
    """

    cells: Ordered
    values: Tensor
    x: Tensor
    first: int
    along: tuple[Tensor, Tensor] | None = None

    def plain(self) -> _Set:
        """For C; `values` must be contiguous and live on."""
        return _Set(
            address(self.cells.starts), address(self.cells.cell), address(self.cells.row), address(self.values),
            address(self.x), self.x.stride(0), self.first,
        )  # fmt: skip

    def dense(self, rows: int) -> Tensor:
        """The same gradient as a tensor [rows, width], by stock operations."""
        stop = self.first + rows
        a, b = int(self.cells.starts[self.first]), int(self.cells.starts[stop])
        cell, row = self.cells.cell[a:b], self.cells.row[a:b].long()
        latent = torch.repeat_interleave(torch.arange(rows), self.cells.starts[self.first : stop + 1].diff())
        return self.x.new_zeros(rows, self.x.shape[1]).index_add_(0, latent, self.values[cell, None] * self.x[row])


def inner_alone(cells: CellSet, weight: Tensor) -> tuple[Tensor, CellSet]:
    """(<x[row], weight[latent]> of every cell, the same set with `along` known); cells.first is 0."""
    width, cells = weight.shape[1], replace(cells, values=cells.values.contiguous())
    rows, plain = weight.shape[0], cells.plain()
    products, share, rest = torch.empty_like(cells.values), torch.empty(rows), torch.empty(rows, dtype=torch.float64)
    runs = runs_of_cost(cells.cells.starts, _RUNS)
    scratch, given = torch.empty(len(runs), width), tuple(map(address, (products, share, rest)))
    head = address(plain), address(weight), width
    each("rows_inner", [(*head, a, b, *given, _row(scratch, unit)) for unit, (a, b) in enumerate(runs)])
    return products, replace(cells, along=(share, rest))


def _row(scratch: Tensor, unit: int) -> int:
    return address(scratch) + 4 * scratch.shape[1] * unit


class RowStep:
    """Projection, clipping and Adam for one weight [rows, width], in place.

    `bounds`: columns where pieces of a row begin and end; each piece is projected on (its part along the weight is
    taken out of the gradient) with `project` and brought to unit norm with `unit`. `moved` marks rows that had a
    gradient at any time.
    """

    def __init__(
        self,
        weight: Tensor,
        base: Tensor | None,
        sets: Sequence[CellSet],
        bounds: Sequence[int],
        project: bool,
        unit: bool,
    ) -> None:
        self.weight, self.base = weight, base
        self.sets = [replace(s, values=s.values.contiguous()) for s in sets]
        self.bounds = torch.tensor(bounds, dtype=torch.int64)
        parts = [s.plain() for s in self.sets]
        self._sets = (_Set * max(len(parts), 1))(*parts)
        self._share = torch.empty(weight.shape[0], len(bounds) - 1)
        self._rows = _Rows(
            w=address(weight), share=address(self._share), base=address(base),
            sets=ctypes.cast(self._sets, _P), bounds=address(self.bounds),
            width=weight.shape[1], n_sets=len(parts), pieces=len(bounds) - 1, project=project, unit=unit,
        )  # fmt: skip

    def _over_rows(self, kernel: str, per_row: int) -> None:
        """A kernel over all rows; `per_row` is the address of what it has beside its own scratch."""
        rows = self.weight.shape[0]
        cost = torch.arange(rows + 1) * _ROW
        for cells in self.sets:
            cost = cost + cells.cells.starts[cells.first : cells.first + rows + 1]
        runs = runs_of_cost(cost, _RUNS)
        scratch = torch.empty(len(runs), self.weight.shape[1])
        each(kernel, [(address(self._rows), a, b, per_row, _row(scratch, unit)) for unit, (a, b) in enumerate(runs)])

    def squared_norm(self) -> float:
        """||projected gradient||^2, summed over all rows.

        It is known already where one set alone says what lies along the rows that are to be freed of it. Gradients of
        few cells are built again by `adam`; those of many are kept, in memory of the weight's size.
        """
        along = self.sets[0].along if len(self.sets) == 1 and self.base is None else None
        if along is not None and self._rows.project and self._rows.pieces == 1:
            self._share, self._rows.share, self._rows.shared = along[0], address(along[0]), 1
            return float(along[1].sum())
        if sum(s.cells.cell.numel() for s in self.sets) > KEEP_ABOVE * self.weight.shape[0]:
            shape = tuple(self.weight.shape)
            self._kept = workspace(f"gradient {self.weight.data_ptr()}", shape, torch.float32, torch.device("cpu"))
            self._rows.kept = address(self._kept)
        squares = torch.zeros(self.weight.shape[0], dtype=torch.float64)
        self._over_rows("rows_norm", address(squares))
        self._rows.shared = 1
        return float(squares.sum())

    def adam(
        self, m: Tensor, v: Tensor, moved: Tensor, step: int, lr: float, betas: tuple[float, float], eps: float,
        scale: Tensor | float,
    ) -> None:  # fmt: skip
        """Step number `step` (from 1) of Adam with the projected gradient times `scale`, then the row norms."""
        rows = self._rows
        rows.m, rows.v, rows.scale, rows.eps = address(m), address(v), float(scale), eps
        rows.beta1, rows.beta2 = betas
        rows.step, rows.root = lr / (1 - betas[0] ** step), (1 - betas[1] ** step) ** 0.5
        self._over_rows("rows_step", address(moved))

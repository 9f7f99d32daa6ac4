"""Codes: latents of a batch, sparse or dense, with one interface.

A `Positions` says which cells (row, latent) of a [batch, n_q] code are carried; a `SparseCode`
adds their values. A `DenseCode` carries every cell. Loss terms read either through the same
members, so each term is written once:

    values      the carried cells: [nnz] or [batch, n_q]
    along(v)    a per-latent vector [n_q], laid along `values`
    row_sum(e)  entries laid along `values`, summed over the latents of each row -> [batch]
    latent_sum  the same, summed over the rows of each latent -> [n_q]
    keep(m)     only the latents where m [n_q] holds
    to_dense()  [batch, n_q], zeros elsewhere; where the rows had other leading axes, [*leading, n_q]
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import ShapeError, check


@dataclass(frozen=True, eq=False)
class Positions:
    """Cells of a [batch, n_q] array in row order: row pointers `crow` and latent numbers `col`.

    Shapes: crow [batch + 1] and col [nnz], both int64. A row may be empty; a cell stands at most once.
    """

    crow: Int[Tensor, " rows_and_1"]
    col: Int[Tensor, " nnz"]
    n_q: int

    def __post_init__(self) -> None:
        for name, t in (("crow", self.crow), ("col", self.col)):
            good = t.dtype == torch.int64 and t.ndim == 1
            check(
                good, f"{name} is {t.dtype} of shape {tuple(t.shape)}; give positions as one row of int64", ShapeError
            )

    def verify(self) -> None:
        """Make sure, once, that every cell lies in [batch, n_q], before its address does.

        Raises: ShapeError when `crow` does not rise from 0 to the number of cells, or a latent is outside [0, n_q).
        """
        start, end, falls, least, most = self._extremes
        rises = start == 0 and end == self.nnz and not falls
        check(
            rises,
            f"crow runs from {start} to {end} over {self.nnz} cells; it must rise from 0 to {self.nnz}",
            ShapeError,
        )
        inside = least >= 0 and most < self.n_q
        check(
            inside, f"latents {least} to {most} in positions of n_q={self.n_q}; they run from 0 to n_q - 1", ShapeError
        )

    @cached_property
    def _extremes(self) -> tuple[int, int, bool, int, int]:
        """First and last of crow, whether it ever falls, least and largest latent (0, -1 without cells)."""
        if not self.crow.numel():
            return 0, -1, False, 0, -1
        falls = bool((self.crow[1:] < self.crow[:-1]).any())
        least, most = (int(t) for t in self.col.aminmax()) if self.nnz else (0, -1)
        return int(self.crow[0]), int(self.crow[-1]), falls, least, most

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.crow.numel() - 1

    @property
    def nnz(self) -> int:
        """Number of cells."""
        return self.col.numel()

    @cached_property
    def row(self) -> Int[Tensor, " nnz"]:
        """The row of every cell."""
        rows = torch.arange(self.batch, device=self.col.device)
        return torch.repeat_interleave(rows, self.crow.diff(), output_size=self.nnz)

    @cached_property
    def latent_major(self) -> tuple[Int[Tensor, " nnz"], Int[Tensor, " n_q_and_1"]]:
        """(order, offsets): cells sorted by latent (stable in rows), and where each latent's run starts.

        On the CPU numpy sorts: torch's parallel radix sort meets many barriers and stalls on a busy machine.
        """
        if self.col.is_cuda:
            order = torch.argsort(self.col, stable=True)
        else:
            small = np.uint16 if self.n_q <= 2**16 else np.int64  # 16 bits sort by radix, in linear time
            order = torch.from_numpy(np.argsort(self.col.numpy().astype(small, copy=False), kind="stable"))
        latents = torch.arange(self.n_q + 1, device=order.device)
        return order, torch.searchsorted(self.col[order], latents)  # bincount waits for a GPU

    def mask(self) -> Bool[Tensor, "batch n_q"]:
        """The same cells as a dense mask."""
        mask = torch.zeros(self.batch, self.n_q, dtype=torch.bool, device=self.col.device)
        mask[self.row, self.col] = True
        return mask

    def subset(self, chosen: Bool[Tensor, " nnz"]) -> "Positions":
        """Only the cells where `chosen` holds."""
        counts = torch.zeros(self.batch + 1, dtype=torch.int64, device=self.col.device)
        running = torch.cumsum(chosen, 0)
        ends = self.crow[1:]
        counts[1:] = torch.where(ends > 0, running[(ends - 1).clamp(min=0)], 0) if self.nnz else 0
        return Positions(counts, self.col[chosen], self.n_q)

    def split_rows(self, part: Int[Tensor, " n_q"], parts: int) -> tuple["Positions", Int[Tensor, " nnz"]]:
        """Every row as `parts` rows, one per part of the latents: (positions, where each cell came from).

        Row b * parts + i of the result holds row b's cells whose latent lies in part i.
        """
        row = self.row * parts + part[self.col]
        if bool((row[1:] >= row[:-1]).all()):  # columns that ascend within rows are in order where parts are
            order = torch.arange(row.numel(), device=row.device)
        elif row.is_cuda:
            order = torch.argsort(row, stable=True)
        else:
            order = torch.from_numpy(np.argsort(row.numpy(), kind="stable"))
        crow = torch.zeros(self.batch * parts + 1, dtype=torch.int64, device=row.device)
        torch.cumsum(torch.bincount(row, minlength=self.batch * parts), 0, out=crow[1:])
        return Positions(crow, self.col[order], self.n_q), order

    @staticmethod
    def from_mask(mask: Bool[Tensor, "batch n_q"]) -> "Positions":
        """The cells where `mask` holds. numpy finds them several times faster than torch on the CPU."""
        batch, n_q = mask.shape
        if mask.is_cuda:
            row, col = mask.nonzero(as_tuple=True)
            counts = mask.sum(1)
        else:
            flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
            row = torch.div(flat, max(n_q, 1), rounding_mode="floor")
            col, counts = flat - row * n_q, torch.bincount(row, minlength=batch)
        crow = torch.zeros(batch + 1, dtype=torch.int64, device=mask.device)
        torch.cumsum(counts, 0, out=crow[1:])
        return Positions(crow, col, n_q)

    @staticmethod
    def below(parts: Sequence["Positions"]) -> "Positions":
        """Tiles of rows, one below the other."""
        crow = [parts[0].crow]
        for part in parts[1:]:
            crow.append(part.crow[1:] + crow[-1][-1])
        return Positions(torch.cat(crow), torch.cat([part.col for part in parts]), parts[0].n_q)

    @staticmethod
    def from_rows(index: Int[Tensor, "batch k"], n_q: int) -> "Positions":
        """Exactly k cells per row, their latents given row by row."""
        batch, k = index.shape
        crow = torch.arange(0, batch * k + 1, k, device=index.device) if k else index.new_zeros(batch + 1)
        return Positions(crow, index.reshape(-1), n_q)


@dataclass(frozen=True, eq=False, repr=False)
class SparseCode:
    """Latents at some positions; zero elsewhere. `values` [nnz] may hold explicit zeros.

    `leading`: the axes that the rows had before they were laid one below the other; None where it is one.
    """

    at: Positions
    values: Float[Tensor, " nnz"]
    is_sparse: bool = field(default=True, init=False)
    leading: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return _one_line(self)

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.at.batch

    @property
    def n_q(self) -> int:
        """Number of latents."""
        return self.at.n_q

    def along(self, per_latent: Float[Tensor, " n_q"]) -> Float[Tensor, " nnz"]:
        """A per-latent vector, laid along `values`."""
        return per_latent[self.at.col]

    def row_sum(self, entries: Tensor) -> Float[Tensor, " batch"]:
        """Entries laid along `values`, summed over each row."""
        return entries.new_zeros(self.batch).index_add(0, self.at.row, entries)

    def latent_sum(self, entries: Tensor) -> Tensor:
        """Entries laid along `values`, summed over each latent; [n_q]."""
        return entries.new_zeros(self.n_q).index_add(0, self.at.col, entries)

    def with_values(self, values: Tensor) -> "SparseCode":
        """The same cells with other values."""
        return SparseCode(self.at, values, leading=self.leading)

    def keep(self, latents: Bool[Tensor, " n_q"]) -> "SparseCode":
        """Only the latents where the mask holds."""
        chosen = latents[self.at.col]
        return SparseCode(self.at.subset(chosen), self.values[chosen], leading=self.leading)

    def count(self) -> int:
        """Latents that are not zero, over all rows."""
        return _count(self.values)

    def to_dense(self) -> Float[Tensor, "*batch n_q"]:
        """[batch, n_q] or [*leading, n_q], zeros elsewhere."""
        dense = self.values.new_zeros(self.batch, self.n_q)
        return spread(self, dense.index_put((self.at.row, self.at.col), self.values))


@dataclass(frozen=True, eq=False, repr=False)
class DenseCode:
    """Latents of every cell; cells that were not selected hold zero.

    `sums`: their sums over rows, where they are known and no latent is negative; `leading`: as for a SparseCode.
    """

    values: Float[Tensor, "batch n_q"]
    sums: Float[Tensor, " n_q"] | None = None
    is_sparse: bool = field(default=False, init=False)
    leading: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return _one_line(self)

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.values.shape[0]

    @property
    def n_q(self) -> int:
        """Number of latents."""
        return self.values.shape[1]

    def along(self, per_latent: Float[Tensor, " n_q"]) -> Float[Tensor, "1 n_q"]:
        """A per-latent vector, laid along `values`."""
        return per_latent[None, :]

    def row_sum(self, entries: Tensor) -> Float[Tensor, " batch"]:
        """Entries laid along `values`, summed over each row."""
        return entries.sum(1)

    def latent_sum(self, entries: Tensor) -> Tensor:
        """Entries laid along `values`, summed over each latent; [n_q]."""
        return self.sums if self.sums is not None and entries is self.values else entries.sum(0)

    def with_values(self, values: Tensor) -> "DenseCode":
        """The same cells with other values."""
        return DenseCode(values, leading=self.leading)

    def keep(self, latents: Bool[Tensor, " n_q"]) -> "DenseCode":
        """Only the latents where the mask holds."""
        return DenseCode(self.values * latents, leading=self.leading)

    def count(self) -> int:
        """Latents that are not zero, over all rows."""
        return _count(self.values)

    def to_dense(self) -> Float[Tensor, "*batch n_q"]:
        """The values themselves, with the leading axes of the rows."""
        return spread(self, self.values)


Code = SparseCode | DenseCode


def spread(code: Code, rows: Float[Tensor, "batch width"]) -> Float[Tensor, "*batch width"]:
    """Rows of a code, with the leading axes that its own rows had."""
    return rows if code.leading is None else rows.reshape(*code.leading, rows.shape[1])


def with_leading(code: Code, leading: tuple[int, ...] | None) -> Code:
    """The same code of rows that had these leading axes."""
    return code if leading is None else replace(code, leading=leading)


def _one_line(code: Code) -> str:
    shape = ", ".join(map(str, (*(code.leading or (code.batch,)), code.n_q)))
    return f"{type(code).__name__}([{shape}], {code.count() / max(code.batch, 1):.1f} active latents a row)"


def _count(values: Tensor) -> int:
    """Values that are not zero; numpy counts twice as fast on the CPU."""
    values = values.detach()
    if values.is_cuda or values.dtype == torch.bfloat16:  # which numpy lacks
        return int(torch.count_nonzero(values))
    return int(np.count_nonzero(values.numpy()))

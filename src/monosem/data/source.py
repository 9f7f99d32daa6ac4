"""A training source of rows in files, checked once from end to end before any step is taken."""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, DataError, check
from monosem.core.units import Units
from monosem.data.table import Table, read_table


class FileSource:
    """Rows (x_p, x_r) of one or two tables; what the format keeps on disk is read row by row as it is used.

    `x_r` None means x_r = x_p. Several sources lie side by side; `p_widths` and `r_widths` are their widths.
    `take` gives the rows that training sees, in `units` if these are set (`normalised` sets them); `sample` and the
    tables give raw ones. `digest` is that of the data where it is known; otherwise all rows are read for it.
    Raises: DataError when a number is NaN or infinite (naming its row and column) or the tables' rows differ in number.
    """

    def __init__(
        self,
        x_p: Table,
        x_r: Table | None = None,
        p_widths: tuple[int, ...] | None = None,
        r_widths: tuple[int, ...] | None = None,
        digest: str | None = None,
    ) -> None:
        if x_r is not None and x_r.rows != x_p.rows:
            raise DataError(
                f"{x_p.path} has {x_p.rows} rows, {x_r.path} has {x_r.rows}; they must be rows of the same inputs"
            )
        target = x_p if x_r is None else x_r
        self.x_p, self.x_r, self.rows = x_p, x_r, x_p.rows
        self.p_widths = p_widths or (x_p.width,)
        self.r_widths = r_widths or (self.p_widths if x_r is None else (target.width,))
        for name, widths, table in (("widths", self.p_widths, x_p), ("target widths", self.r_widths, target)):
            check(min(widths) >= 1, f"{name} {widths} describe {table.path}; each is at least 1")
            if sum(widths) != table.width:
                raise ArgumentError(f"{name} {widths} sum to {sum(widths)}, {table.path} has {table.width} columns")
        self.units: Units | None = None
        self._digest = digest or "+".join(_check_through(table) for table in (x_p, x_r) if table is not None)

    @property
    def digest(self) -> str:
        """Of the data, and of the units in which they are given."""
        return self._digest if self.units is None else f"{self._digest}@{self.units.digest}"

    def normalised(self, centre: bool = True, scale: bool = True, rows: int = 65536) -> "FileSource":
        """Train in units measured on up to `rows` rows: centred, mean norm sqrt(n) for each source; returns itself."""
        self.units = Units.of(*self.sample(rows), self.p_widths, self.r_widths, centre, scale)
        return self

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch n_p"], Float[Tensor, "batch n_r"]]:
        """Rows by number, as float32, in the units of training."""
        rows = self._raw(index)
        return rows if self.units is None else self.units.both(*rows)

    def _raw(self, index: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        x_p = self.x_p.take(index)
        return x_p, x_p if self.x_r is None else self.x_r.take(index)

    def sample(self, rows: int) -> tuple[Float[Tensor, "rows n_p"], Float[Tensor, "rows n_r"]]:
        """Up to `rows` raw rows, spread evenly over the table: what a trained model takes."""
        return self._raw(torch.linspace(0, self.rows - 1, min(rows, self.rows), dtype=torch.float64).round().long())


def open_source(
    data: str | Path,
    target: str | Path | None = None,
    *,
    key: str | None = None,
    target_key: str | None = None,
    widths: tuple[int, ...] | None = None,
    target_widths: tuple[int, ...] | None = None,
) -> FileSource:
    """The rows of a file, or of two files that hold x_p and x_r of the same inputs."""
    x_r = None if target is None else read_table(target, target_key)
    return FileSource(read_table(data, key), x_r, widths, target_widths)


def _check_through(table: Table) -> str:
    """sha256 of a table as float32; refuses NaN and infinity."""
    total = hashlib.sha256(f"{table.rows},{table.width}".encode())
    for start, rows in table.chunks():
        finite = torch.isfinite(rows)
        if not bool(finite.all()):
            at = (~finite).nonzero()
            row, column = start + int(at[0, 0]), int(at[0, 1])
            value = float(table.values[row, column])
            large = abs(value) < float("inf")
            what = f"{value:g}, too large for float32" if large else "NaN" if value != value else "infinity"
            check(
                False,
                f"{table.path}: row {row}, column {column} (counted from 0) holds {what}; "
                + ("rescale the data" if large else "remove or replace such rows"),
                DataError,
            )
        total.update(rows.numpy().tobytes())
    return total.hexdigest()

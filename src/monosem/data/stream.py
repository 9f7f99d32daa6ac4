"""Training rows from a stream: the same rows for a seed, ahead of training, in a ring of bounded size."""

import time
import weakref
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, RefusedError, check
from monosem.base.group import ALONE, Group
from monosem.base.spec import digest
from monosem.core.pairs import Rows
from monosem.core.units import Units
from monosem.data.ring import Cursors, Producer, Ring

BUFFER_ROWS = 65536
"""Rows that are shuffled together, unless said otherwise."""

SPAN = 2**36
"""Rows of a stream are counted modulo this: training begins to count at a multiple of it (train/config.py, Order)."""


class StreamSource:
    """Rows (x_p, x_r) of some sites of a stream; rows of a step are a function of the seed and the step.

    A thread runs `producer` ahead of training into one ring of `buffer` rows and a quarter more, on `device` in
    `dtype`; each `buffer` rows in turn are read in a keyed permutation. Memory is that of the ring, however long the
    stream. With a `cursor` file a run that was killed goes on after making one block again, not the whole stream.
    `read`, `write`: numbers of the producer's sites (write None: x_r = x_p). With `normalise`, training sees units that
    are measured on the first block. With `norm_limit`, rows that are far longer than most are left out (NormLimit);
    `left_out` says how many. `view` gives other sites of the same rows: several dictionaries train from one
    pass, each in a loop and a thread of its own; the fastest waits for the slowest.
    `group`: processes that all take these rows, in step.
    """

    rows: int | None = None

    def __init__(
        self,
        producer: Producer,
        read: Sequence[int],
        write: Sequence[int] | None = None,
        *,
        buffer: int = BUFFER_ROWS,
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        normalise: bool = True,
        cursor: str | Path | None = None,
        norm_limit: float | None = None,
        group: Group = ALONE,
    ) -> None:
        check(buffer >= 1, f"buffer={buffer}; it holds at least one row")
        about = {"rows": producer.digest, "buffer": buffer, "seed": seed, "dtype": str(dtype)}
        self._about = digest(about if norm_limit is None else about | {"norm limit": norm_limit})
        cursors = Cursors(None if cursor is None else Path(cursor), self._about, group)
        place = torch.device(device)
        self._ring = Ring(producer, buffer, max(1, buffer // 4), seed, place, dtype, cursors, norm_limit, group)
        self._numbers = count()
        self._settle(read, write, normalise)

    def _settle(self, read: Sequence[int], write: Sequence[int] | None, normalise: bool) -> None:
        widths = self._ring.producer.widths
        self._read = tuple(read)
        self._write = self._read if write is None else tuple(write)
        self.p_widths, self.r_widths = (tuple(widths[i] for i in side) for side in (self._read, self._write))
        self._number = next(self._numbers)
        self._ring.live.add(self._number)
        weakref.finalize(self, self._ring.leave, self._number)
        self._began: float | None = None
        self._seen: tuple[int, int, Tensor] | None = None
        self._before = 0.0
        self.units: Units | None = self._measured() if normalise else None

    def view(self, read: Sequence[int], write: Sequence[int] | None = None, normalise: bool = True) -> "StreamSource":
        """The same rows at other sites, for another dictionary; made before training begins."""
        check(self._ring.group.size == 1, "several dictionaries read one stream in one process only", RefusedError)
        other = object.__new__(type(self))
        other.__dict__ |= {"_about": self._about, "_ring": self._ring, "_numbers": self._numbers}
        other._settle(read, write, normalise)
        return other

    @property
    def digest(self) -> str:
        """Of the rows, their order, the sites and the units."""
        sites = digest([self._about, self._read, self._write])
        return sites if self.units is None else f"{sites}@{self.units.digest}"

    @property
    def waited(self) -> float:
        """The share of the time since the first row was taken in which readers waited for the producer."""
        if self._began is None:
            return 0.0
        return (self._ring.waited - self._before) / max(time.perf_counter() - self._began, 1e-9)

    @property
    def left_out(self) -> tuple[int, int]:
        """(rows left out by `norm_limit`, rows that the producer gave) since the stream was last begun."""
        limit = self._ring.limit
        return (0, 0) if limit is None else (limit.left_out, limit.seen)

    def ordinary(self, xs: Sequence[Tensor]) -> Bool[Tensor, " rows"]:
        """Which rows `norm_limit` leaves, one tensor [rows, width] per site of the producer, in its units."""
        limit = self._ring.limit
        return torch.ones(xs[0].shape[0], dtype=torch.bool) if limit is None else limit.ordinary(xs)

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch n_p"], Float[Tensor, "batch n_r"]]:
        """Rows of the stream by number, on the ring's device as float32, in the units of training.

        Numbers follow each other; rows that lie far back are made again. Raises: ArgumentError for numbers with gaps.
        """
        x_p, x_r, _ = self._raw(index)
        if self._began is None:
            self._began, self._before = time.perf_counter(), self._ring.waited
        return (x_p, x_r) if self.units is None else self.units.both(x_p, x_r)

    def where(self, index: Int[Tensor, " batch"]) -> Rows:
        """The token, document and place of rows by number; -1 where they are no tokens."""
        asked = (int(index[0]), index.numel())
        columns = self._seen[2] if self._seen is not None and self._seen[:2] == asked else self._raw(index)[2]
        return Rows(index, *columns.to(torch.int64).T)

    def _raw(self, index: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor, Tensor]:
        first, rows = int(index[0]), index.numel()
        if not torch.equal(index, torch.arange(first, first + rows)):
            raise ArgumentError("a stream gives rows that follow each other; ask for row numbers without gaps")
        xs, columns = self._ring.take(self._number, first % SPAN, first % SPAN + rows)
        self._seen = (first, rows, columns)
        x_p = _together([xs[i].float() for i in self._read])
        same = self._read == self._write
        return x_p, x_p if same else _together([xs[i].float() for i in self._write]), columns

    def _measured(self) -> Units:
        """Units of the first block; those of an earlier call where its cursors are known."""
        notes, name = self._ring.cursors.notes, f"units/{self._read}/{self._write}"
        if name not in notes:
            x_p, x_r, _ = self._raw(torch.arange(min(self._ring.size, BUFFER_ROWS)))
            units = Units.of(x_p, x_r, self.p_widths, self.r_widths)
            notes[name] = [v.tolist() for v in (units.p_mean, units.p_scale, units.r_mean, units.r_scale)]
            self._ring.cursors.save()
        return Units(*(torch.tensor(values, device=self._ring.rows[0].device) for values in notes[name]))

    def close(self) -> None:
        """Read no more: other views of the same rows no longer wait for this one, the last one ends the producer."""
        self._ring.leave(self._number)


def _together(xs: Sequence[Tensor]) -> Tensor:
    """Sources side by side; one alone is not copied."""
    return xs[0] if len(xs) == 1 else torch.cat(list(xs), 1)

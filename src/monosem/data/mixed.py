"""Rows of a large store in runs: each byte is read about once an epoch, and rows are mixed in a buffer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.base.errors import check
from monosem.base.seeds import torch_generator
from monosem.base.spec import digest
from monosem.data.ring import Piece
from monosem.data.source import FileSource, StoreSource
from monosem.data.stream import BUFFER_ROWS, StreamSource
from monosem.data.table import Table

RUN_BYTES = 1 << 18
"""Bytes of a source that are read in one go, unless said otherwise."""

_AHEAD = 16
"""Runs whose reading is begun before they are needed."""


def mixed(
    source: FileSource,
    *,
    buffer: int = BUFFER_ROWS,
    run: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    normalise: bool = True,
    cursor: str | Path | None = None,
) -> StreamSource:
    """The rows of a store or of tables as a stream, for data larger than memory.

    Every epoch reads runs of `run` neighbouring rows (about 256 KB of a source) in a keyed permutation of all runs, and
    mixes them in a buffer of `buffer` rows: a batch holds rows of every part of the store, but rows of one run come
    close to each other. Of its `run` - 1 neighbours a row has a share of batch / buffer in its own batch, where the
    exact permutation of StoreSource has batch / rows; against it, each byte is read once instead of by the page.
    Rows that the source leaves out (`ordinary`, `set_aside`) are left out here. Other arguments: as for StreamSource.
    """
    check(run is None or run >= 1, f"run={run}; it is at least one row")
    width = max(sum(source.p_widths), sum(source.r_widths))
    length = min(source.total, run or max(1, RUN_BYTES // (4 * width)))
    producer = _Runs(source, length, seed)
    m = len(source.p_widths)
    write = None if source.x_r is None else range(m, m + len(source.r_widths))
    options: dict[str, Any] = {"seed": seed, "device": device, "dtype": dtype, "normalise": normalise}
    return StreamSource(producer, range(m), write, buffer=min(buffer, source.rows), cursor=cursor, **options)


class _Runs:
    """Runs of rows, epoch after epoch."""

    def __init__(self, source: FileSource, length: int, seed: int) -> None:
        self.source, self.length, self.seed = source, length, seed
        self.runs = -(-source.total // length)
        self.widths = source.p_widths if source.x_r is None else (*source.p_widths, *source.r_widths)
        self.kept = source.kept_rows()
        self.digest = digest([source.digest, length, seed])

    def pieces(self, state: Any, drop: int) -> Iterator[Piece]:
        """All runs from (epoch, run) on."""
        epoch, first = (0, 0) if state is None else state
        while True:
            order = torch.randperm(self.runs, generator=torch_generator(self.seed, "mixed", epoch)).tolist()
            self._expect(order[first : first + _AHEAD])
            for number in range(first, self.runs):
                self._expect(order[number + _AHEAD : number + _AHEAD + 1])
                start = order[number] * self.length
                rows = slice(start, min(start + self.length, self.source.total))
                kept = None if self.kept is None else self.kept[rows]
                count = rows.stop - rows.start if kept is None else int(kept.sum())
                if drop >= count:
                    drop -= count
                    continue
                yield self._piece(rows, kept, [epoch, number], drop)
                drop = 0
            epoch, first = epoch + 1, 0

    def _piece(self, rows: slice, kept: Tensor | None, state: Any, drop: int) -> Piece:
        xs: list[Tensor] = []
        for table, widths in _sides(self.source):
            xs += torch.split(table.part(rows), list(widths), 1)
        columns = _provenance(self.source, rows)
        if kept is not None:
            xs, columns = [x[kept] for x in xs], None if columns is None else columns[kept]
        return Piece([x[drop:] for x in xs], None if columns is None else columns[drop:], state, drop)

    def _expect(self, runs: list[int]) -> None:
        """Begin to read some runs."""
        for table, _ in _sides(self.source):
            for run in runs:
                table.expect(run * self.length, min((run + 1) * self.length, self.source.total))


def _sides(source: FileSource) -> list[tuple[Table, tuple[int, ...]]]:
    read = [(source.x_p, source.p_widths)]
    return read if source.x_r is None else [*read, (source.x_r, source.r_widths)]


def _provenance(source: FileSource, rows: slice) -> Tensor | None:
    """Token, document and place of the rows of a store."""
    if not isinstance(source, StoreSource):
        return None
    store = source.store
    columns = (column[rows.start : rows.stop] for column in (store.tokens, store.documents, store.positions))
    return torch.from_numpy(np.stack(list(columns), 1).astype(np.int32))

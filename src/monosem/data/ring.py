"""A ring of rows that a producer fills in a thread of its own while training reads them, shuffled."""

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from monosem.base.errors import DataError, check
from monosem.base.files import parse_json, read_json, write_json
from monosem.base.group import ALONE, Group, in_step, said
from monosem.base.seeds import torch_generator

_KEPT = 256
"""Cursors that are kept: the newest blocks'."""

_MEASURED = 4096
"""Rows, at least, of which the median norm is taken."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows that a producer hands over.

    Shapes: xs one [rows, width] per site; columns [rows, 3] int32 (token, document, position), or None.
    `state`: from which the producer would give these rows again, as plain JSON, after leaving out `offset` rows.
    `place`: the numbers of these rows among the producer's, from there on; None: all follow each other.
    """

    xs: Sequence[Tensor]
    columns: Int[Tensor, "rows 3"] | None
    state: Any
    offset: int = 0
    place: Int[Tensor, " rows"] | None = None

    def before(self, row: int) -> int:
        """How many rows the producer gives from `state` on before a row of this piece."""
        return self.offset + (row if self.place is None else int(self.place[row]))

    def only(self, keep: Bool[Tensor, " rows"]) -> "Piece":
        """Some of its rows."""
        place = keep.nonzero()[:, 0]
        columns = None if self.columns is None else self.columns[place]
        return Piece([x[place.to(x.device)] for x in self.xs], columns, self.state, self.offset, place)


@runtime_checkable
class Producer(Protocol):
    """What gives the rows of a stream, always the same ones in the same order."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of every site."""
        ...

    @property
    def digest(self) -> str:
        """Identifies the rows and their order."""
        ...

    def pieces(self, state: Any, drop: int) -> Iterator[Piece]:
        """All rows from a state on (None: from the start) but the first `drop`, which cost as little as possible."""
        ...


@dataclass(frozen=True)
class _Cursor:
    """Where a block of rows begins: its first row, the producer's state before it, and the rows to leave out there."""

    row: int = 0
    state: Any = None
    drop: int = 0


class Cursors:
    """The newest cursors and some notes of a stream; in a file, if there is one, for a run that is killed.

    Of several processes the first reads and writes the file, and the others know what it read.
    """

    def __init__(self, path: Path | None, digest: str, group: Group = ALONE) -> None:
        self.path, self.digest = path if group.rank == 0 else None, digest
        self.all: dict[int, _Cursor] = {}
        self.notes: dict[str, Any] = {}
        with in_step(group):
            known = read_json(self.path) if self.path is not None and self.path.is_file() else {}
        if group.size > 1:
            known = parse_json(said(group, json.dumps(known))[0])
        if known.get("digest") == digest:
            self.all = {row: _Cursor(row, state, drop) for row, state, drop in known["cursors"]}
            self.notes = known["notes"]

    def before(self, row: int) -> _Cursor:
        """The newest cursor at or before a row; the start of the stream if there is none."""
        return max((c for c in self.all.values() if c.row <= row), key=lambda c: c.row, default=_Cursor())

    def add(self, cursor: _Cursor) -> None:
        """Keep a cursor."""
        self.all[cursor.row] = cursor
        for row in sorted(self.all)[:-_KEPT]:
            del self.all[row]
        self.save()

    def save(self) -> None:
        """Write the file."""
        if self.path is not None:
            cursors = [[c.row, c.state, c.drop] for _, c in sorted(self.all.items())]
            write_json(self.path, {"digest": self.digest, "notes": self.notes, "cursors": cursors})


class NormLimit:
    """Leaves out rows of a stream that are far longer than most, as FileSource.ordinary does for all rows at once.

    Equation: a row goes where, at any site, ||x|| > times the median of ||x||, of the stream's first 4,096 rows or
        more, which are always the same. `notes` keep the medians for a run that goes on.
    `seen` and `left_out` count rows.
    """

    def __init__(self, times: float, notes: dict[str, Any]) -> None:
        check(times > 1, f"norm_limit={times}; it is a multiple of the median norm, more than 1")
        self.times, self.notes, self.seen, self.left_out = times, notes, 0, 0

    def ordinary(self, xs: Sequence[Tensor]) -> Bool[Tensor, " rows"]:
        """Which rows stay; where most rows of a site are 0, it leaves none out."""
        limits = (self.times * norm if norm > 0 else math.inf for norm in self.notes["norms"])
        norms = [x.float().norm(dim=1).cpu() for x in xs]
        far = [(norm > limit) & norm.isfinite() for norm, limit in zip(norms, limits, strict=True)]
        return ~torch.stack(far).any(0)  # what is no number stays, for training to refuse

    def pieces(self, pieces: Iterator[Piece], skip: int) -> Iterator[Piece]:
        """The rows that stay, but the first `skip`."""
        self.seen = self.left_out = 0
        for piece in pieces if "norms" in self.notes else self._measured(pieces):
            keep = self.ordinary(piece.xs)
            stay = int(keep.sum())
            self.seen, self.left_out = self.seen + keep.numel(), self.left_out + keep.numel() - stay
            if stay > skip:
                yield piece.only(keep & (keep.cumsum(0) > skip))
            skip = max(0, skip - stay)

    def _measured(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The same pieces, once the medians of the first ones are known."""
        first: list[Piece] = []
        while sum(piece.xs[0].shape[0] for piece in first) < _MEASURED and (piece := next(pieces, None)) is not None:
            first.append(piece)
        sites = zip(*(piece.xs for piece in first), strict=True)
        self.notes["norms"] = [float(torch.cat([x.float().norm(dim=1) for x in site]).median()) for site in sites]
        yield from chain(first, pieces)


class Ring:
    """`size` rows that are shuffled together, and room for the next ones while those are read.

    Row n of the producer belongs to block n // size, which is read in a keyed permutation once it is complete. A row's
    place is free again when every reader is past it, and is filled at once: with room for some batches more than a
    block, the producer need never stop, nor training wait for it. Row r of the stream is therefore a function of r and
    the seed, whoever reads it and when. In a group every process has the same rows and takes in the next ones as it
    reads, in step with the others: a producer that exchanges rows may do so there, and nowhere else.
    Shapes: rows [size + room, width] per site, on `device` in `dtype`.
    """

    def __init__(
        self,
        producer: Producer,
        size: int,
        room: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        cursors: Cursors,
        norm_limit: float | None = None,
        group: Group = ALONE,
    ) -> None:
        self.producer, self.size, self.seed, self.cursors, self.group = producer, size, seed, cursors, group
        self.limit = None if norm_limit is None else NormLimit(norm_limit, cursors.notes)
        self.slots = size + room
        self.rows = [torch.empty(self.slots, width, dtype=dtype, device=device) for width in producer.widths]
        self.columns = torch.full((self.slots, 3), -1, dtype=torch.int32)
        self.changed = threading.Condition()
        self.readers: dict[int, tuple[int, threading.Thread]] = {}  # how far each is, and who reads
        self.live: set[int] = set()  # readers that may still come
        self.waited = 0.0
        self._orders: dict[tuple[int, int], Tensor] = {}
        self._filling: Generator[None] | None = None
        self._thread: threading.Thread | None = None
        self._fresh(0)

    def _fresh(self, row: int) -> None:
        """Nothing has arrived; the next row is number `row`, which begins a block."""
        self.arrived = self.freed = row
        self.end: int | None = None  # how many rows there are, when that is known
        self.error: BaseException | None = None
        self.stopped = False
        self._free = deque([torch.arange(self.slots)])  # places, some at a time
        self._slot = torch.empty(3 * self.slots, dtype=torch.int64)  # of row n, at n modulo its length

    def take(self, reader: int, first: int, last: int) -> tuple[list[Tensor], Tensor]:
        """Rows [first, last) of the stream, copied: (one tensor per site, columns).

        The reader will not ask for rows before `first` again; if it does, the producer begins anew there.
        Raises: DataError when the stream ends before `last`, or what the producer raised.
        """
        parts: list[tuple[list[Tensor], Tensor]] = []
        while first < last:
            block, begin = divmod(first, self.size)
            stop = min(last, (block + 1) * self.size)
            self._reach(reader, first, block)
            size = self.size if self.end is None else min(self.size, self.end - block * self.size)
            check(stop <= block * self.size + size, self._ended(last), DataError)
            numbers = block * self.size + self._order(block, size)[begin : begin + stop - first]
            slot = self._slot[numbers % self._slot.numel()]
            xs = [x.index_select(0, slot.to(x.device)) for x in self.rows]
            parts.append((xs, self.columns.index_select(0, slot)))
            first = stop
        if len(parts) == 1:
            return parts[0]
        columns = torch.cat([part for _, part in parts])
        return [torch.cat(list(site)) for site in zip(*(xs for xs, _ in parts), strict=True)], columns

    def _reach(self, reader: int, first: int, block: int) -> None:
        """Wait until a block is there, and free what no reader needs any more."""
        with self.changed:
            thread = threading.current_thread()
            others = {n: (row, t) for n, (row, t) in self.readers.items() if t is not thread and t.is_alive()}
            self.readers = others | {reader: (first, thread)}  # of one thread, only one waits at a time
            oldest = min(row for row, _ in self.readers.values())
            behind = oldest < self.freed
            ahead = oldest // self.size * self.size > self.arrived
        if self._filling is None or behind or ahead:
            self._restart(oldest // self.size * self.size)
        began, complete = time.perf_counter(), (block + 1) * self.size
        if self.group.size > 1:
            self._fill_up_to(oldest, complete)
        with self.changed:
            self._release(oldest)
            self.changed.wait_for(lambda: self.arrived >= complete or self.end is not None or self.error is not None)
            if self.error is not None:
                raise self.error
            self._release(oldest)
        self.waited += time.perf_counter() - began

    def _release(self, oldest: int) -> None:
        """The places of the rows before `oldest` are free, as far as their blocks are complete."""
        while self.freed < oldest:
            block, begin = divmod(self.freed, self.size)
            if self.end is None and self.arrived < (block + 1) * self.size:
                return
            stop = min(oldest, (block + 1) * self.size)
            size = self.size if self.end is None else min(self.size, self.end - block * self.size)
            numbers = block * self.size + self._order(block, size)[begin : begin + stop - self.freed]
            self._free.append(self._slot[numbers % self._slot.numel()])
            self.freed = stop
            self.changed.notify_all()

    def _order(self, block: int, size: int) -> Tensor:
        """The keyed permutation of a block."""
        if (block, size) not in self._orders:
            while len(self._orders) > 2:
                del self._orders[next(iter(self._orders))]
            self._orders[block, size] = torch.randperm(size, generator=torch_generator(self.seed, "ring", block))
        return self._orders[block, size]

    def _ended(self, last: int) -> str:
        return (
            f"the stream ends after {self.end or 0:,} rows, training asks for row {last - 1:,}; give more rows, or a "
            "source that can be gone through again (a list, not an iterator)"
        )

    def _restart(self, row: int) -> None:
        """Run the producer from a block's first row on."""
        self.stop()
        self._fresh(row)
        cursor = self.cursors.before(row)
        skip = row - cursor.row
        if self.limit is None:
            pieces = self.producer.pieces(cursor.state, cursor.drop + skip)
        else:
            pieces = self.limit.pieces(self.producer.pieces(cursor.state, cursor.drop), skip)
        self._filling = self._taken_in(pieces)
        if self.group.size == 1:
            self._thread = threading.Thread(target=self._fill, args=(self._room,), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the producer; reading goes on from a new one."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        if self._thread is not threading.current_thread():
            if self._thread is not None:
                self._thread.join()
            if self._filling is not None:
                self._filling.close()
        self._filling = self._thread = None

    def _taken_in(self, pieces: Iterator[Piece]) -> Generator[None]:
        """Take in one piece after the other; it stops before each place where it needs room."""
        for piece in pieces:
            rows, done = piece.xs[0].shape[0], 0
            ahead = -self.arrived % self.size  # rows until a block begins
            if ahead < rows:
                self.cursors.add(_Cursor(self.arrived + ahead, piece.state, piece.before(ahead)))
            while done < rows:
                yield
                done = self._put(piece, done)

    def _put(self, piece: Piece, done: int) -> int:
        """Take in what there is room for, of a piece whose first `done` rows have arrived; how many have then."""
        with self.changed:
            free, number = self._free.popleft(), piece.xs[0].shape[0] - done
            slot, rest = free[:number], free[number:]
            if rest.numel():
                self._free.appendleft(rest)
        number = slot.numel()
        part = slice(done, done + number)
        for kept, x in zip(self.rows, piece.xs, strict=True):
            kept.index_copy_(0, slot.to(kept.device), x[part].to(kept))
        if piece.columns is not None:
            self.columns[slot] = piece.columns[part]
        with self.changed:
            numbers = torch.arange(self.arrived, self.arrived + number)
            self._slot[numbers % self._slot.numel()] = slot
            self.arrived += number
            self.changed.notify_all()
        return part.stop

    def _room(self) -> bool:
        """Wait for room; False when the ring was stopped."""
        with self.changed:
            self.changed.wait_for(lambda: self._free or self.stopped)
            return not self.stopped

    def _fill_up_to(self, oldest: int, complete: int) -> None:
        """Take in the rest of a block, which leaves room, and then what makes a block more than was read."""
        for row in (complete, oldest + self.size):
            with self.changed:
                self._release(oldest)
            if self.arrived < row and self.end is None:
                self._fill(lambda row=row: self.arrived < row)  # type: ignore[misc]

    def _fill(self, more: Callable[[], bool]) -> None:
        """Take in rows for as long as there is room, until they end or more are not wanted."""
        error: BaseException | None = None
        assert self._filling is not None
        try:
            with torch.inference_mode():
                for _ in self._filling:
                    if not more():
                        return
        except BaseException as raised:
            error = raised
        with self.changed:
            self.error, self.end = error, self.arrived
            self.changed.notify_all()

    def leave(self, reader: int) -> None:
        """A reader reads no more; when all have left, the producer ends."""
        with self.changed:
            self.readers.pop(reader, None)
            self.live.discard(reader)
            self.changed.notify_all()
        if not self.live:
            self.stop()

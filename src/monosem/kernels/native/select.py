"""Selection from scores whose columns come piece by piece, by the compiled kernels; see rank.c."""

import ctypes
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from monosem.kernels.native.team import address, each, once, runs_of

_P, _I = ctypes.c_void_p, ctypes.c_int64

_RUNS = 4
"""Runs of rows for several threads; what is selected does not depend on it."""


class _Tops(ctypes.Structure):
    _fields_: ClassVar = [("k", _I), ("room", _I), ("index", _P), ("value", _P), ("filled", _P), ("floors", _P)]


class Tops:
    """The k largest of each row of score + bias, ties to the lower column; of the columns `among`, if given."""

    def __init__(self, rows: int, k: int, among: Tensor | None = None, bias: Tensor | None = None) -> None:
        self.k, self.among, self.bias, self.rows = k, among, bias, rows
        room, self._seen = 2 * k + 128, 0
        self._index, self._value = torch.empty(rows, room, dtype=torch.int32), torch.empty(rows, room)
        self._filled, self._floors = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), -torch.inf)
        self._state = _Tops(k, room, *map(address, (self._index, self._value, self._filled, self._floors)))

    def see(self, score: Tensor, first: int = 0) -> None:
        """The next columns: score[:, i] is column first + i."""
        among = self.among
        if among is not None:
            a, b = torch.searchsorted(among, torch.tensor([first, first + score.shape[1]])).tolist()
            among = among[a:b]
        n = score.shape[1] if among is None else among.numel()
        self._seen += n
        runs = runs_of(self.rows, _RUNS)
        scratch = torch.empty(len(runs), n + 64 + max(n, self._state.room))
        head, given = (address(self._state), address(score), score.stride(0)), (n, first, address(self.bias))
        units = [(*head, *run, *given, address(among), address(own)) for run, own in zip(runs, scratch, strict=True)]
        each("top", units)

    def found(self) -> tuple[Tensor, Tensor] | None:
        """(columns, entries), columns ascending: k of each row, or all that came; None when a row has fewer (NaN)."""
        index, value, short = largest(min(self.k, self._seen), self._index, self._value, self._filled)
        return None if short else (index, value)


def _share(runs: Sequence[tuple[int, int]], n: int, room: int | None) -> int:
    """For how many cells each run of rows has room: all of its own, or its part of `room`."""
    longest = max((b - a for a, b in runs), default=0) * n
    return longest if room is None else min(longest, -(-room // max(len(runs), 1)))


class AboveFloor:
    """What of score + bias is above its column's floor (or one for all).

    With `most`, only the `most` largest of all rows are wanted: one floor rises as soon as so many are above it.
    """

    def __init__(self, floors: Tensor | float, bias: Tensor | None = None, most: int | None = None) -> None:
        self.floors, self.bias, self.most = floors, bias, most
        self._seen = 0
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def see(self, score: Tensor, first: int = 0, room: int | None = None) -> bool:
        """The next columns: score[:, i] is column first + i. False where they hold more than `room` such cells."""
        rows, n = score.shape
        runs = runs_of(rows, _RUNS)
        share = _share(runs, n, room)
        counts = torch.empty(rows, dtype=torch.int64)
        index, value = torch.empty(len(runs), share, dtype=torch.int64), torch.empty(len(runs), share)
        scratch = torch.empty(len(runs), n + 64)
        floors = self.floors if isinstance(self.floors, Tensor) else torch.tensor(self.floors)
        given = n, first, address(self.bias), address(floors), int(floors.ndim > 0), share
        units = [
            (address(score) + 4 * a * score.stride(0), score.stride(0), b - a, *given, address(counts) + 8 * a, *own)
            for (a, b), *own in zip(runs, *([address(t) for t in ts] for ts in (index, value, scratch)), strict=True)
        ]
        totals = each("above", units)
        full = [total > share for total in totals]
        if not any(full):
            columns, entries = [
                torch.cat([t[:total] for t, total in zip(ts, totals, strict=True)]) for ts in (index, value)
            ]
            self._parts.append((counts, columns, entries))
            self._seen += columns.numel()
            if self.most and self._seen >= 2 * self.most:
                self._raise(self.most)
        return not any(full)

    def _raise(self, most: int) -> None:
        values = torch.cat([value for _, _, value in self._parts])
        least = torch.tensor(kth_largest(values[values > self.floors], most))
        self.floors, self._seen = float(torch.nextafter(least, torch.tensor(-torch.inf))), most

    def found(self) -> tuple[Tensor, Tensor, Tensor]:
        """(cells per row, columns, entries) of all columns."""
        counts, columns, entries = join(self._parts)
        assert entries is not None
        return counts, columns, entries


def join(parts: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor | None]:
    """(cells per row, columns, entries or None) of several pieces of the columns, made one: row by row."""
    if len(parts) == 1:
        return parts[0]
    counts = torch.stack([count for count, _, _ in parts]).sum(0)
    place = counts.cumsum(0) - counts
    total = sum(index.numel() for _, index, _ in parts)
    columns, entries = torch.empty(total, dtype=torch.int64), None if parts[0][2] is None else torch.empty(total)
    for count, index, value in parts:
        once("place", count.numel(), *map(address, (count, index, value, place, columns, entries)))
    return counts, columns, entries


def largest(k: int, index: Tensor, value: Tensor, filled: Tensor) -> tuple[Tensor, Tensor, int]:
    """(columns, entries) of the k largest of the first filled[r] entries of each row; and how many rows have fewer.

    `index` int32 and `value` are [rows, room], columns ascending, and are used up; rows with fewer are undefined.
    """
    rows, room = value.shape
    state = _Tops(k, room, *map(address, (index, value, filled, None)))
    columns, entries = torch.empty(rows, k, dtype=torch.int64), torch.empty(rows, k)
    runs = runs_of(rows, _RUNS)
    scratch, out = torch.empty(len(runs), room), (address(columns), address(entries))
    units = [(address(state), *run, *out, address(own)) for run, own in zip(runs, scratch, strict=True)]
    return columns, entries, sum(each("topped", units))


def kth_largest(values: Tensor, k: int) -> float:
    """The k-th largest of some float32 numbers, 1 <= k <= their count."""
    copy, value = values.detach().clone(), ctypes.c_float()
    once("kth_largest", address(copy), values.numel(), k, address(value))
    return value.value


def top(score: Tensor, k: int, among: Tensor | None = None, bias: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
    """(columns, entries) of the k largest of each row of score + bias, columns ascending, ties to the lower.

    `among`: only these columns. None when a row has fewer than k numbers (NaN).
    """
    tops = Tops(score.shape[0], k, among, bias)
    tops.see(score)
    return tops.found()


def above(
    score: Tensor, floors: Tensor | float, room: int | None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """(cells per row, columns, entries) of score + bias above its column's floor; None if they exceed a `room`."""
    cells = AboveFloor(floors, bias)
    return cells.found() if cells.see(score, room=room) else None

"""Selection from scores whose columns come piece by piece, by the compiled kernels; see rank.c."""

import ctypes
from typing import ClassVar

import torch
from torch import Tensor

from monosem.kernels.native.build import library
from monosem.kernels.native.calls import pointer, runs_of, spread

__all__ = ["AboveFloor", "Tops", "above", "kth_largest", "top"]

_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


_RUNS = 4
"""Runs of rows for several threads; what is selected does not depend on it."""


class _Tops(ctypes.Structure):
    _fields_: ClassVar = [("k", _I), ("room", _I), ("index", _P), ("value", _P), ("filled", _P), ("floors", _P)]


class Tops:
    """The k largest of each row of score + bias, ties to the lower column; of the columns `among`, if given."""

    def __init__(self, rows: int, k: int, among: Tensor | None = None, bias: Tensor | None = None) -> None:
        self.k, self.among, self.bias, self.rows = k, among, bias, rows
        room = 2 * k + 128
        self._index, self._value = torch.empty(rows, room, dtype=torch.int32), torch.empty(rows, room)
        self._filled, self._floors = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), -torch.inf)
        self._state = _Tops(k, room, *map(pointer, (self._index, self._value, self._filled, self._floors)))

    def see(self, score: Tensor, first: int = 0) -> None:
        """The next columns: score[:, i] is column first + i."""
        lib, among = library(), self.among
        assert lib is not None
        if among is not None:
            a, b = torch.searchsorted(among, torch.tensor([first, first + score.shape[1]])).tolist()
            among = among[a:b]
        n = score.shape[1] if among is None else among.numel()
        runs = runs_of(self.rows, _RUNS)

        def work(unit: int) -> None:
            scratch = torch.empty(n + 64 + max(n, self._state.room))
            lib.monosem_top(
                ctypes.byref(self._state), pointer(score), _I(score.stride(0)), _I(runs[unit][0]), _I(runs[unit][1]),
                _I(n), _I(first), pointer(self.bias), pointer(among), pointer(scratch),
            )  # fmt: skip

        spread(work, len(runs))

    def found(self) -> tuple[Tensor, Tensor] | None:
        """(columns, entries), columns ascending; None when a row has fewer than k numbers (NaN)."""
        lib = library()
        assert lib is not None
        index, value = torch.empty(self.rows, self.k, dtype=torch.int64), torch.empty(self.rows, self.k)
        scratch = torch.empty(self._state.room)
        short = lib.monosem_topped(
            ctypes.byref(self._state), _I(0), _I(self.rows), pointer(index), pointer(value), pointer(scratch)
        )
        return None if short else (index, value)


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
        lib, (rows, n) = library(), score.shape
        assert lib is not None
        runs = runs_of(rows, _RUNS)
        share = -(-(score.numel() if room is None else room) // max(len(runs), 1))
        counts = torch.empty(rows, dtype=torch.int64)
        parts: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(runs)
        full = [False] * len(runs)
        columns, one = (self.floors, 0.0) if isinstance(self.floors, Tensor) else (None, float(self.floors))

        def work(unit: int) -> None:
            a, b = runs[unit]
            index, value, scratch = torch.empty(share, dtype=torch.int64), torch.empty(share), torch.empty(n + 64)
            total = lib.monosem_above(
                _P(score.data_ptr() + 4 * a * score.stride(0)), _I(score.stride(0)), _I(b - a), _I(n), _I(first),
                pointer(self.bias), pointer(columns), _F(one), _I(share), _P(counts.data_ptr() + 8 * a), pointer(index),
                pointer(value), pointer(scratch),
            )  # fmt: skip
            full[unit] = total > share
            parts[unit] = index[:total], value[:total]

        spread(work, len(runs))
        if not any(full):
            self._parts.append((counts, torch.cat([i for i, _ in parts]), torch.cat([v for _, v in parts])))
            self._seen += self._parts[-1][1].numel()
            if self.most and self._seen >= 2 * self.most:
                self._raise(self.most)
        return not any(full)

    def _raise(self, most: int) -> None:
        values = torch.cat([value for _, _, value in self._parts])
        least = torch.tensor(kth_largest(values[values > self.floors], most))
        self.floors, self._seen = float(torch.nextafter(least, torch.tensor(-torch.inf))), most

    def found(self) -> tuple[Tensor, Tensor, Tensor]:
        """(cells per row, columns, entries) of all columns."""
        lib, parts = library(), self._parts
        assert lib is not None
        if len(parts) == 1:
            return parts[0]
        counts = torch.stack([count for count, _, _ in parts]).sum(0)
        place = counts.cumsum(0) - counts
        total = sum(index.numel() for _, index, _ in parts)
        columns, entries = torch.empty(total, dtype=torch.int64), torch.empty(total)
        for count, index, value in parts:
            lib.monosem_place(
                _I(count.numel()), pointer(count), pointer(index), pointer(value), pointer(place), pointer(columns),
                pointer(entries),
            )  # fmt: skip
        return counts, columns, entries


def kth_largest(values: Tensor, k: int) -> float:
    """The k-th largest of some float32 numbers, 1 <= k <= their count."""
    lib = library()
    assert lib is not None
    copy = values.detach().clone()
    return float(lib.monosem_kth_largest(pointer(copy), _I(values.numel()), _I(k)))


def top(score: Tensor, k: int, among: Tensor | None = None, bias: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
    """(columns, entries) of the k largest of each row of score + bias, columns ascending, ties to the lower.

    `among`: only these columns. None when a row has fewer than k numbers (NaN).
    """
    tops = Tops(score.shape[0], k, among, bias)
    tops.see(score)
    return tops.found()


def above(
    score: Tensor, floors: Tensor | float, room: int, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """(cells per row, columns, entries) of score + bias above its column's floor; None if they exceed `room`."""
    cells = AboveFloor(floors, bias)
    return cells.found() if cells.see(score, room=room) else None

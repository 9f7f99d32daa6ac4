"""Reading rows of large .npy files: only the pages that hold them, all of a batch at once."""

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
"""Bytes that the system reads at least."""

ALIGNED = 4096
"""Bytes before the first row of an array of a store, so that rows of whole pages lie on whole pages."""

_SHARE = 0.25
"""Share of the memory that an array may take and still be left to the system's read-ahead."""


class Pages:
    """A mapped .npy file. `array` are its numbers; `expect` has the system fetch rows that are asked for next.

    A file that may not stay in memory is read page by page (its rows are wanted in no order that the system could
    guess), and `expect` starts all reads of a batch before the first is waited for.
    """

    def __init__(self, path: Path, large: bool) -> None:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
            if fortran or dtype.hasobject:
                raise ValueError("it holds no plain rows")
            self.start = file.tell()
            size = self.start + int(np.prod(shape)) * dtype.itemsize
            if os.fstat(file.fileno()).st_size < size:
                raise ValueError(f"it is shorter than the {size} bytes that its header says")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array: np.ndarray = np.frombuffer(self._map, dtype, int(np.prod(shape)), self.start).reshape(shape)
        self.row = int(np.prod(shape[1:])) * dtype.itemsize
        self.large = large and hasattr(self._map, "madvise")
        if self.large:
            self._map.madvise(mmap.MADV_RANDOM)

    def expect(self, rows: np.ndarray) -> None:
        """Start reading the pages of some rows; neighbouring pages are one read."""
        if not self.large or not rows.size:
            return
        rows = np.unique(rows)
        first = (self.start + rows * self.row) // PAGE
        last = (self.start + (rows + 1) * self.row - 1) // PAGE
        cut = np.flatnonzero(first[1:] > last[:-1] + 1) + 1  # where a read ends and another begins
        begins, ends = first[np.insert(cut, 0, 0)] * PAGE, (last[np.append(cut, rows.size) - 1] + 1) * PAGE
        for begin, end in zip(begins.tolist(), np.minimum(ends, len(self._map)).tolist(), strict=True):
            self._map.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def expect_run(self, start: int, stop: int) -> None:
        """Start reading rows that follow each other."""
        if self.large and stop > start:
            begin = (self.start + start * self.row) // PAGE * PAGE
            self._map.madvise(mmap.MADV_WILLNEED, begin, self.start + stop * self.row - begin)


def large(size: int) -> bool:
    """Whether so many bytes may not stay in this process's memory."""
    return size > _SHARE * _memory()


def _memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's limit."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [1 << 34]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes", _own_group()):
        text = Path(path).read_text().strip() if path and Path(path).is_file() else "max"
        sizes += [int(text)] if text.isdigit() else []
    return min(sizes)


def _own_group() -> str:
    """The limit of this process's own control group, where there are groups."""
    groups = Path("/proc/self/cgroup")
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, names, path = line.split(":", 2)
        if names == "memory":
            return f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"
        if not names:
            return f"/sys/fs/cgroup{path}/memory.max"
    return ""


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A new .npy file mapped for writing, whose numbers begin at ALIGNED bytes; any reader of .npy reads it."""
    kind = np.dtype(dtype)
    text = repr({"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape})
    start = np.lib.format.magic(1, 0)
    length = ALIGNED - len(start) - 2
    with path.open("wb") as file:
        file.write(start + length.to_bytes(2, "little") + text.ljust(length - 1).encode("latin1") + b"\n")
        file.flush()
        os.posix_fallocate(file.fileno(), 0, ALIGNED + int(np.prod(shape)) * kind.itemsize)  # or an error, not SIGBUS
    return np.memmap(path, kind, "r+", ALIGNED, shape)

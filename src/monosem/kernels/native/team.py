"""One compiled kernel over many units of work, on torch's own threads.

Work is split into fixed units (tiles of rows, runs of latents), so that results do not depend on the number of threads.
"""

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from monosem.kernels.native.build import library

_I, _P = ctypes.c_int64, ctypes.c_void_p


class _Job(ctypes.Structure):
    _fields_: ClassVar = [
        ("call", _P), ("arity", _I), ("units", _I), ("arguments", _P), ("results", _P), ("next", _I),
    ]  # fmt: skip


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="monosem")


@cache
def _team() -> int | None:
    """Where `GOMP_parallel` of the OpenMP library lies that torch runs on, where that is GNU's.

    Its threads spin for some 15 ms after each of torch's products; threads of our own would share the cores with that.
    """
    for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*")):
        try:
            parallel = ctypes.CDLL(str(path), os.RTLD_NOLOAD | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):  # not loaded: torch runs on something else
            continue
        return ctypes.cast(parallel, _P).value
    return None


@cache
def _entry(name: str) -> int | None:
    return ctypes.cast(getattr(library(), f"monosem_{name}"), _P).value


def each(name: str, units: Sequence[Sequence[int]]) -> list[int]:
    """The kernel monosem_NAME(*arguments) for each unit's arguments, over torch's number of threads.

    Arguments are integers and addresses, which must stay valid; returns what the calls return. No thread needs the
    interpreter between two units. The library must be there.
    """
    lib, count = library(), len(units)
    assert lib is not None
    if not count:
        return []
    arguments = (_I * (count * len(units[0])))(*chain.from_iterable(units))
    results = (_I * count)()
    job = _Job(_entry(name), len(units[0]), count, ctypes.addressof(arguments), ctypes.addressof(results), 0)
    threads = min(torch.get_num_threads(), count)
    team = _team() if threads > 1 else None
    if threads > 1 and team is None:
        others = [_pool(threads).submit(lib.monosem_work, ctypes.byref(job)) for _ in range(threads - 1)]
        lib.monosem_work(ctypes.byref(job))
        wait(others)
    else:
        lib.monosem_job(ctypes.byref(job), _P(team), _I(threads))
    return list(results)


def once(name: str, *arguments: int) -> int:
    """The same for one unit."""
    return each(name, [arguments])[0]


def address(t: Tensor | ctypes.Structure | ctypes.c_float | None) -> int:
    """Where a tensor's first element, or a C value, lies; 0 for None."""
    if t is None:
        return 0
    return t.data_ptr() if isinstance(t, Tensor) else ctypes.addressof(t)


def runs_of(length: int, most: int) -> list[tuple[int, int]]:
    """0..length in about `most` runs of equal length."""
    size = max(1, -(-length // most))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def runs_of_cost(cost: Tensor, most: int) -> list[tuple[int, int]]:
    """0..n in at most `most` runs of about equal cost: [n + 1], what everything before costs (int64, ascending)."""
    before, after = int(cost[0]), int(cost[-1])
    targets = before + torch.arange(1, most, dtype=torch.int64) * (after - before) // most
    cuts = sorted({0, *torch.searchsorted(cost, targets).tolist(), cost.numel() - 1})
    return list(pairwise(cuts))

"""Memory of a training step: used again at every step, and on huge pages where the system has them.

Fresh pages of tens of megabytes cost as much as filling them, and weights on small pages miss the address cache.
"""

import ctypes
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from math import prod

import numpy as np
import torch
from torch import Tensor

_held = threading.local()
_idle: list[mmap.mmap] = []
_LARGE, _MOST_IDLE = 2**22, 8


def workspace(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor whose memory the next call of this name takes over: use it, do not keep it."""
    known: dict[tuple[str, torch.dtype, torch.device], Tensor] = _held.__dict__.setdefault("tensors", {})
    size = 1
    for length in shape:
        size *= length
    key = (name, dtype, device)
    if key not in known or not size <= known[key].numel() <= 4 * size:
        with torch.inference_mode(False):  # memory born in inference mode could not be written outside it
            known[key] = torch.empty(size, dtype=dtype, device=device)
        huge_pages(known[key])
    return known[key][:size].view(shape)


def recycled(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor that may be kept: what a large CPU one takes over is memory that another has left.

    The allocator alone cannot do that for long: small blocks settle in the holes that large ones leave.
    """
    dtype = dtype or like.dtype
    size = prod(shape) * dtype.itemsize
    if like.device.type != "cpu" or size < _LARGE or not sys.platform.startswith("linux"):
        return torch.empty(shape, dtype=dtype, device=like.device)
    block = _block(size)
    array = np.frombuffer(block, np.uint8, size)
    weakref.finalize(array, _leave, block).atexit = False
    stride = torch.empty(shape, device="meta").stride()
    return torch.empty(0, dtype=dtype).set_(torch.from_numpy(array).untyped_storage(), 0, shape, stride)  # not a view


def _block(size: int) -> mmap.mmap:
    for block in reversed(_idle):
        if size <= len(block) <= 2 * size:
            try:
                _idle.remove(block)
            except ValueError:  # another thread was faster
                continue
            return block
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _leave(block: mmap.mmap) -> None:
    _idle.append(block)
    if len(_idle) > _MOST_IDLE:
        _idle.pop(0)


@cache
def _libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        libc.madvise  # noqa: B018
    except (OSError, AttributeError):
        return None
    return libc


def huge_pages(tensor: Tensor) -> None:
    """Ask Linux to keep a large CPU tensor on huge pages; without effect elsewhere. Values stay as they are."""
    size = tensor.numel() * tensor.element_size()
    if sys.platform != "linux" or tensor.device.type != "cpu" or size < _LARGE:
        return
    libc, start = _libc(), -(-tensor.data_ptr() // 4096) * 4096
    length = (tensor.data_ptr() + size - start) // 4096 * 4096
    if libc is not None:
        for advice in (14, 25):  # MADV_HUGEPAGE for pages to come, MADV_COLLAPSE for those that are there
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)


_OURS = (2**30, 2**31 - 1)
_GLIBC = (2**25, 2**26)
"""Bytes above which a block is mapped alone, and of free memory above which the heap shrinks: ours, and how far glibc
raises its own by itself (it cannot be asked where they stand)."""


class _Keepers:
    """How many `kept_memory` are open in this process; the first sets glibc's thresholds, the last resets them."""

    lock, number = threading.Lock(), 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let glibc keep large blocks that are freed inside, for this process, instead of handing them back.

    A step that makes whole gradients or dense codes frees and asks for some 65 MB arrays by the dozen; fetched afresh,
    each costs a page fault per 4 KB. Afterwards what is free goes back to the system, as before.
    MONOSEM_KEEP_MEMORY=0 leaves the allocator as it is.
    """
    libc = _libc()
    if sys.platform != "linux" or not hasattr(libc, "mallopt") or os.environ.get("MONOSEM_KEEP_MEMORY", "1") == "0":
        yield
        return
    assert libc is not None
    with _Keepers.lock:
        _Keepers.number += 1
        if _Keepers.number == 1:
            _set_thresholds(libc, *_OURS)
    try:
        yield
    finally:
        with _Keepers.lock:
            _Keepers.number -= 1
            if not _Keepers.number:
                _set_thresholds(libc, *_GLIBC)
                libc.malloc_trim(0)


def give_back() -> None:
    """Hand what is free in the heaps of all threads back to the system, where `kept_memory` would keep it.

    For after what is large and rare, as the copies of a checkpoint: their holes fill with what stays, and others grow.
    """
    libc = _libc()
    if _Keepers.number and libc is not None:
        libc.malloc_trim(0)


def _set_thresholds(libc: ctypes.CDLL, mapped: int, trimmed: int) -> None:
    libc.mallopt(-3, mapped)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, trimmed)  # M_TRIM_THRESHOLD

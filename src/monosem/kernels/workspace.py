"""Memory of a training step: used again at every step, and on huge pages where the system has them.

Fresh pages of tens of megabytes cost as much as filling them, and weights on small pages miss the address cache.
"""

import ctypes
import mmap
import os
import sys
import threading
import weakref
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


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep large blocks that are freed, for this process, instead of handing them back; whether it does.

    A dense step frees and asks for some 65 MB arrays by the dozen; fetched afresh, each costs a page fault per 4 KB.
    MONOSEM_KEEP_MEMORY=0 leaves the allocator as it is.
    """
    libc = _libc()
    if sys.platform != "linux" or libc is None or os.environ.get("MONOSEM_KEEP_MEMORY", "1") == "0":
        return False
    try:
        mmap_threshold, trim_threshold = -3, -1
        return bool(libc.mallopt(mmap_threshold, 2**30)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))
    except AttributeError:  # not glibc
        return False

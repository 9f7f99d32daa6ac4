"""Groups of threads in this process, in step with each other: what processes on several machines would do."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from monosem.base.group import ALONE, Group

T = TypeVar("T")


class _Meeting:
    """Where the threads of a group leave what they have, and read what the others have left."""

    def __init__(self, size: int) -> None:
        self.left: list[Tensor] = [torch.empty(0)] * size
        self.barrier = threading.Barrier(size, timeout=60)

    def exchange(self, rank: int, x: Tensor) -> list[Tensor]:
        self.left[rank] = x.detach().clone()
        self.barrier.wait()
        everything = [part.clone() for part in self.left]
        self.barrier.wait()  # nobody leaves anything new before all have read
        return everything


class ThreadGroup(Group):
    """One thread of several. Raises: threading.BrokenBarrierError where the threads do not do the same."""

    def __init__(self, rank: int, size: int, meeting: _Meeting, apart: _Meeting | None = None) -> None:
        self.rank, self.size, self._meeting, self._apart = rank, size, meeting, apart

    @contextmanager
    def apart(self) -> Iterator[Group]:
        assert self._apart is not None
        yield ThreadGroup(self.rank, self.size, self._apart)

    def total(self, x: Tensor) -> Tensor:
        first, *others = self._meeting.exchange(self.rank, x)
        for other in others:
            assert other.shape == first.shape
            first = first + other
        return first

    def max(self, x: Tensor) -> Tensor:
        return torch.stack(self._meeting.exchange(self.rank, x)).amax(0)

    def any(self, x: Tensor) -> Tensor:
        return torch.stack(self._meeting.exchange(self.rank, x)).any(0)

    def parts(self, x: Tensor) -> list[Tensor]:
        return self._meeting.exchange(self.rank, x)


def together(size: int, work: Callable[[Group], T]) -> list[T]:
    """What `work` returns in each process of a group, in the order of ranks."""
    if size == 1:
        return [work(ALONE)]
    meeting, apart = _Meeting(size), _Meeting(size)

    def one(rank: int) -> T:
        try:
            return work(ThreadGroup(rank, size, meeting, apart))
        except BaseException:
            for each in (meeting, apart):
                each.barrier.abort()  # the others must not wait for this one
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]

"""What a turn of the speed benchmark measures, and the unit that it measures in: one fp32 encoder product."""

import ctypes
import gc
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from monosem.base.seeds import torch_generator


@dataclass(frozen=True)
class Span:
    """Seconds: of the processor (all threads of this process), and of the wall clock."""

    cpu: float
    wall: float

    def __sub__(self, other: "Span") -> "Span":
        return Span(self.cpu - other.cpu, self.wall - other.wall)

    def plain(self) -> list[float]:
        """[cpu, wall], for a record."""
        return [round(self.cpu, 6), round(self.wall, 6)]


def clock() -> Span:
    """Now. Waiting for a core does not count in `cpu`."""
    return Span(time.process_time(), time.perf_counter())


def timed(work: Callable[[], object]) -> Span:
    """How long one call takes."""
    start = clock()
    work()
    return clock() - start


def product(batch: int, n_p: int, n_q: int) -> Callable[[], object]:
    """One call is z = x W_E^T [batch, n_q] in fp32, into memory that is already there: the unit of every ratio.

    A product into fresh memory costs more (the kernel hands out zeroed pages); it is listed among the floor's pieces.
    """
    generator = torch_generator(0, "speed/product")
    x = torch.randn(batch, n_p, generator=generator)
    weight = torch.randn(n_q, n_p, generator=generator)
    z = torch.empty(batch, n_q)
    return lambda: torch.mm(x, weight.T, out=z)


def _status(field: str) -> float | None:
    """A field of /proc/self/status in MB; None where there is no such file."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1000 * 1.024
    except OSError:
        pass
    return None


def resident_memory() -> float:
    """Memory of this process now, in MB (its highest so far where the system does not say)."""
    now = _status("VmRSS")
    return now if now is not None else peak_memory()


def peak_memory() -> float:
    """The most memory this process has had since `forget_peak`, in MB."""
    peak = _status("VmHWM")
    return peak if peak is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000 * 1.024


def give_back() -> None:
    """Return freed memory to the system (glibc keeps it), so that a baseline does not hold what a model will reuse."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """Start a new peak from now, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")

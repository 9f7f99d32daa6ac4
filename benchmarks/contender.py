"""A contender's side of the benchmark: it calls `beat()` before every step, and the driver says when it may go on."""

import cProfile
import ctypes
import gc
import json
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.sizes import Size
from monosem.base import torch_generator


@dataclass(frozen=True)
class Span:
    """Seconds: of the processor (all threads of this process), and of the wall clock."""

    cpu: float
    wall: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.cpu + other.cpu, self.wall + other.wall)

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


def _memory(entry: str) -> float:
    """An entry of /proc/self/status in MB; the most memory so far where there is no such file."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{entry}:"):
                return int(line.split()[1]) / 1000 * 1.024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000 * 1.024


def resident_memory() -> float:
    """Memory of this process now, in MB (its highest so far where the system does not say)."""
    return _memory("VmRSS")


def peak_memory() -> float:
    """The most memory this process has had since `forget_peak`, in MB."""
    return _memory("VmHWM")


def forget_peak() -> None:
    """Return freed memory to the system (glibc keeps it), and start a new peak from now where the system can."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _largest(profile: cProfile.Profile, steps: int, count: int = 12) -> list[tuple[str, float]]:
    """Where a step spends its own time, in ms, largest first: calls of Python and of what is compiled."""

    def name(code: Any) -> str:
        return code if isinstance(code, str) else f"{Path(code.co_filename).name}:{code.co_name}"

    rows = sorted(profile.getstats(), key=lambda entry: -entry.inlinetime)[:count]
    return [(name(row.code), round(row.inlinetime / steps * 1e3, 3)) for row in rows if row.inlinetime > 0]


class Enough(BaseException):
    """The driver wants no more steps; unwinds a training loop that would go on for ever."""


@dataclass(eq=False)
class Beat:
    """The boundary between steps. A step lasts from one call to the next, whatever happens between them.

    Commands are JSON lines that `read` gives, each answered by one line to `write`:

        {"do": "warm", "steps": n}                   n steps, not timed -> {"peak_mb"} over the baseline
        {"do": "state", "name": s}                   bring the model into a state -> {}
        {"do": "turn", "steps": n, "threads": t}     products, n steps, products -> {"product", "steps", "facts"}
        {"do": "profile", "steps": n}                n steps under cProfile -> {"profile": [[what, ms a step], ...]}
        {"do": "end"}
    """

    size: Size
    read: Callable[[], str]
    write: Callable[[str], object]
    state: Callable[[str], None] = lambda name: None
    facts: Callable[[], dict[str, float]] = dict
    baseline_mb: float = 0.0
    _left: int = 0
    _steps: list[Span] = field(default_factory=list)
    _products: list[Span] = field(default_factory=list)
    _doing: str = ""
    _profile: cProfile.Profile | None = None
    _last: Span | None = None
    _product: Callable[[], object] | None = None

    def __call__(self) -> None:
        """End a step, begin the next; in between turns, wait."""
        now = clock()
        if self._last is not None:
            self._steps.append(now - self._last)
            self._left -= 1
        if self._left == 0:
            if self._last is not None:
                self._close()
            self._open()
        self._last = clock()

    def baseline(self) -> None:
        """Memory counts from here: after the imports and the rows, before the model."""
        forget_peak()
        self.baseline_mb = resident_memory()

    def say(self, **answer: Any) -> None:
        """One line to the driver."""
        self.write(json.dumps(answer) + "\n")

    def _measure_product(self) -> None:
        if not self.size.products:
            return
        if self._product is None:
            self._product = product(self.size.batch, self.size.n_p, self.size.n_q)
            self._product()
        self._products += [timed(self._product) for _ in range(self.size.products)]

    def _close(self) -> None:
        """Answer a command whose steps are done."""
        if self._doing == "turn":
            self._measure_product()
            spans = {"product": [s.plain() for s in self._products], "steps": [s.plain() for s in self._steps]}
            self.say(**spans, facts=self.facts())
        elif self._profile is not None:
            self._profile.disable()
            self.say(profile=_largest(self._profile, len(self._steps)))
            self._profile = None
        else:
            self.say(peak_mb=round(peak_memory() - self.baseline_mb, 1), facts=self.facts())

    def _open(self) -> None:
        """Hear commands until one asks for steps."""
        self._steps, self._products, self._last = [], [], None
        while self._left == 0:
            command = json.loads(self.read() or '{"do": "end"}')
            if command["do"] == "end":
                raise Enough
            if command["do"] == "state":
                self.state(command["name"])
                self.say()
                continue
            self._doing = command["do"]
            if self._doing == "turn":
                torch.set_num_threads(command["threads"])
                self._measure_product()
            self._left = command["steps"]
            if self._doing == "profile":
                torch.set_num_threads(1)
                self._profile = cProfile.Profile()
                self._profile.enable()

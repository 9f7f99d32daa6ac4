"""What a step costs on rows of a network that runs ahead of training, beside one on the same rows from a store.

The network is a wait, shorter than a step, as one on another device is. Both dictionaries train in this process, each
in a thread of its own, and take turns: who comes first alternates, and no turn begins before the ring is full again, so
that neither works in the other's time.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contender import Enough, Span, clock
from benchmarks.driver import Progress
from benchmarks.pairs import Ratio, median_interval
from benchmarks.sizes import SIZES, Size
from monosem import FitConfig, LiveSource, StoreSource, harvest
from monosem.bench import environment
from monosem.data import Source
from monosem.report import fill, table
from monosem.train import fit

BATCHES, TURN, WARM = 32, 16, 8
"""Batches of a store, and of a ring; steps of a turn, and before the first."""
GOAL = 1.05


class _Waits(nn.Module):
    """Gives its input after a wait that takes no processor."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.tap = 0.0, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.tap(x)  # type: ignore[no-any-return]


class _Turns:
    """A source whose `take` begins a step: `fit` in a thread of its own, which rests between turns."""

    def __init__(self, source: Source, size: Size) -> None:
        self.source, self.rows, self.digest = source, source.rows, source.digest
        self.p_widths, self.r_widths, self.units = source.p_widths, source.r_widths, None
        self._left, self._go, self._done, self._over = 0, threading.Event(), threading.Event(), False
        self._taking = False
        self._error: BaseException | None = None
        config = FitConfig(10**6, size.batch, 1e-3, sample_rows=size.batch, log_every=10**6, threads=1)
        self._thread = threading.Thread(target=self._train, args=(f"topk(k={size.k}, aux=0.0)", size.n_q, config))
        self._thread.start()

    def _train(self, method: str, n_q: int, config: FitConfig) -> None:
        try:
            fit(method, self, n_q, config)
        except Enough:
            pass
        except BaseException as error:
            self._error = error
        self._done.set()

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Rows, once the turn of this step has come; the first ones are the sample of the start."""
        if self._taking and self._left == 0:
            self._done.set()
            self._go.wait()
            self._go.clear()
        self._left -= self._taking
        self._taking = True
        if self._over:
            raise Enough
        return self.source.take(index)

    def turn(self, steps: int) -> Span:
        """Let some steps pass; what they took, all threads of the process together."""
        self._rest()
        self._done.clear()
        began, self._left = clock(), steps
        self._go.set()
        self._rest()
        return clock() - began

    def _rest(self) -> None:
        """Wait until the turn is over. Raises: what `fit` raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Stop training."""
        self._done.wait()
        self._over, self._left = True, 1
        self._go.set()
        self._thread.join()


def _settled(live: LiveSource) -> None:
    """Wait until the network has nothing to do."""
    ring = live._ring
    while ring.arrived - ring.freed < ring.slots and ring.end is None:
        time.sleep(0.001)


def _sources(size: Size, folder: Path, network: _Waits) -> tuple[StoreSource, LiveSource]:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(size.batch, size.n_p, generator=generator) for _ in range(BATCHES)]
    harvest(network, "tap:out", batches, folder)
    return StoreSource(folder, "tap:out"), LiveSource(network, "tap:out", None, batches)


def measure(size: Size, waits: Sequence[float], pairs: int, progress: Progress) -> dict[str, Any]:
    """One size: milliseconds of a step, and the ratio of both, for each wait as a share of the store's step."""
    network = _Waits().eval()
    with tempfile.TemporaryDirectory() as folder:
        stored, live = _sources(size, Path(folder), network)
        turns = {"store": _Turns(stored, size), "live": _Turns(live, size)}
        try:
            for one in turns.values():
                one.turn(WARM)
            step = turns["store"].turn(TURN).wall / TURN
            cases = {}
            for share in waits:
                network.seconds = share * step
                before = live._ring.waited
                cases[f"{share:g}"] = case = _pairs(turns, lambda: _settled(live), pairs)
                seconds = TURN * sum(case["seconds"]["wall"]["live"])
                case["waited"] = (live._ring.waited - before) / seconds
                progress(f"{size.name}, a wait of {share:g} steps: {line(case)}")
        finally:
            for one in turns.values():
                one.end()
            live.close()
    return cases


def _pairs(turns: Mapping[str, _Turns], settled: Callable[[], None], pairs: int) -> dict[str, Any]:
    spans: dict[str, list[Span]] = {who: [] for who in turns}
    for number in range(pairs):
        for who in list(turns)[:: 1 if number % 2 else -1]:
            settled()
            spans[who].append(turns[who].turn(TURN))
    wall = {who: [span.wall / TURN for span in some] for who, some in spans.items()}
    processor = {who: [span.cpu / TURN for span in some] for who, some in spans.items()}
    return {
        "ms": {who: 1e3 * median(some) for who, some in wall.items()},
        "live / store": {kind: vars(_ratio(times)) for kind, times in (("wall", wall), ("processor", processor))},
        "seconds": {"wall": wall, "processor": processor},
    }


def _ratio(times: Mapping[str, Sequence[float]]) -> Ratio:
    return median_interval([a / b for a, b in zip(times["live"], times["store"], strict=True)])


def run(sizes: Sequence[Size], waits: Sequence[float], pairs: int, progress: Progress) -> dict[str, Any]:
    """The record."""
    load = os.getloadavg()[0]
    measured = {size.name: measure(size, waits, pairs, progress) for size in sizes}
    about = {"schema": "monosem.live_speed/1", "env": environment(), "pairs": pairs, "turn": TURN}
    return about | {"load": [round(value, 2) for value in (load, os.getloadavg()[0])], "sizes": measured}


def line(case: Mapping[str, Any]) -> str:
    """One case for people."""
    wall, processor = (Ratio(**case["live / store"][kind]) for kind in ("wall", "processor"))
    met = "" if wall.median <= GOAL else f", over the goal of {GOAL}"
    step = f"{case['ms']['store']:.1f} ms a step of the store's; waited {case['waited']:.1%} of the time"
    return f"live / store {wall.text()} of wall time{met}, {processor.text()} of processor time; {step}"


def write_page(record: Mapping[str, Any], page: Path) -> None:
    """Fill the table of docs/harvest.md."""

    def rows() -> Iterator[tuple[str, ...]]:
        yield "n_p x n_q", "wait, steps", "a store's step, ms", "live / store, wall time", "processor time"
        for name, cases in record["sizes"].items():
            for share, case in cases.items():
                ratios = (Ratio(**case["live / store"][kind]).text() for kind in ("wall", "processor"))
                yield f"{SIZES[name].n_p} x {SIZES[name].n_q}", share, f"{case['ms']['store']:.1f}", *ratios

    fill(page, {"live speed": table(list(rows()))})

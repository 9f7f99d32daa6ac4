"""Whether a step became faster or slower: turns of an older checkout and of this one, interleaved, case by case."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from math import comb
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.driver import ROOT, Process, Progress, Seat, prepare, turn
from benchmarks.sizes import CASES, SIZES
from benchmarks.summary import CPU, WALL
from monosem import MonosemError
from monosem.base import ArgumentError, check, read_json, write_json
from monosem.bench import environment

SCHEMA = "monosem.pairs/1"
WHO = ("before", "after", "before again")


@dataclass(frozen=True)
class Ratio:
    """The median of some ratios, and an interval that holds the true median with probability `coverage`."""

    median: float
    low: float
    high: float
    coverage: float

    def text(self) -> str:
        """0.998 (0.994 to 1.003)."""
        return f"{self.median:.4f} ({self.low:.4f} to {self.high:.4f})"


def median_interval(values: Sequence[float]) -> Ratio:
    """The median, between the two order statistics that enclose it with a probability of at least 95 %.

    Equation: P(x_(j) <= median <= x_(n+1-j)) = 1 - 2 P(Bin(n, 1/2) < j), with the largest j that keeps it at .95
        or more, whatever the distribution. With fewer than six values no j does: all of them then, and less coverage.

    Example:
        >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        Ratio(median=3.5, low=1.0, high=6.0, coverage=0.96875)
    """
    ordered, n = sorted(values), len(values)
    below = [sum(comb(n, i) for i in range(j)) / 2**n for j in range(n // 2 + 1)]  # P(Bin(n, 1/2) < j)
    j = max((j for j in range(1, len(below)) if 2 * below[j] <= 0.05), default=1)
    return Ratio(median(ordered), ordered[j - 1], ordered[n - j], 1 - 2 * sum(comb(n, i) for i in range(j)) / 2**n)


@dataclass(frozen=True)
class Options:
    """`before`: the older checkout. Each pair is one turn of each; `warm` steps come first. `changes`: of the size."""

    before: Path
    cases: tuple[str, ...]
    size: str = "paper"
    pairs: int = 30
    threads: int = 1
    warm: int = 50
    changes: Mapping[str, int] | None = None


def compare(
    options: Options, command: str = "", progress: Progress = print, path: Path | None = None
) -> dict[str, Any]:
    """Time every case, and return the record; with `path` it is written after each, and cases that it holds are kept.

    The older checkout takes part twice, so that the ratio of its two processes (A/A) shows what noise alone does.
    Who comes first rotates from pair to pair. All three train the same run: after as many steps, an equal logged loss
    says that they compute the same bits.

    Raises: ArgumentError when `before` is no checkout of monosem, and for a record of other settings; MonosemError when
        a contender fails.
    """
    home = options.before.resolve()
    there = (home / "src" / "monosem" / "__init__.py").is_file()
    check(there, f"--before {options.before} has no src/monosem; give the root of a checkout", ArgumentError)
    time = "processor" if options.threads == 1 else "wall"
    shape = {"size": options.size, "changes": dict(options.changes or {}), "threads": options.threads}
    shape |= {"pairs": options.pairs, "time": time}
    record: dict[str, Any] = {"schema": SCHEMA, "command": command, **shape, "cases": {}, "env": environment()}
    if path is not None and path.is_file():
        record = read_json(path)
        other = [
            f"{name} {record.get(name)}, not {value}" for name, value in shape.items() if record.get(name) != value
        ]
        check(not other, f"--record {path} has {', '.join(other)}; name another file", ArgumentError)
    for name in options.cases:
        if name in record["cases"]:
            continue
        began, load = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
        case = _case(name, home, options, progress)
        when = {"created": began, "load": [round(value, 2) for value in (load, os.getloadavg()[0])]}
        record["cases"][name] = case | when
        progress(f"{name}: {line(case)}")
        if path is not None:
            write_json(path, record)
    return record


def _case(name: str, before: Path, options: Options, progress: Progress) -> dict[str, Any]:
    """One case: three processes warm up side by side, then take turns."""
    case, size = CASES[name], SIZES[options.size]
    changes = {"products": 0, **(options.changes or {})}
    steps, sources = changes.get("turn", size.turn), (before, ROOT, before)
    with ExitStack() as stack:
        seats = []
        for source in sources:
            process = Process(sys.executable, "monosem", name, options.size, changes, source)
            seats.append(Seat(stack.enter_context(process), {"turns": []}))
        prepare(seats, [options.warm] * len(seats), progress)
        for who, seat, source in zip(WHO, seats, sources, strict=True):
            _sound(f"{name}, {who}", seat, source)
        for number in range(options.pairs):
            for place in range(len(seats)):
                seat = seats[(number + place) % len(seats)]
                turn(seat, steps, state=case.states[0], round=number, threads=options.threads)
    return _summary({who: seat.out["turns"] for who, seat in zip(WHO, seats, strict=True)}, options.threads)


def _sound(who: str, seat: Seat, source: Path) -> None:
    """A contender that failed, or has another checkout's monosem, ends the comparison."""
    if "error" in seat.out:
        raise MonosemError(f"{who}: {seat.out['error']}")
    wanted, got = str(source / "src"), seat.out["monosem"]
    text = f"{who}: monosem came from {got}, not from {wanted}; unset PYTHONPATH, and try again"
    check(got == wanted, text, MonosemError)


def _summary(turns: Mapping[str, Sequence[Mapping[str, Any]]], threads: int) -> dict[str, Any]:
    """Ratios round by round, their medians and intervals, and whether logged losses agree."""
    time = CPU if threads == 1 else WALL
    steps = {who: [mean(float(span[time]) for span in t["steps"]) for t in some] for who, some in turns.items()}
    before, after, again = (steps[who] for who in WHO)
    losses = {who: [t["facts"]["loss"] for t in some] for who, some in turns.items()}
    return {
        "ms": {who: 1e3 * median(some) for who, some in steps.items()},
        "after / before": vars(median_interval([a / b for a, b in zip(after, before, strict=True)])),
        "before / before": vars(median_interval([a / b for a, b in zip(again, before, strict=True)])),
        "equal_losses": losses["before"] == losses["after"],
        "turns": {who: list(some) for who, some in turns.items()},
    }


def line(case: Mapping[str, Any]) -> str:
    """One case for people."""
    change, noise = (Ratio(**case[what]) for what in ("after / before", "before / before"))
    losses = "equal" if case["equal_losses"] else "DIFFERENT"
    ms = case["ms"]
    return (
        f"after / before {change.text()}, A/A {noise.text()}; {change.coverage:.1%} intervals of the median; "
        f"{ms['before']:.1f} ms before, {ms['after']:.1f} ms after; logged losses {losses}"
    )

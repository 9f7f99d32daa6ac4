"""The driver: contenders take turns, one at a time, and what they say becomes a record."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from benchmarks.speed.curves import curves
from benchmarks.speed.peers import PEERS
from benchmarks.speed.process import Process
from benchmarks.speed.sizes import CASES, SIZES, Case, Size
from benchmarks.speed.sweep import sweep
from benchmarks.speed.turns import Plan, Seat, Tell, each, prepare, take_turns
from monosem.bench.records import environment

SCHEMA = "monosem.speed/1"
_AT_ONCE = 2


@dataclass(frozen=True)
class Options:
    """What is measured.

    `rounds`: in each, every contender has one turn (peers only in the first `peer_rounds`). `warm`: at most that many
    steps before timing (None: as the case says). `peers`: pythons of side environments, by the peer's name.
    `floor`, `curves`, `sweep`: whether the floor's pieces, cost against each size, and many runs at once are measured.
    """

    sizes: tuple[str, ...] = ("small", "paper")
    cases: tuple[str, ...] = tuple(CASES)
    rounds: int = 5
    peer_rounds: int = 3
    threads: tuple[int, ...] = (1,)
    peers: Mapping[str, str] = field(default_factory=dict)
    warm: int | None = None
    floor: bool = True
    curves: bool = False
    sweep: bool = False

    def plan(self, size: Size) -> Plan:
        """How turns are taken at a size."""
        return Plan(self.rounds, self.peer_rounds, self.threads, size.turn, size.peer_turn)


def _seat(stack: ExitStack, python: str, who: str, case: str, size: Size, out: dict[str, Any]) -> Seat:
    return Seat(stack.enter_context(Process(python, who, case, size.name, {})), out)


def _cases(cases: Sequence[Case], size: Size, options: Options, tell: Tell) -> dict[str, Any]:
    """Some cases: contenders warm up side by side, then each case has its rounds."""
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        seats: dict[str, list[Seat]] = {}
        for case in cases:
            names = [name for name in options.peers if case.peers in PEERS[name].cases]
            found[case.name] = {name: {"turns": []} for name in ("monosem", *names)}
            out = found[case.name]
            ours = _seat(stack, sys.executable, "monosem", case.name, size, out["monosem"])
            others = [_seat(stack, options.peers[name], name, case.peers, size, out[name]) for name in names]
            seats[case.name] = [ours, *others]
        warm = [min(c.warm, options.warm or c.warm) if seat.ours else 1 for c in cases for seat in seats[c.name]]
        prepare([seat for case in cases for seat in seats[case.name]], warm, tell)
        for case in cases:
            _case(seats[case.name], case, size, options, tell)
    return found


def _case(seats: Sequence[Seat], case: Case, size: Size, options: Options, tell: Tell) -> None:
    """One case: rounds in its first state, with peers and every number of threads; then ours alone, with one number."""
    first, *others = case.states
    plan = options.plan(size)
    take_turns(seats, first, plan, tell)
    for state in others:
        take_turns(seats[:1], state, replace(plan, threads=plan.threads[:1]), tell)
    each(seats[:1], lambda seat: seat.out.update(seat.process.ask(do="profile", steps=size.turn)), tell)
    tell(f"{size.name}: {case.name} done")


def _floor(size: Size, options: Options, tell: Tell) -> dict[str, Any]:
    """The floor's pieces, in their own process."""
    out: dict[str, Any] = {"turns": []}
    with ExitStack() as stack:
        seats = [_seat(stack, sys.executable, "floor", "", size, out)]
        prepare(seats, [2], tell)
        take_turns(seats, "floor", options.plan(size), tell)
    tell(f"{size.name}: floor done")
    return out


def measure(options: Options, command: str = "", tell: Tell = print) -> dict[str, Any]:
    """Everything asked for, in one run; returns the record that BENCHMARKS.md is made from."""
    began = datetime.now(UTC)
    load = [os.getloadavg()]
    sizes: dict[str, Any] = {}
    for name in options.sizes:
        size = SIZES[name]
        floor = _floor(size, options, tell) if options.floor else {"turns": []}
        cases: dict[str, Any] = {}
        for start in range(0, len(options.cases), _AT_ONCE):
            some = [CASES[case] for case in options.cases[start : start + _AT_ONCE]]
            cases |= _cases(some, size, options, tell)
        sizes[name] = {"shape": asdict(size), "floor": floor, "cases": cases}
        load.append(os.getloadavg())
    return {
        "schema": SCHEMA,
        "study": "speed",
        "command": command,
        "options": asdict(options) | {"peers": sorted(options.peers)},
        "seeds": {"world": 0, "train": 0},
        "sizes": sizes,
        "curves": curves(tell) if options.curves else {},
        "sweep": sweep(tell) if options.sweep else {},
        "load": [[round(value, 2) for value in entry] for entry in load],
        "cores": os.cpu_count(),
        "env": environment(),
        "minutes": round((datetime.now(UTC) - began).total_seconds() / 60, 2),
        "created": began.isoformat(timespec="seconds"),
    }

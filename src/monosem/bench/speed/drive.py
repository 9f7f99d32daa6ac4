"""The driver: contenders take turns, one at a time, and what they say becomes a record."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from monosem.base.errors import MonosemError
from monosem.bench.records import environment
from monosem.bench.speed.peers import PEERS
from monosem.bench.speed.process import Process
from monosem.bench.speed.sizes import CASES, SIZES, Case, Size

__all__ = ["SCHEMA", "Options", "Tell", "measure"]

SCHEMA = "monosem.speed/1"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is measured.

    `rounds`: in each, every contender has one turn (peers only in the first `peer_rounds`). `warm`: at most that many
    steps before timing (None: as the case says). `peers`: pythons of side environments, by the peer's name.
    `changes`: shapes that differ from the named size's.
    """

    sizes: tuple[str, ...] = tuple(SIZES)
    cases: tuple[str, ...] = tuple(CASES)
    rounds: int = 5
    peer_rounds: int = 3
    threads: tuple[int, ...] = (1,)
    peers: Mapping[str, str] = field(default_factory=dict)
    warm: int | None = None
    changes: Mapping[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class _Seat:
    """A contender and what the record will say of it; after an error it takes no more turns."""

    process: Process
    out: dict[str, Any]

    @property
    def ours(self) -> bool:
        return self.process.who not in PEERS


def _each(seats: Sequence[_Seat], work: Callable[[_Seat], object], tell: Tell) -> None:
    for seat in seats:
        if "error" in seat.out:
            continue
        try:
            work(seat)
        except MonosemError as error:
            seat.out["error"] = str(error)
            tell(f"{seat.process.case} {seat.process.who}: {error}")


def _prepare(seats: Sequence[_Seat], warm: Mapping[str, int], tell: Tell) -> None:
    """Start, one step, the first state (thresholds that make codes sparse), then warm up side by side."""
    _each(seats, lambda seat: seat.out.update(seat.process.hear()), tell)
    _each(seats, lambda seat: seat.process.ask(do="warm", steps=1), tell)
    _each(seats, lambda seat: seat.process.ask(do="state", name="trained"), tell)
    _each(seats, lambda seat: seat.process.send(do="warm", steps=warm[seat.process.who]), tell)
    _each(seats, lambda seat: seat.out.update(memory_mb=seat.process.hear()["peak_mb"]), tell)


def _rounds(seats: Sequence[_Seat], state: str, size: Size, options: Options, tell: Tell) -> None:
    """Rounds of turns: in each, every contender once with every number of threads."""

    def turn(seat: _Seat, place: dict[str, Any]) -> None:
        if not seat.ours and place["round"] >= options.peer_rounds:
            return
        seat.process.ask(do="state", name=state)
        steps = 1 if seat.process.who == "floor" else size.turn if seat.ours else size.peer_turn
        answer = seat.process.ask(do="turn", steps=steps, threads=place["threads"])
        seat.out["turns"].append(place | answer)

    for number in range(options.rounds):
        for threads in options.threads:
            place = {"state": state, "round": number, "threads": threads}
            _each(seats, lambda seat, place=place: turn(seat, place), tell)  # type: ignore[misc]


def _case(case: Case, size: Size, options: Options, tell: Tell) -> dict[str, Any]:
    """One case: every contender warmed up, then rounds in each of its states; peers only in the first."""
    names = ["monosem", *(name for name in options.peers if case.peers in PEERS[name].cases)]
    found: dict[str, dict[str, Any]] = {name: {"turns": []} for name in names}
    steps = case.warm if options.warm is None else min(case.warm, options.warm)
    with ExitStack() as stack:
        seats = []
        for name in names:
            called = case.name if name == "monosem" else case.peers
            python = options.peers.get(name, sys.executable)
            process = stack.enter_context(Process(python, name, called, size.name, options.changes))
            seats.append(_Seat(process, found[name]))
        _prepare(seats, {name: max(steps, 1) if name == "monosem" else 1 for name in names}, tell)
        for state in case.states:
            taking_part = seats if state == case.states[0] else seats[:1]
            _rounds(taking_part, state, size, options, tell)
    tell(f"{size.name}: {case.name} done")
    return found


def _floor(size: Size, options: Options, tell: Tell) -> dict[str, Any]:
    """The floor's pieces, in their own process."""
    out: dict[str, Any] = {"turns": []}
    with Process(sys.executable, "floor", "", size.name, options.changes) as process:
        seats = [_Seat(process, out)]
        _prepare(seats, {"floor": 2}, tell)
        _rounds(seats, "floor", size, options, tell)
    tell(f"{size.name}: floor done")
    return out


def measure(options: Options, command: str = "", tell: Tell = print) -> dict[str, Any]:
    """Everything asked for, in one run; returns the record that BENCHMARKS.md is made from."""
    began = datetime.now(UTC)
    load = [os.getloadavg()]
    sizes: dict[str, Any] = {}
    for name in options.sizes:
        size = SIZES[name]
        sizes[name] = {
            "shape": asdict(size) | dict(options.changes),
            "floor": _floor(size, options, tell),
            "cases": {case: _case(CASES[case], size, options, tell) for case in options.cases},
        }
        load.append(os.getloadavg())
    return {
        "schema": SCHEMA,
        "study": "speed",
        "command": command,
        "options": asdict(options) | {"peers": sorted(options.peers)},
        "seeds": {"world": 0, "train": 0},
        "sizes": sizes,
        "load": [[round(value, 2) for value in entry] for entry in load],
        "cores": os.cpu_count(),
        "env": environment(),
        "minutes": round((datetime.now(UTC) - began).total_seconds() / 60, 2),
        "created": began.isoformat(timespec="seconds"),
    }

"""Contenders take turns: prepared side by side, then timed one at a time, round after round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.peers import PEERS
from benchmarks.speed.process import Process
from monosem.base.errors import MonosemError

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How many rounds, with how many threads (peers: the first only), and how many steps a turn has."""

    rounds: int
    peer_rounds: int
    threads: tuple[int, ...]
    turn: int
    peer_turn: int


@dataclass(eq=False)
class Seat:
    """A contender and what the record will say of it; after an error it takes no more turns."""

    process: Process
    out: dict[str, Any]

    @property
    def ours(self) -> bool:
        """Not another library."""
        return self.process.who not in PEERS


def each(seats: Sequence[Seat], work: Callable[[Seat], object], tell: Tell) -> None:
    """Do something with every contender; one that fails is noted, told, and left out from then on."""
    for seat in seats:
        if "error" in seat.out:
            continue
        try:
            work(seat)
        except MonosemError as error:
            seat.out["error"] = str(error)
            tell(f"{seat.process.case} {seat.process.who}: {error}")


def prepare(seats: Sequence[Seat], warm: Sequence[int], tell: Tell) -> None:
    """Start, one step, the first state (thresholds that make codes sparse), then `warm` steps each, side by side."""
    each(seats, lambda seat: seat.out.update(seat.process.hear()), tell)
    each(seats, lambda seat: seat.process.ask(do="warm", steps=1), tell)
    each(seats, lambda seat: seat.process.ask(do="state", name="trained"), tell)
    steps = dict(zip(map(id, seats), warm, strict=True))
    each(seats, lambda seat: seat.process.send(do="warm", steps=max(1, steps[id(seat)])), tell)
    each(seats, lambda seat: seat.out.update(memory_mb=seat.process.hear()["peak_mb"]), tell)


def take_turns(seats: Sequence[Seat], state: str, plan: Plan, tell: Tell) -> None:
    """Rounds of turns: in each, every contender once with every number of threads; what they say joins their record."""
    for number in range(plan.rounds):
        for threads in plan.threads:
            for seat in seats:
                if seat.ours or (number < plan.peer_rounds and threads == plan.threads[0]):
                    place = {"state": state, "round": number, "threads": threads}
                    each([seat], lambda seat, place=place: _turn(seat, place, plan), tell)  # type: ignore[misc]


def _turn(seat: Seat, place: dict[str, Any], plan: Plan) -> None:
    seat.process.ask(do="state", name=place["state"])
    steps = 1 if seat.process.who == "floor" else plan.turn if seat.ours else plan.peer_turn
    answer = seat.process.ask(do="turn", steps=steps, threads=place["threads"])
    seat.out["turns"].append(place | answer)

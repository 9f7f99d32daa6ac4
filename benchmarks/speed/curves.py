"""Cost against each size: TopK steps around the small size, one size changed at a time."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks.speed.process import Process
from benchmarks.speed.turns import Plan, Seat, Tell, prepare, take_turns

BASE = "small"
AXES: Mapping[str, tuple[int, ...]] = {
    "n_q": (2048, 4096, 8192, 16_384, 32_768),
    "k": (4, 8, 16, 32, 64, 128),
    "batch": (256, 512, 1024, 2048, 4096),
    "n_p": (64, 128, 256, 512, 1024),
}
"""What is changed, and to what; all else as at the size BASE."""


def curves(tell: Tell, axes: Mapping[str, tuple[int, ...]] = AXES, rounds: int = 5) -> dict[str, Any]:
    """By axis: the points, each with its turns; the points of an axis take turns with each other."""
    plan = Plan(rounds, 0, (1,), turn=4, peer_turn=0)
    found: dict[str, Any] = {}
    for axis, values in axes.items():
        points: list[dict[str, Any]] = [{"value": value, "turns": []} for value in values]
        with ExitStack() as stack:
            seats = []
            for point in points:
                process = Process(sys.executable, "monosem", "topk", BASE, {axis: point["value"], "products": 1})
                seats.append(Seat(stack.enter_context(process), point))
            prepare(seats, [20] * len(seats), tell)
            take_turns(seats, "trained", plan, tell)
        found[axis] = points
        tell(f"cost against {axis} done")
    return found

"""What the checks of rows, losses and positions cost: steps with and without them take turns in one process.

The two differ by less than a busy machine's noise, so that the processor time inside the checks is counted too.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import monosem.core.model
import monosem.train.loop
from benchmarks.contender import Beat, Enough
from benchmarks.driver import Progress
from benchmarks.ours import train
from benchmarks.pairs import Ratio, median_interval
from benchmarks.sizes import CASES, SIZES, Size
from monosem.base import Positions
from monosem.bench import environment

CHECKS = (
    (monosem.train.loop, "check_finite"),
    (monosem.train.loop, "check_loss"),
    (monosem.core.model, "check_finite"),
    (Positions, "verify"),
)
"""Where each check of a step is looked up."""
CALIBRATED = (3, 9)
"""Steps before which thresholds are set, where a case has them."""
WARM = 12


class _Turns(Beat):
    """A beat without a driver: after some warm steps, steps with the checks and without, in turns."""

    def __init__(self, size: Size, steps: int, calibrated: bool) -> None:
        super().__init__(size, read=str, write=print)
        self.left, self.calibrated, self.number, self.on, self.inside = steps, calibrated, 0, True, 0.0
        self.steps: dict[bool, list[float]] = {True: [], False: []}
        self.shares: list[float] = []
        self.started = 0.0

    def guard(self, check: Callable[..., None]) -> Callable[..., None]:
        """A check that is counted, and left out of every other step."""

        def counted(*given: Any, **named: Any) -> None:
            if self.on:
                began = time.process_time()
                check(*given, **named)
                self.inside += time.process_time() - began

        return counted

    def __call__(self) -> None:
        """End a step, begin the next."""
        self.number += 1
        if self.number > WARM:
            spent = time.process_time() - self.started
            self.steps[self.on].append(spent)
            self.shares += [self.inside / spent] * self.on
            self.left -= 1
        if self.left == 0:
            raise Enough
        if self.calibrated and self.number in CALIBRATED:
            self.state("trained")
        self.on, self.inside = self.number % 2 == 0, 0.0
        self.started = time.process_time()


def measure(name: str, pairs: int, size: Size = SIZES["paper"]) -> dict[str, Any]:
    """One case: milliseconds of a step with and without, their ratio, and the share of a step inside the checks."""
    case = CASES[name]
    turns = _Turns(size, 2 * pairs, case.l0)
    before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute in CHECKS]
    torch.set_num_threads(1)
    try:
        for owner, attribute, check in before:
            setattr(owner, attribute, turns.guard(check))
        train(case, size, turns)
    finally:
        for owner, attribute, check in before:
            setattr(owner, attribute, check)
    on, off = (turns.steps[which] for which in (True, False))
    return {
        "ms": {"with": 1e3 * median_interval(on).median, "without": 1e3 * median_interval(off).median},
        "with / without": vars(median_interval([a / b for a, b in zip(on, off, strict=True)])),
        "inside": vars(median_interval(turns.shares)),
    }


def run(names: Sequence[str], pairs: int, progress: Progress, size: Size = SIZES["paper"]) -> dict[str, Any]:
    """The record of some cases."""
    cases = {}
    for name in names:
        cases[name] = measure(name, pairs, size)
        progress(f"{name}: {line(cases[name])}")
    return {"env": environment(), "size": size.name, "pairs": pairs, "cases": cases}


def line(case: dict[str, Any]) -> str:
    """One case for people."""
    ratio, inside = Ratio(**case["with / without"]), Ratio(**case["inside"])
    share = f"{inside.median:.2%} of a step inside the checks ({inside.low:.2%} to {inside.high:.2%})"
    return f"with / without {ratio.text()}, {share}; {case['ms']['with']:.1f} ms a step; one thread, processor time"

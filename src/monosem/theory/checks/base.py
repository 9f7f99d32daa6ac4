"""What a check is: a statement, a measurement, random cases on which it holds, and counter-cases on which it fails."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from monosem.base.errors import MonosemError
from monosem.base.seeds import philox
from monosem.theory.law import ExactLaw
from monosem.theory.problem import Problem

Paper = Literal["confirmed", "needs hypotheses", "false as printed", "repaired"]


@dataclass(frozen=True, eq=False)
class Case:
    """An instance of a claim. `without` names the hypothesis that a counter-case drops; "" keeps them all."""

    problem: Problem
    law: ExactLaw | None = None
    without: str = ""


Draw = Callable[[np.random.Generator], Case]


@dataclass(frozen=True)
class Measurement:
    """One measurement: how far the claim is from holding, and how far two implementations disagree (`second`)."""

    residual: float
    second: float = 0.0
    witness: str = ""


@dataclass(frozen=True)
class Verdict:
    """Many measurements: the worst residual, its witness, and the worst disagreement of the two implementations."""

    residual: float
    tolerance: float
    trials: int
    witness: str
    second: float
    agreement: float

    @property
    def holds(self) -> bool:
        """Whether no trial exceeded the tolerance."""
        return self.residual <= self.tolerance

    @property
    def agrees(self) -> bool:
        """Whether both implementations gave the same numbers."""
        return self.second <= self.agreement


@dataclass(frozen=True)
class Check:
    """A claim as a program.

    `paper` says how the claim as printed stands: confirmed, needs hypotheses, false as printed; "repaired" marks our
    statement in its place. `holds_on` draws random cases, never filtered by success; `fails_on` draws cases that
    break a hypothesis (not the code). `applies` tells why a given problem is outside the claim, or "".
    """

    name: str
    claim: str
    statement: str
    paper: Paper
    measure: Callable[[Case, np.random.Generator], Measurement]
    holds_on: Draw
    fails_on: Mapping[str, Draw]
    page: str
    tolerance: float = 1e-8
    agreement: float = 1e-8
    trials: int = 50
    applies: Callable[[Problem], str] | None = None


@dataclass(frozen=True)
class Report:
    """A check's verdict on its own cases and on each counter-case."""

    name: str
    claim: str
    statement: str
    paper: Paper
    verdict: Verdict
    counter: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def caught(self) -> bool:
        """Whether the claim failed on every counter-case."""
        return all(not verdict.holds for verdict in self.counter.values())

    @property
    def as_documented(self) -> bool:
        """Whether all is as it should be."""
        return self.verdict.holds and self.verdict.agrees and self.caught


def _verdict(check: Check, draw: Draw, trials: int, rng: np.random.Generator) -> Verdict:
    worst, second = Measurement(-math.inf), 0.0
    for _ in range(trials):
        reading = check.measure(draw(rng), rng)
        second = max(second, float(reading.second))
        if not reading.residual <= worst.residual:  # NaN counts as worst
            worst = reading
        if math.isnan(worst.residual):
            break
    residual = math.inf if math.isnan(worst.residual) else float(worst.residual)
    return Verdict(residual, check.tolerance, trials, worst.witness, second, check.agreement)


def examine(check: Check, seed: int = 0, trials: int | None = None) -> Report:
    """Run a check on its random cases and on its counter-cases."""
    trials = trials or check.trials
    verdict = _verdict(check, check.holds_on, trials, philox(seed, f"check/{check.name}"))
    counter = {
        name: _verdict(check, draw, trials, philox(seed, f"check/{check.name}/{name}"))
        for name, draw in check.fails_on.items()
    }
    return Report(check.name, check.claim, check.statement, check.paper, verdict, counter)


def on_problem(check: Check, problem: Problem, seed: int = 0, trials: int = 20) -> Verdict | str:
    """A check on a problem of one's own: a verdict, or why the claim says nothing about it."""
    if check.applies is None:
        return "this claim brings its own law or instance"
    if reason := check.applies(problem):
        return reason
    try:
        return _verdict(check, lambda _: Case(problem), trials, philox(seed, f"problem/{check.name}"))
    except MonosemError as error:
        return str(error)

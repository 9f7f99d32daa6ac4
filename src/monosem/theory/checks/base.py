"""What a check is: a statement, a measurement, random cases on which it holds, and counter-cases on which it fails."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import MonosemError
from monosem.base.seeds import philox
from monosem.core.activations import Activation, ReLU
from monosem.theory.law import ExactLaw
from monosem.theory.patterns import ActivationPattern
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


def draw_directions(rng: np.random.Generator, width: int, n: int) -> Float[Tensor, "width n"]:
    """n uniformly random unit columns."""
    W = torch.from_numpy(rng.standard_normal((width, n)))
    unit: Tensor = W / W.norm(dim=0)
    return unit


def draw_weights(rng: np.random.Generator, n: int) -> Float[Tensor, " n"]:
    """M_d uniform between 1/2 and 2."""
    return torch.from_numpy(rng.uniform(0.5, 2.0, n))


def draw_problem(
    rng: np.random.Generator,
    n: int,
    n_p: int,
    n_q: int,
    n_r: int | None = None,
    activation: Activation | None = None,
    threshold: float = 0.0,
) -> Problem:
    """Random directions and weights; an SAE (W_r = W_p) unless n_r is given."""
    W_p = draw_directions(rng, n_p, n)
    W_r = W_p if n_r is None else draw_directions(rng, n_r, n)
    return Problem(W_p, W_r, draw_weights(rng, n), activation or ReLU(), n_q, threshold)


def draw_encoder(rng: np.random.Generator, problem: Problem) -> Float[Tensor, "n_q n_p"]:
    """Standard normal rows."""
    return torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))


def draw_partition(rng: np.random.Generator, n: int, n_q: int, groups: int | None = None) -> ActivationPattern:
    """[n] split at random over `groups` latents (default: at most n_q, at least one of them polysemantic)."""
    groups = groups or int(rng.integers(1, min(n_q, n - 1) + 1))
    order = rng.permutation(n)
    cuts = np.sort(rng.choice(np.arange(1, n), groups - 1, replace=False)) if groups > 1 else np.array([], int)
    sets = [part.tolist() for part in np.split(order, cuts)]
    return ActivationPattern.of([*sets, *([] for _ in range(n_q - groups))], n)


def plane(*degrees: float | int) -> Float[Tensor, "2 n"]:
    """Unit columns in the plane at these angles."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()])

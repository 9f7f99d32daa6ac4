"""Dead latents: F_i empty means a zero gradient, in both blocks."""

import numpy as np
import torch

from monosem.core.activations import Activation, JumpReLU, ReLU, TopK
from monosem.theory.checks.base import Case, Check, Measurement
from monosem.theory.checks.stationary import autograd
from monosem.theory.instances import draw_problem
from monosem.theory.loss import gradients
from monosem.theory.patterns import pattern_of
from monosem.theory.problem import Problem


def _measure(case: Case, rng: np.random.Generator) -> Measurement:
    """The largest gradient entry of the latent that is made dead (or merely nearly dead, in the counter-case)."""
    problem = case.problem
    W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    W_D = torch.from_numpy(rng.standard_normal((problem.n_r, problem.n_q)))
    total = problem.W_p.sum(1)
    W_E[0] = (total if case.without else -total) * 5
    fires = bool(pattern_of(problem, W_E).sets[0])
    ours, theirs = gradients(problem, W_D, W_E), autograd(problem, W_D, W_E)
    largest = max(float(ours[0][:, 0].abs().max()), float(ours[1][0].abs().max()))
    apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    scale = 1 + max(float(g.abs().max()) for g in ours)
    return Measurement(largest, apart / scale, f"latent 0 fires: {fires}, largest gradient entry {largest:.3g}")


def _case(rng: np.random.Generator, without: str = "") -> Case:
    n, n_p, n_r, n_q = (int(v) for v in rng.integers(2, 6, 4))
    activation: Activation = [ReLU(), JumpReLU(theta=0.2), TopK(min(2, n_q))][int(rng.integers(3))]
    drawn = draw_problem(rng, n, n_p, n_q, n_r, activation)
    W_p = drawn.W_p.abs() / drawn.W_p.norm(dim=0)  # one orthant: minus the sum of the directions is dead
    return Case(Problem(W_p, drawn.W_r, drawn.weights, activation, n_q), without=without)


DEAD_LATENTS = Check(
    name="dead_latents",
    claim="section 3, dead latents",
    statement="F_i = {}: the gradients of w_E^i and w_D^i vanish, so no first-order method on L~ revives latent i",
    paper="confirmed",
    measure=_measure,
    holds_on=_case,
    fails_on={"a latent that fires": lambda rng: _case(rng, "F_i is empty")},
    page="dead-latents.md",
    tolerance=0.0,
    agreement=1e-10,
)


def _measure_scale(case: Case, rng: np.random.Generator) -> Measurement:
    """What stays of the penalty at (W_E / c, c W_D), c = 1e6; the error must not move."""
    problem = case.problem
    W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    W_D = torch.from_numpy(rng.standard_normal((problem.n_r, problem.n_q)))

    def value(c: float) -> tuple[float, float]:
        H, D = problem.codes(W_E / c), W_D * c
        error = (problem.W_r.T - H @ D.T).square().sum(1) @ problem.weights
        price = D.norm(dim=0) if case.without else torch.ones(problem.n_q, dtype=torch.float64)
        return float(error), float((H * price).sum())

    (e1, p1), (e2, p2) = value(1.0), value(1e6)
    return Measurement(p2 / max(p1, 1e-300), abs(e1 - e2) / (1 + e1), f"penalty {p1:.3g} -> {p2:.3g} at the same error")


def _scale_case(rng: np.random.Generator, without: str = "") -> Case:
    n, n_p, n_r, n_q = (int(v) for v in rng.integers(2, 6, 4))
    return Case(draw_problem(rng, n, n_p, n_q, n_r), without=without)


L1_SCALE = Check(
    name="l1_scale",
    claim="eq 5, decoder norms",
    statement="ReLU + L1 with free decoder norms has no minimiser: "
    "(W_E / c, c W_D) keeps the error, the penalty falls to 0",
    paper="needs hypotheses",
    measure=_measure_scale,
    holds_on=_scale_case,
    fails_on={"codes weighted by decoder norms": lambda rng: _scale_case(rng, "free decoder norms")},
    page="dead-latents.md",
    tolerance=1e-5,
)

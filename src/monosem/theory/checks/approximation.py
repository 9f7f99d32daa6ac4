"""Theorem 3.1: how far L is from L~, for independent features and homogeneous activations."""

import itertools

import numpy as np
import torch

from monosem.core.activations import JumpReLU, ReLU, TopK
from monosem.theory.checks.base import Case, Check, Measurement, draw_directions
from monosem.theory.law import ExactLaw, exact_atoms, exact_loss, independent, truncated
from monosem.theory.problem import Problem, feature_losses, loss


def _naive_loss(problem: Problem, law: ExactLaw, W_D: np.ndarray, W_E: np.ndarray) -> float:
    """L by plain loops over supports and magnitudes: the second implementation (ReLU, JumpReLU, TopK)."""
    total = 0.0
    theta = getattr(problem.activation, "theta", 0.0)
    k = getattr(problem.activation, "k", problem.n_q)
    for row, chance in zip(law.supports.numpy(), law.chance.numpy(), strict=True):
        active = np.flatnonzero(row)
        for picks in itertools.product(range(len(law.magnitude.levels)), repeat=len(active)):
            x = np.zeros(problem.n)
            x[active] = [law.magnitude.levels[p] for p in picks]
            z = W_E @ (problem.W_p.numpy() @ x)
            kept = [j for j in np.argsort(-z, kind="stable")[:k] if z[j] > theta]
            x_hat = sum((W_D[:, j] * z[j] for j in kept), np.zeros(problem.n_r))
            part = chance * np.prod([law.magnitude.chances[p] for p in picks])
            total += part * float(np.sum((problem.W_r.numpy() @ x - x_hat) ** 2))
    return total


def _measure(case: Case, rng: np.random.Generator) -> Measurement:
    """max((L - L~) / bound - 1, (L~ - L) / L), with bound = n (n - 1) / 2 C q^2, q the largest Pr(x_d > 0)."""
    assert case.law is not None
    problem, law = case.problem, case.law
    W_E = torch.from_numpy(rng.standard_normal((problem.n_q, problem.n_p)))
    W_D = torch.from_numpy(rng.standard_normal((problem.n_r, problem.n_q)) * rng.choice([0.0, 0.1, 0.5, 1.0]))
    per_feature, whole = float(loss(problem, W_D, W_E)), exact_loss(problem, law, W_D, W_E).value
    C = float(feature_losses(problem, W_D, W_E, exact_atoms(problem, law)).max())
    bound = problem.n * (problem.n - 1) / 2 * C * float(law.rates.max()) ** 2
    gap = whole - per_feature
    residual = max(gap / bound - 1.0, -gap / whole)
    second = abs(_naive_loss(problem, law, W_D.numpy(), W_E.numpy()) - whole) / (1.0 + whole)
    return Measurement(
        residual, second, f"n={problem.n}, 1-S={float(law.rates.max()):.3g}: gap {gap:.3g}, bound {bound:.3g}"
    )


def _case(rng: np.random.Generator, *, theta: float = 0.0, together: bool = False) -> Case:
    n, n_p, n_q = int(rng.integers(2, 5)), int(rng.integers(2, 5)), int(rng.integers(1, 6))
    W_p, W_r = draw_directions(rng, n_p, n), draw_directions(rng, n_p + 1, n)
    rate = 10 ** (rng.uniform(-4, -3) if theta or together else rng.uniform(-3, 0)) / n
    law = independent(torch.from_numpy(rng.uniform(0.2, 1.0, n) * rate), truncated(levels=2))
    if together:  # all features fire together, each still rarely
        supports = torch.stack([torch.zeros(n), torch.ones(n)]).double()
        law = ExactLaw(supports, torch.tensor([1 - rate, rate], dtype=torch.float64), truncated(levels=2))
    activation = JumpReLU(theta=theta) if theta else [ReLU(), TopK(1), TopK(min(2, n_q))][int(rng.integers(3))]
    return Case(Problem(W_p, W_r, law.weights, activation, n_q), law, "independence" if together else "")


LOSS_APPROXIMATION = Check(
    name="loss_approximation",
    claim="theorem 3.1",
    statement="independent features, sigma(c z) = c sigma(z): 0 <= L - L~ <= n (n - 1) / 2 C (1 - S)^2",
    paper="needs hypotheses",
    measure=_measure,
    holds_on=_case,
    fails_on={
        "features that fire together": lambda rng: _case(rng, together=True),
        "a threshold theta > 0": lambda rng: _case(rng, theta=0.5),
    },
    page="loss-approximation.md",
)

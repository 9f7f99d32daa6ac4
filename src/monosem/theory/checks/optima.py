"""Theorem 3.3: the true dictionary as a near-optimum, its bound, the sharper one and the hypotheses it needs."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import ShapeError, check
from monosem.core.activations import Activation, At, JumpReLU, ReLU, TopK
from monosem.theory.checks.base import Case, Check, Measurement, draw_problem, draw_weights, plane
from monosem.theory.patterns import pattern_of
from monosem.theory.problem import Problem, loss


class Identity(Activation):
    """sigma(z) = z: it satisfies eq 10 and nothing more."""

    def select(self, score: Tensor, at: At, context: object) -> Tensor:
        """Everything."""
        return torch.ones_like(score, dtype=torch.bool)

    def value(self, z: Tensor, at: At) -> Tensor:
        """z itself."""
        return z


def construction(problem: Problem) -> tuple[Float[Tensor, "n_r n_q"], Float[Tensor, "n_q n_p"]]:
    """(W_D*, W_E*) = ([W_r, 0], [W_p^T; 0]).

    Source: Tang et al. 2025, theorem 3.3. Raises: ShapeError when n_q < n.
    """
    more = problem.n_q - problem.n
    check(more >= 0, f"n_q={problem.n_q} is less than n={problem.n}; the construction needs a latent each", ShapeError)
    W_D = torch.nn.functional.pad(problem.W_r, (0, more))
    return W_D, torch.nn.functional.pad(problem.W_p.T, (0, 0, 0, more))


def construction_bounds(problem: Problem) -> tuple[float, float]:
    """(as printed, sharper) bounds on L~ of the construction.

    Equation: n^2 M^2 sum_d M_d, and M^2 sum_d M_d (K_d - 1)^2 with K_d the number of latents that feature d activates
    """
    _, W_E = construction(problem)
    K = pattern_of(problem, W_E).matrix.sum(0)
    M2 = max(problem.max_interference, 0.0) ** 2
    printed = problem.n**2 * M2 * float(problem.weights.sum())
    return printed, M2 * float((problem.weights * (K - 1).clamp(min=0).square()).sum())


def _measure(case: Case, rng: np.random.Generator) -> Measurement:
    """(L~ - sharper bound) / loss of the zero dictionary."""
    problem = case.problem
    W_D, W_E = construction(problem)
    value, (printed, sharper) = float(loss(problem, W_D, W_E)), construction_bounds(problem)
    direct = 0.0
    theta, k = getattr(problem.activation, "theta", 0.0), getattr(problem.activation, "k", problem.n)
    gram = (problem.W_p.T @ problem.W_p).numpy()
    for d in range(problem.n):  # second implementation: features and cosines only
        row = gram[:, d]
        on = range(problem.n) if isinstance(problem.activation, Identity) else np.argsort(-row, kind="stable")[:k]
        kept = [j for j in on if row[j] > theta or isinstance(problem.activation, Identity)]
        error = problem.W_r[:, d].numpy() - problem.W_r[:, kept].numpy() @ row[kept]
        direct += float(problem.weights[d]) * float(error @ error)
    zero = problem.zero_dictionary_loss
    text = f"L~ {value:.4g}, sharper {sharper:.4g}, printed {printed:.4g}, zero dictionary {zero:.4g}"
    return Measurement((value - min(sharper, printed)) / zero, abs(value - direct) / zero, text)


def _case(rng: np.random.Generator) -> Case:
    n = int(rng.integers(2, 13))
    k = int(rng.integers(1, n + 1))
    activation: Activation = [ReLU(), TopK(k), JumpReLU(theta=float(rng.uniform(0.05, 0.9)))][int(rng.integers(3))]
    n_r = None if rng.random() < 0.5 else int(rng.integers(2, 13))
    return Case(draw_problem(rng, n, int(rng.integers(2, 13)), n + int(rng.integers(0, 3)), n_r, activation))


def _high_threshold(rng: np.random.Generator) -> Case:
    return Case(draw_problem(rng, 3, 6, 3, None, JumpReLU(theta=1.5)), without="a feature passes its own latent")


def _identity(rng: np.random.Generator) -> Case:
    W = plane(0.0, float(np.degrees(np.arccos(-0.9))))
    return Case(Problem(W, W, torch.ones(2), Identity(), 2), without="latents are nonnegative")


def _long_columns(rng: np.random.Generator) -> Case:
    W = torch.eye(3, dtype=torch.float64).repeat(2, 1)  # two sources: columns of norm sqrt(2)
    return Case(Problem(W, W, draw_weights(rng, 3), ReLU(), 3), without="unit columns")


def _applies(problem: Problem) -> str:
    if problem.n_q < problem.n:
        return f"n_q={problem.n_q} is less than n={problem.n}"
    norms = [float((W.norm(dim=0) - 1).abs().max()) for W in (problem.W_p, problem.W_r)]
    return "the columns of W_p and W_r are not unit vectors" if max(norms) > 1e-6 else ""


CONSTRUCTION = Check(
    name="construction",
    claim="theorem 3.3",
    statement="unit columns, sigma >= 0 that lets feature d pass latent d: "
    "L~(W_D*, W_E*) <= M^2 sum_d M_d (K_d - 1)^2 <= n^2 M^2 sum_d M_d",
    paper="needs hypotheses",
    measure=_measure,
    holds_on=_case,
    fails_on={
        "JumpReLU with theta >= 1": _high_threshold,
        "the identity at cosine -0.9": _identity,
        "columns of norm sqrt(m)": _long_columns,
    },
    page="near-optimum.md",
    tolerance=1e-12,
    applies=_applies,
)

"""Theorem 3.6 on closed regions: every partition has its minimum there, and descent may end on the wall."""

import numpy as np
import torch
from torch import Tensor

from monosem.core.activations import Activation, GroupMax, JumpReLU, ReLU, TopK
from monosem.theory.checks.base import (
    Case,
    Check,
    Measurement,
    draw_partition,
    draw_problem,
    draw_weights,
)
from monosem.theory.checks.convexity import has_convex_regions
from monosem.theory.descent import run_losses
from monosem.theory.minima import groups_of
from monosem.theory.patterns import ActivationPattern, pattern_of
from monosem.theory.problem import Problem, gradients, loss
from monosem.theory.walls import ClosedMinimum, closed_minimum

NEAR = 1e-3
"""How far the neighbours of a local minimum lie, relative to the point."""


def _ascended(gram: Tensor, rng: np.random.Generator, starts: int = 32, steps: int = 400) -> float:
    """max of z^T G z over unit z >= 0 by ascent from many starts: the second implementation of `nonnegative_maximum`.

    Equation: z <- (G z)_+ normalised; it never falls, as z^T G z is convex.
    """
    g = gram.shape[0]
    z = torch.cat([torch.eye(g, dtype=torch.float64), torch.from_numpy(rng.exponential(size=(starts, g)))])
    for _ in range(steps):
        z = torch.nn.functional.normalize((z @ gram).clamp(min=0.0) + 1e-300, dim=1)
    return float(torch.einsum("sd,de,se->s", z, gram, z).max())


def _neighbours(problem: Problem, at: ClosedMinimum, rng: np.random.Generator, count: int) -> Tensor:
    """The losses of random dictionaries near a point, less that of the point, over the zero dictionary's loss."""
    D = at.W_D + NEAR * torch.from_numpy(rng.standard_normal((count, *at.W_D.shape)))
    E = at.W_E + NEAR * torch.from_numpy(rng.standard_normal((count, *at.W_E.shape)))
    losses = run_losses(problem, D, E, problem.atoms)
    return (losses - float(loss(problem, at.W_D, at.W_E))) / problem.zero_dictionary_loss


def _within(problem: Problem, pattern: ActivationPattern, rng: np.random.Generator, count: int) -> Tensor:
    """The least losses (best decoder) of random encoders whose patterns lie within `pattern`: group by group."""
    total = torch.zeros(count, dtype=torch.float64)
    for group in groups_of(problem, pattern):
        z = torch.from_numpy(rng.standard_normal((count, len(group.features)))).clamp(min=0.0)
        gain = (z @ group.A.T).square().sum(1) / z.square().sum(1).clamp(min=1e-300)
        total += group.A.square().sum() - gain
    return total


def _measure(case: Case, rng: np.random.Generator) -> Measurement:
    """Violations of: the loss; KKT on the wall; the gradient; no lower neighbour; no lower encoder of the region."""
    problem = case.problem
    pattern = draw_partition(rng, problem.n, problem.n_q)
    at = closed_minimum(problem, pattern, depth=0.0 if case.without == "room at the outer walls" else 1.0)
    zero = problem.zero_dictionary_loss
    value = float(loss(problem, at.W_D, at.W_E))
    text = f"{type(problem.activation).__name__} {pattern}, silent {at.silent}, loss {value:.4g}"
    wrong = abs(value - at.loss) / zero
    if not case.without:
        wrong = max(
            wrong,
            float(at.slopes.clamp(min=0.0).sum()),
            *(float(g.abs().max()) for g in gradients(problem, at.W_D, at.W_E)),
        )
        if pattern_of(problem, at.W_E) != at.pattern:
            return Measurement(np.inf, 0.0, text + " has another pattern")
        wrong = max(wrong, (at.loss - float(_within(problem, pattern, rng, 400).min())) / zero)
    wrong = max(wrong, -float(_neighbours(problem, at, rng, 200).min()))
    reached = sum(float(g.A.square().sum()) - _ascended(g.A.T @ g.A, rng) for g in groups_of(problem, pattern))
    return Measurement(wrong, abs(reached - at.loss) / zero, text)


def _case(rng: np.random.Generator, without: str = "") -> Case:
    n = int(rng.integers(2, 6))
    n_q = n + int(rng.integers(0, 2))
    kinds: list[Activation] = [ReLU(), TopK(1), TopK(2), JumpReLU(theta=0.2)]
    activation = ReLU() if without else kinds[int(rng.integers(4))]
    n_p, n_r = n + int(rng.integers(0, 3)), int(rng.integers(1, 7))
    return Case(draw_problem(rng, n, n_p, n_q, n_r, activation), without=without)


def _independent(problem: Problem) -> str:
    """Why the claim says nothing about a problem, or ""."""
    if problem.n < 2 or float(problem.weights.min()) <= 0 or problem.n_q < problem.n:
        return "it needs two features or more, all with M_d > 0, and n latents"
    if int(torch.linalg.matrix_rank(problem.W_p)) < problem.n:
        return "the w_p^d are linearly dependent"
    if isinstance(problem.activation, GroupMax):
        return "its latents compete within groups"
    return has_convex_regions(problem)


CLOSED_36 = Check(
    name="closed_3_6",
    claim="theorem 3.6, closed region",
    statement="independent w_p^d: every partition has a local minimum of L~ whose pattern lies within it, of loss "
    "sum_i (||A_i||^2 - max over z >= 0, |z| = 1 of |A_i z|^2)",
    paper="repaired",
    measure=_measure,
    holds_on=_case,
    fails_on={"no room at the outer walls": lambda rng: _case(rng, "room at the outer walls")},
    page="spurious-minima.md",
    tolerance=1e-8,
    agreement=1e-6,
    applies=_independent,
)


def _flow(
    problem: Problem, w_D: np.ndarray, w_E: np.ndarray, steps: int = 2000, rate: float = 0.05
) -> tuple[float, float]:
    """Gradient descent with small steps, one ReLU latent: the loss at its end, and the least response on the way."""
    W_p, W_r, M = problem.W_p.numpy(), problem.W_r.numpy(), problem.weights.numpy()
    least = np.inf
    for _ in range(steps):
        response = w_E @ W_p
        least = min(least, float(response.min()))
        by_D, by_E = _by_hand(W_p, W_r, M, w_D, response)
        w_D, w_E = w_D - rate * by_D, w_E - rate * by_E
    return float(loss(problem, torch.from_numpy(w_D[:, None]), torch.from_numpy(w_E[None]))), least


def _by_hand(
    W_p: np.ndarray, W_r: np.ndarray, M: np.ndarray, w_D: np.ndarray, response: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    z = np.maximum(response, 0.0)
    error = (W_r - np.outer(w_D, z)) * M
    return -2 * error @ z, -2 * W_p @ ((w_D @ error) * (response > 0))


def _measure_attracts(case: Case, rng: np.random.Generator) -> Measurement:
    """How far descent leaves the region, and how far from the wall's loss it ends; gradients there by two formulas."""
    problem = case.problem
    w_E = torch.linalg.pinv(problem.W_p.T) @ torch.from_numpy(rng.uniform(0.3, 1.0, problem.n))
    w_D = problem.W_r @ torch.from_numpy(rng.uniform(0.0, 0.5, problem.n))
    plain = [t.numpy() for t in (problem.W_p, problem.W_r, problem.weights, w_D, w_E @ problem.W_p)]
    pairs = zip(_by_hand(*plain), gradients(problem, w_D[:, None], w_E[None]), strict=True)
    second = max(float(np.abs(mine - ours.numpy().ravel()).max()) for mine, ours in pairs)
    ended, least = _flow(problem, w_D.numpy(), w_E.numpy())
    wall = float(problem.weights.sum() - problem.weights.max())
    text = f"n={problem.n}: least response {least:.2g}, loss {ended:.4g}, wall {wall:.4g}"
    return Measurement(max(-least, ended / wall - 1.0, 0.0), second, text)


def _attracts_case(rng: np.random.Generator, oblique: bool = False) -> Case:
    n = int(rng.integers(2, 4))
    Q = torch.linalg.qr(torch.from_numpy(rng.standard_normal((n, n))))[0]
    weights = torch.tensor([1.0, 1.6, 2.4], dtype=torch.float64)[:n] * draw_weights(rng, 1)
    if not oblique:
        return Case(Problem(Q, Q, weights, ReLU(), 1))
    W = Q - 0.6 * Q.mean(1, keepdim=True)  # a common part taken out makes all cosines negative
    W = W / W.norm(dim=0)
    return Case(Problem(W, W, weights, ReLU(), 1), without="orthogonal features")


WALL_ATTRACTS = Check(
    name="wall_attracts",
    claim="theorem 3.6, closed region, the wall",
    statement="orthonormal features that share a ReLU latent, M_d not all equal: descent from <w_D, w_r^d> >= 0 stays "
    "in the open region, which holds no stationary point, and ends on its wall at loss sum M_d - max M_d",
    paper="repaired",
    measure=_measure_attracts,
    holds_on=_attracts_case,
    fails_on={"negative cosines": lambda rng: _attracts_case(rng, oblique=True)},
    page="spurious-minima.md",
    tolerance=1e-6,
    agreement=1e-10,
    trials=10,
)

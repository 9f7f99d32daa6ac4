"""Theorem 3.2: on one region L~ is convex in each block; and regions themselves are convex."""

import numpy as np
import torch
from torch import Tensor

from monosem.core.activations import AbsTopK, Activation, At, BatchTopK, JumpReLU, ReLU, TopK
from monosem.theory.checks.base import Case, Check, Measurement, draw_encoder, draw_problem
from monosem.theory.patterns import competition, pattern_of, region, walk
from monosem.theory.problem import Problem, best_decoder, encoder_hessian, loss


class SelectedTopK(TopK):
    """The k largest values with their signs: TopK without ReLU."""

    def value(self, z: Tensor, at: At) -> Tensor:
        """z itself."""
        return z


def has_convex_regions(problem: Problem) -> str:
    """Why a problem's activation has no convex regions, or ""."""
    try:
        competition(problem.activation, problem.n_q, problem.threshold)
    except ValueError as error:
        return str(error)
    return ""


def _pair(case: Case, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Two encoders: of one region, unless that is the hypothesis dropped."""
    first = draw_encoder(rng, case.problem)
    if case.without == "one region":
        return first, draw_encoder(rng, case.problem)
    if case.without == "ReLU":
        one = torch.ones(1, dtype=torch.float64)
        a, b = torch.from_numpy(rng.uniform(-4, -1, 2))
        return torch.stack([one, a[None], b[None]]), torch.stack([one, b[None], a[None]])
    where = region(case.problem, pattern_of(case.problem, first))
    return first, walk(where, first, rng)


def _measure(case: Case, rng: np.random.Generator) -> Measurement:
    """The largest of: midpoint excess over the chord, in W_D and in W_E, and minus the Hessian's least eigenvalue."""
    problem = case.problem
    E0, E1 = _pair(case, rng)
    D0, D1 = (torch.from_numpy(rng.standard_normal((problem.n_r, problem.n_q))) for _ in range(2))
    if case.without == "ReLU":
        D0 = D1 = torch.tensor([[0.0, -1.0, -1.0]], dtype=torch.float64)
    moves = [(D0, E0, D1, E0), (D0, E0, D0, E1)]
    if case.without == "one block at a time":
        D0 = best_decoder(problem, E0)  # the same function after a rescaling, but not halfway
        moves = [(D0, E0, D0 / 4, 4 * E0)]
    if case.without == "one region":
        moves = [(D0, draw_encoder(rng, problem), D0, draw_encoder(rng, problem)) for _ in range(40)]
    excess = []
    for Da, Ea, Db, Eb in moves:
        chord = float(loss(problem, Da, Ea) + loss(problem, Db, Eb)) / 2
        excess.append((float(loss(problem, (Da + Db) / 2, (Ea + Eb) / 2)) - chord) / (1 + chord))
    if case.without:
        return Measurement(max(excess), 0.0, f"midpoint above the chord by {max(excess):.3g} of it")
    H, step = encoder_hessian(problem, D0, E0), (E1 - E0).reshape(-1)
    least = float(torch.linalg.eigvalsh(H)[0]) / (1 + float(H.abs().max()))
    ends, middle = loss(problem, D0, E0) + loss(problem, D0, E1), loss(problem, D0, (E0 + E1) / 2)
    form = float(step @ H @ step) / 4  # f(a) + f(b) - 2 f(mid) = step^T H step / 4 for a quadratic
    second = abs(float(ends - 2 * middle) - form) / (1 + abs(form) + float(ends))
    return Measurement(
        max(*excess, -least), second, f"{type(problem.activation).__name__}, pattern {pattern_of(problem, E0)}"
    )


def _case(rng: np.random.Generator, without: str = "") -> Case:
    n_q = int(rng.integers(2, 5))
    kinds: list[Activation] = [ReLU(), TopK(1), TopK(2), JumpReLU(theta=0.3), BatchTopK(1.0)]
    activation = kinds[int(rng.integers(3 if without == "one block at a time" else 5))]
    n, n_p, n_r = (int(v) for v in rng.integers(2, 5, 3))
    return Case(draw_problem(rng, n, n_p, n_q, n_r, activation, threshold=0.2), without=without)


def _selected(rng: np.random.Generator) -> Case:
    one = torch.ones(1, 1, dtype=torch.float64)
    return Case(Problem(one, one, one[0], SelectedTopK(2), 3), without="ReLU")


BICONVEXITY = Check(
    name="biconvexity",
    claim="theorem 3.2",
    statement="on R^(n_r x n_q) x Omega_P, L~ is convex in W_D for fixed W_E and in W_E for fixed W_D",
    paper="confirmed",
    measure=_measure,
    holds_on=_case,
    fails_on={
        "two encoders of different regions": lambda rng: _case(rng, "one region"),
        "both blocks move at once": lambda rng: _case(rng, "one block at a time"),
        "TopK without ReLU, a latent counted as active when positive": _selected,
    },
    page="biconvexity.md",
    applies=has_convex_regions,
)


def _measure_region(case: Case, rng: np.random.Generator) -> Measurement:
    """The share of random convex combinations of two encoders of one pattern that leave the pattern."""
    problem, first = case.problem, draw_encoder(rng, case.problem)
    pattern, left, seen, second = pattern_of(problem, first), 0, 0, 0.0
    if case.without:  # no inequalities are known: encoders of the same pattern by drawing
        drawn = (draw_encoder(rng, problem) for _ in range(40))
        partners = [other for other in drawn if pattern_of(problem, other) == pattern]
    else:
        where = region(problem, pattern)
        partners = [walk(where, first, rng) for _ in range(5)]
        second = _membership(case, rng)
    for other in partners:
        for share in rng.uniform(0, 1, 5):
            left += pattern_of(problem, share * first + (1 - share) * other) != pattern
            seen += 1
    return Measurement(left / max(seen, 1), second, f"pattern {pattern}: {left} of {seen} points left it")


def _membership(case: Case, rng: np.random.Generator) -> float:
    """Disagreements between the inequalities of Omega_P and the pattern itself, over random encoders."""
    encoders = [draw_encoder(rng, case.problem) for _ in range(4)]
    patterns = [pattern_of(case.problem, W_E) for W_E in encoders]
    inside = [[region(case.problem, p).contains(W_E) for W_E in encoders] for p in patterns]
    return float(sum(inside[i][j] != (patterns[i] == patterns[j]) for i in range(4) for j in range(4)))


def _abs_case(rng: np.random.Generator) -> Case:
    return Case(draw_problem(rng, 2, 2, 2, 2, AbsTopK(1)), without="convex pieces")


CONVEX_REGIONS = Check(
    name="convex_regions",
    claim="theorem 3.2, Omega_P",
    statement="for ReLU, JumpReLU, TopK and BatchTopK with a threshold, Omega_P is convex: linear inequalities on W_E",
    paper="confirmed",
    measure=_measure_region,
    holds_on=_case,
    fails_on={"AbsTopK": _abs_case},
    page="biconvexity.md",
    tolerance=0.0,
    agreement=0.0,
    trials=30,
    applies=has_convex_regions,
)

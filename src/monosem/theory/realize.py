"""Realizability by linear programming: an encoder of a pattern with its margin, or a certificate that there is none."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import MonosemError
from monosem.theory.patterns import ActivationPattern, Region, region
from monosem.theory.problem import Problem

_LEAST = 1e-8
"""Margins below this count as none."""


@dataclass(frozen=True, eq=False)
class Realization:
    """An encoder (with the margin t of its inequalities, `interior` when all of them have it), or a certificate y.

    Margins: rows of W_E lie in the box [-1, 1] where theta = 0 (regions are cones), and t <= 1 otherwise.
    """

    encoder: Float[Tensor, "n_q n_p"] | None
    margin: float
    interior: bool
    certificate: Float[Tensor, " m"] | None

    @property
    def realizable(self) -> bool:
        """Whether some encoder has the pattern."""
        return self.encoder is not None


def certificate_residual(where: Region, y: Float[Tensor, " m"]) -> float:
    """How far y is from proving that the region is empty; 0 is a proof, checked without any solver.

    Equation: y >= 0, A^T y = 0, <b, y> >= 0 and sum of y over strict rows = 1 contradict A w > b (strict), >= b
        (Motzkin: adding the inequalities with factors y gives 0 > 0). The residual is the largest
        violation; with residual r any encoder in the region has a margin of at most r (1 + ||vec W_E||_1).
    """
    A, b, factors = where.A.numpy(), where.b.numpy(), y.double().numpy()
    wrong = [-factors.min(initial=0.0), float(np.abs(factors @ A).max()), -float(b @ factors)]
    return float(max(*wrong, abs(float(factors[where.strict.numpy()].sum()) - 1.0), 0.0))


def realize(problem: Problem, pattern: ActivationPattern) -> Realization:
    """Decide whether a pattern is realizable, group of latents by group.

    First all inequalities get the margin t, then only the strict ones; if t = 0 even then, Motzkin's
    alternative is solved.
    Raises: RefusedError for activations without convex regions.

    Example:
        >>> problem = Problem(torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]), torch.eye(3), torch.ones(3), n_q=1)
        >>> realize(problem, ActivationPattern.of([(0, 1)], 3)).realizable
        True
        >>> realize(problem, ActivationPattern.of([(0, 2)], 3)).realizable
        False
    """
    return realize_region(region(problem, pattern), problem.n_q, problem.n_p)


def realize_region(where: Region, n_q: int, n_p: int) -> Realization:
    """The same for inequalities that are given."""
    A, b, strict = where.A.numpy(), where.b.numpy(), where.strict.numpy()
    groups = np.array(where.group)
    w, margin, interior = np.zeros(A.shape[1]), np.inf, True
    for g in sorted(set(where.group)):
        rows = np.flatnonzero(groups == g)
        columns = np.flatnonzero(np.abs(A[rows]).sum(0) > 0)
        part, bound, must = A[np.ix_(rows, columns)], b[rows], strict[rows]
        for with_margin in (np.ones(len(rows)), must.astype(float)):
            if not must.any() and not with_margin.all():  # nothing must fire: zero rows will do
                point, t = np.zeros(len(columns)), margin
                break
            point, t = _widest(part, bound, with_margin)
            if t > _LEAST:
                break
        else:
            y = np.zeros(len(b))
            y[rows] = _motzkin(part, bound, must)
            return Realization(None, 0.0, False, torch.from_numpy(y))
        w[columns] = point
        interior = interior and bool(with_margin.all())
        margin = min(margin, t)
    return Realization(torch.from_numpy(w).reshape(n_q, n_p), float(min(margin, 1.0)), interior, None)


def _widest(A: np.ndarray, b: np.ndarray, with_margin: np.ndarray) -> tuple[np.ndarray, float]:
    """max t over w, t <= 1 subject to A w >= b + t with_margin; w in a box when b = 0."""
    from scipy.optimize import linprog

    box = (-1.0, 1.0) if not b.any() else (None, None)
    cost = np.append(np.zeros(A.shape[1]), -1.0)
    answer = linprog(
        cost,
        A_ub=np.column_stack([-A, with_margin]),
        b_ub=-b,
        bounds=[box] * A.shape[1] + [(None, 1.0)],
        method="highs",
    )
    if answer.x is None:
        return np.zeros(A.shape[1]), -1.0
    return answer.x[:-1], float(answer.x[-1])


def _motzkin(A: np.ndarray, b: np.ndarray, strict: np.ndarray) -> np.ndarray:
    """y >= 0 with A^T y = 0, <b, y> >= 0, sum over strict rows 1."""
    from scipy.optimize import linprog

    answer = linprog(
        np.zeros(len(b)),
        A_ub=-b[None, :],
        b_ub=[0.0],
        A_eq=np.vstack([A.T, strict.astype(float)]),
        b_eq=np.append(np.zeros(A.shape[1]), 1.0),
        bounds=(0, None),
        method="highs",
    )
    if answer.x is None:
        raise MonosemError("the region is neither clearly empty nor clearly not; its margin lies within rounding")
    return np.asarray(answer.x)

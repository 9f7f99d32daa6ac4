"""The codes that one latent can have: finitely many polyhedral cones, each with its rays and simplices."""

import itertools
from dataclasses import dataclass

import numpy as np

from monosem.base.errors import RefusedError, check
from monosem.theory.patterns import competition
from monosem.theory.problem import Problem

_ROUND = 1e-9


@dataclass(frozen=True, eq=False)
class CodeCone:
    """All codes of a latent that fires on `members` alone: the conic hull of `codes`, reached by that of `encoders`.

    The decoder of a latent takes up its scale, so that only directions of codes matter. `rank` is the dimension of the
    span of the codes; `inside` is an encoder row in the interior.
    Shapes: encoders [rays, n_p], codes [rays, n] (unit rows, entry d weighted by sqrt(M_d)).
    """

    members: tuple[int, ...]
    encoders: np.ndarray
    codes: np.ndarray
    rank: int
    inside: np.ndarray

    def simplices(self) -> list[tuple[int, ...]]:
        """Rays in groups of `rank`, whose conic hulls cover the cone."""
        if self.rank < 3:
            return [tuple(range(self.rank))]
        slices = self.codes / self.codes.sum(1, keepdims=True)
        centred = slices - slices.mean(0)
        flat = centred @ np.linalg.svd(centred)[2][:2].T
        around = np.argsort(np.arctan2(flat[:, 1], flat[:, 0])).tolist()
        return [(around[0], a, b) for a, b in itertools.pairwise(around[1:])]


def _rays(A: np.ndarray) -> np.ndarray:
    """Unit extreme rays of {e: A e >= 0}, a pointed cone in one to three dimensions."""
    width = A.shape[1]
    rays: list[np.ndarray] = []
    for chosen in itertools.combinations(range(len(A)), width - 1):
        _, values, right = np.linalg.svd(A[list(chosen)].reshape(width - 1, width))
        if width > 1 and values[-1] < _ROUND:
            continue
        for ray in (right[-1], -right[-1]):
            if (A @ ray >= -_ROUND).all() and not any(np.abs(ray - other).max() < 1e-7 for other in rays):
                rays.append(ray)
    return np.array(rays).reshape(-1, width)


def _extreme(codes: np.ndarray, rank: int) -> list[int]:
    """Which codes (unit rows) span the conic hull, for hulls of dimension one or two; all of them for three."""
    if rank == 1:
        return [0]
    if rank == 2:
        gram = codes @ codes.T
        return [int(i) for i in np.unravel_index(int(gram.argmin()), gram.shape)]
    return list(range(len(codes)))


def code_cones(problem: Problem) -> list[CodeCone]:
    """The cones of every nonempty feature set that a latent of its own can have.

    Equation: for ReLU the set F has the encoder rows w with w_F >= 0 >= w_rest (w_d = <w, w_p^d>); with a threshold, as
        scale is free, those with w_d >= max(0, w_j) for d in F, j not in F. Its codes are w_F, zero elsewhere. Sets
        whose rows have no interior are left out: their codes are limits of others, or need w_d = w_j on both sides.
    Raises: RefusedError where latents compete (their rows are then tied together), for two features of one direction,
        for directions that span more than three dimensions, and for n > 6.
    """
    rules = competition(problem.activation, problem.n_q, problem.threshold)
    free = all(len(group) <= rules.capacity for group in rules.groups)
    reason = "latents compete, so that regions tie rows together; the certified search needs ReLU or a threshold"
    check(free, f"{problem.activation!r} with n_q={problem.n_q}: {reason}", RefusedError)
    check(problem.n <= 6, f"n={problem.n} has {2**problem.n} sets; the certified search is for n <= 6", RefusedError)
    W = problem.W_p.numpy()
    gram = (W / np.linalg.norm(W, axis=0)).T @ (W / np.linalg.norm(W, axis=0)) - 2 * np.eye(problem.n)
    check(bool(gram.max() < 1 - 1e-9), "two features have one direction in W_p; merge them first", RefusedError)
    left, values, _ = np.linalg.svd(W, full_matrices=False)
    basis = left[:, values > _ROUND * values[0]]  # codes depend on a row within the span of W_p only
    width = basis.shape[1]
    check(width <= 3, f"W_p has rank {width}; the certified search is for at most three dimensions", RefusedError)
    D = (basis.T @ W).T  # responses = D e
    root, out = problem.weights.sqrt().numpy(), []
    for size in range(1, problem.n + 1):
        for members in itertools.combinations(range(problem.n), size):
            rest = [d for d in range(problem.n) if d not in members]
            if rules.theta > 0:
                A = np.vstack([D[list(members)], *(D[d] - D[j] for d in members for j in rest)])
            else:
                A = np.vstack([D[list(members)], -D[rest]])
            rays = _rays(A)
            if len(rays) < width or np.linalg.matrix_rank(rays, tol=1e-7) < width:
                continue
            middle = rays.mean(0)
            if (A @ middle).min() < _ROUND:
                continue
            codes = (rays @ D.T) * root * np.isin(np.arange(problem.n), members)
            norms = np.linalg.norm(codes, axis=1)
            keep = norms > 1e-8
            codes, rows = codes[keep] / norms[keep, None], rays[keep] / norms[keep, None]
            rank = int(np.linalg.matrix_rank(codes, tol=1e-7))
            chosen = _extreme(codes, rank)
            out.append(CodeCone(members, rows[chosen] @ basis.T, codes[chosen], rank, basis @ middle))
    return out

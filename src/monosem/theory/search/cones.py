"""The codes that one latent can have, as polyhedral cones, and the exact optimum of L~ that leaves one latent free."""

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


_NUDGE = 1e-9
"""Rows move this far into their cone, where a threshold can tell the features on a wall apart."""


def best_ray(G: np.ndarray, cones: list[CodeCone]) -> tuple[float, np.ndarray, int]:
    """(minimum of L~, its encoder row, candidates looked at) for one latent.

    Equation: a code z with its best decoder leaves L~ = tr G - z^T G z / |z|^2. The greatest ratio over a cone lies in
        the relative interior of a face, so that it is an eigenvector of G on the span of some of the cone's rays.
    """
    best, row, count = -np.inf, np.zeros(0), 0
    for cone in cones:
        for size in range(1, cone.rank + 1):
            for chosen in itertools.combinations(range(len(cone.codes)), size):
                rays = cone.codes[list(chosen)]
                if np.linalg.matrix_rank(rays, tol=1e-7) < size:
                    continue
                basis = np.linalg.qr(rays.T)[0]
                values, vectors = np.linalg.eigh(basis.T @ G @ basis)
                for value, x in zip(values, vectors.T, strict=True):
                    shares = np.linalg.lstsq(rays.T, basis @ x, rcond=None)[0]
                    shares = shares if shares.sum() > 0 else -shares
                    count += 1
                    if shares.min() >= -_ROUND and value > best:
                        best, row = float(value), shares @ cone.encoders[list(chosen)] + _NUDGE * cone.inside
    return float(np.trace(G)) - best, row[None] / np.linalg.norm(row), count


def _null(rows: np.ndarray, n: int) -> np.ndarray | None:
    """An orthonormal basis of the complement of independent rows [n, n - k]; None if they are dependent."""
    if len(rows) == 0:
        return np.eye(n)
    _, values, right = np.linalg.svd(rows)
    return None if values[-1] < 1e-7 else right[len(rows) :].T


def _distinct(cones: list[CodeCone]) -> tuple[np.ndarray, list[list[int]]]:
    """All rays of the cones without repeats, and which of them each cone has."""
    rays: list[np.ndarray] = []
    which = []
    for cone in cones:
        mine = []
        for code in cone.codes:
            at = next((i for i, ray in enumerate(rays) if np.abs(ray - code).max() < 1e-8), len(rays))
            if at == len(rays):
                rays.append(code)
            mine.append(at)
        which.append(mine)
    return np.array(rays), which


def _crossings(signs: np.ndarray, which: list[list[int]]) -> list[tuple[int, int, int]]:
    """(cone, ray, ray): pairs of rays of one cone on both sides of the plane."""
    return [(c, i, j) for c, mine in enumerate(which) for i in mine for j in mine if signs[i] < 0 < signs[j]]


def _points(u: np.ndarray, rays: np.ndarray, which: list[list[int]]) -> list[tuple[int, int, int, float, float]]:
    """Codes orthogonal to u that span all such codes: (cone, ray i, ray j, share of i, share of j)."""
    s = rays @ u
    s[np.abs(s) < _ROUND] = 0.0
    out = [(c, i, j, float(s[j]), float(-s[i])) for c, i, j in _crossings(s, which)]
    return out + [(c, i, i, 1.0, 0.0) for c, mine in enumerate(which) for i in mine if s[i] == 0.0]


def _independent(u: np.ndarray, rays: np.ndarray, which: list[list[int]]) -> list[tuple[int, int, int, float, float]]:
    """A basis of the codes orthogonal to u, the best conditioned that pivoting finds."""
    from scipy.linalg import qr

    points = _points(u, rays, which)
    if not points:
        return []
    codes = np.array([a * rays[i] + b * rays[j] for _, i, j, a, b in points])
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    _, triangle, order = qr(codes.T, pivoting=True)
    size = int((np.abs(np.diag(triangle)) > 1e-7).sum())
    return [points[k] for k in order[:size]]


def _ways_out(u: np.ndarray, rays: np.ndarray) -> list[np.ndarray]:
    """One direction for every cell of the arrangement next to u: all sign vectors of the rays orthogonal to u."""
    from scipy.optimize import linprog

    zero = rays[np.abs(rays @ u) < _ROUND]
    out = []
    for signs in itertools.product((1.0, -1.0), repeat=len(zero)):
        rows = np.array(signs)[:, None] * zero
        answer = linprog(np.zeros(len(u)), A_ub=-rows, b_ub=-np.ones(len(rows)), bounds=(None, None), method="highs")
        if answer.status == 0:
            out.append(np.asarray(answer.x) / max(1.0, float(np.abs(answer.x).max())))
    return out


def _cells_near(
    u: np.ndarray, away: np.ndarray, rays: np.ndarray, which: list[list[int]]
) -> tuple[bool, list[tuple[np.ndarray, list[tuple[int, int, int, float, float]]]]]:
    """Whether the cell that u + epsilon away lies in is met, and points of it ever closer to u."""
    s, t = rays @ u, rays @ away
    wanted = np.sign(np.where(np.abs(s) < _ROUND, t, s))
    points_near, signed = [], False
    for size in 10.0 ** -np.arange(1.0, 7.0, 0.5):
        moved = (u + size * away) / np.linalg.norm(u + size * away)
        if (np.sign(rays @ moved) == wanted).all():
            signed = True
            if len(points := _independent(moved, rays, which)) == len(u) - 1:
                points_near.append((moved, points))
    return bool(points_near) or not signed, points_near  # a cell too thin to enter counts as met: the bound stays valid


def best_normal(G: np.ndarray, cones: list[CodeCone], gap: float = 1e-4) -> tuple[float, np.ndarray | None, int]:
    """(infimum of L~, encoder rows whose best decoder comes within `gap` of it, candidates looked at), n_q = n - 1.

    Equation: n - 1 independent codes span u^T z = 0 for one unit u, and the best decoder leaves L~ = u^T G u,
        G_cd = sqrt(M_c M_d) <w_r^c, w_r^d>. Whether n - 1 independent codes meet that plane depends on the signs of
        <u, ray> over the rays of the cones alone. So the closed set of planes that are met is a union of polyhedral
        cones, and its least u^T G u is an eigenvalue of G on one of the flats, the intersections of {<u, ray> = 0}.
    All candidates are tried in increasing order; the first that is met, itself or in the limit, is the infimum.
    """
    rays, which = _distinct(cones)
    n = rays.shape[1]
    candidates: list[tuple[float, np.ndarray]] = []
    for size in range(n):
        for chosen in itertools.combinations(range(len(rays)), size):
            if (flat := _null(rays[list(chosen)], n)) is not None:
                values, vectors = np.linalg.eigh(flat.T @ G @ flat)
                candidates += [(float(v), flat @ x) for v, x in zip(values, vectors.T, strict=True)]
    candidates.sort(key=lambda item: item[0])
    room = 1e-10 * float(np.trace(G))
    for count, (value, u) in enumerate(candidates, 1):
        if len(points := _independent(u, rays, which)) == n - 1:
            return value, _encoders(points, cones, which), count
        for away in _ways_out(u, rays):
            met, near = _cells_near(u, away, rays, which)
            for moved, points in near:
                if moved @ G @ moved <= value * (1 + gap) + room:
                    return value, _encoders(points, cones, which), count
            if met:
                return value, _encoders(near[-1][1], cones, which) if near else None, count
    raise AssertionError("n independent codes have n - 1 independent ones among them")


def _encoders(
    points: list[tuple[int, int, int, float, float]], cones: list[CodeCone], which: list[list[int]]
) -> np.ndarray:
    """Unit encoder rows of codes that are given as shares of two rays of a cone."""
    rows = []
    for c, i, j, a, b in points:
        cone, mine = cones[c], which[c]
        row = a * cone.encoders[mine.index(i)] + b * cone.encoders[mine.index(j)]
        rows.append(row / np.linalg.norm(row) + _NUDGE * cone.inside)
    return np.array(rows)

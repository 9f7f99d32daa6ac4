"""Convex quadratic programmes by nonnegative least squares, and how far a point is from solving one."""

import numpy as np


def least_distance(G: np.ndarray, h: np.ndarray) -> np.ndarray | None:
    """argmin ||u|| subject to G u >= h, or None when no u is feasible.

    Source: Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23 (LDP).
    """
    from scipy.optimize import nnls

    if (h <= 0).all():
        return np.zeros(G.shape[1])
    E = np.vstack([G.T, h])
    target = np.append(np.zeros(G.shape[1]), 1.0)
    y, _ = nnls(E, target, maxiter=30 * E.shape[1])
    r = E @ y - target
    if -r[-1] < 1e-12:
        return None
    return np.asarray(-r[:-1] / r[-1])


def solve_qp(
    H: np.ndarray, f: np.ndarray, A: np.ndarray, b: np.ndarray, start: np.ndarray, prox: float = 1e-6
) -> np.ndarray:
    """argmin 1/2 w^T H w - f^T w + prox/2 scale ||w - start||^2 subject to A w >= b; H positive semidefinite.

    The proximal term makes H definite and only shortens the step; repeated calls converge to a minimiser. `start` must
    be feasible; it is returned when rounding spoils the solution.
    """
    from scipy.linalg import cholesky, solve_triangular

    rho = prox * max(float(np.trace(H)) / len(f), 1e-12)
    C = cholesky(H + rho * np.eye(len(f)))
    g = solve_triangular(C, f + rho * start, trans="T")  # unconstrained solution: C w = g
    G = solve_triangular(C, A.T, trans="T").T
    u = least_distance(G, b - G @ g)
    if u is None:
        return start
    w = np.asarray(solve_triangular(C, u + g))
    excess = b - A @ w
    if excess.max(initial=0.0) > 0:  # pull back inside along the segment to the feasible start
        slack = A @ start - b
        bad = excess > 0
        share = float((slack[bad] / np.maximum(slack[bad] + excess[bad], 1e-300)).min())
        w = start + max(share, 0.0) * (w - start)
    return w


def kkt_residual(gradient: np.ndarray, A: np.ndarray, slack: np.ndarray, active: float = 1e-7) -> float:
    """min over y >= 0 of ||gradient - A_active^T y||: 0 at a minimiser of a convex function over A w >= b."""
    from scipy.optimize import nnls

    rows = A[slack <= active]
    if len(rows) == 0:
        return float(np.linalg.norm(gradient))
    _, rest = nnls(rows.T, gradient)
    return float(rest)

"""Alternating convex search: W_D by least squares, W_E by a convex quadratic programme in its region, and hops."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.core.activations import TopK
from monosem.theory.patterns import ActivationPattern, competition, pattern_of, region
from monosem.theory.problem import Atoms, Problem, best_decoder, encoder_hessian, gradients, joint_hessian, loss


def _least_distance(G: np.ndarray, h: np.ndarray) -> np.ndarray | None:
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
    u = _least_distance(G, b - G @ g)
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


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Where a search ended: losses never rise along `history`.

    `stop`: "zero" (loss 0), "partial minimum" (each block optimal in the closed region, `kkt` the residual of the
    encoder's conditions; no hop lowers the loss) or "steps" (out of steps: no certificate).
    """

    W_D: Float[Tensor, "n_r n_q"]
    W_E: Float[Tensor, "n_q n_p"]
    loss: float
    history: tuple[float, ...]
    pattern: ActivationPattern | None
    kkt: float
    hops: int
    stop: Literal["zero", "partial minimum", "steps"]


def _gauge(problem: Problem, W_E: Tensor) -> Tensor:
    """The same pattern and the same best loss at unit scale: every row under ReLU, all rows together under TopK."""
    if competition(problem.activation, problem.n_q, problem.threshold).theta > 0:
        return W_E
    norms = W_E.norm(dim=1, keepdim=True)
    if isinstance(problem.activation, TopK):
        norms = norms.square().mean().sqrt()
    scaled: Tensor = W_E / norms.clamp(min=1e-300)
    return scaled


def _escape(problem: Problem, W_D: Tensor, W_E: Tensor, now: float) -> tuple[Tensor, Tensor, float] | None:
    """Along the joint Hessian's most negative direction: the way out of a partial minimum that is a saddle."""
    values, vectors = torch.linalg.eigh(joint_hessian(problem, W_D, W_E))
    if float(values[0]) > -1e-9 * float(values.abs().max()):
        return None
    for sign in (1.0, -1.0):
        for size in (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3):
            trial = W_E + sign * size * vectors[W_D.numel() :, 0].reshape(W_E.shape)
            best = best_decoder(problem, trial)
            value = float(loss(problem, best, trial))
            if value < now * (1 - 1e-9):
                return best, trial, value
    return None


def _line(problem: Problem, W_D: Tensor, W_E: Tensor, target: Tensor, atoms: Atoms, halvings: int = 8) -> Tensor | None:
    """The first of W_E + t (target - W_E), t = 1 - 1e-9, 1/2, 1/4 ..., with a lower true loss."""
    now = float(loss(problem, W_D, W_E, atoms))
    for power in range(halvings):
        trial = W_E + (1 - 1e-9) * 0.5**power * (target - W_E)
        if float(loss(problem, W_D, trial, atoms)) < now * (1 - 1e-12):
            return trial
    return None


def _step(problem: Problem, W_D: Tensor, W_E: Tensor) -> tuple[Tensor, Tensor, float]:
    """The quadratic programme in the region of W_E with a line search, then the best decoder: (W_D, W_E, loss)."""
    where = region(problem, pattern_of(problem, W_E))
    H = encoder_hessian(problem, W_D, W_E)
    flat = W_E.reshape(-1)
    f = H @ flat - gradients(problem, W_D, W_E)[1].reshape(-1)
    target = solve_qp(H.numpy(), f.numpy(), where.A.numpy(), where.b.numpy(), flat.numpy())
    moved = _line(problem, W_D, W_E, torch.from_numpy(target).reshape(W_E.shape), problem.atoms)
    W_E = _gauge(problem, W_E if moved is None else moved)
    W_D = best_decoder(problem, W_E)
    return W_D, W_E, float(loss(problem, W_D, W_E))


def _hop(problem: Problem, W_D: Tensor, W_E: Tensor, now: float) -> tuple[Tensor, Tensor, float] | None:
    """Step over the walls that hold the point (down the gradient), then one round there; kept if the loss is lower."""
    here, down = pattern_of(problem, W_E), -gradients(problem, W_D, W_E)[1]
    if (step := _escape(problem, W_D, W_E, now)) is not None:
        return step
    size = float(W_E.norm()) / max(float(down.norm()), 1e-300)
    for share in (1e-6, 1e-4, 1e-2, 1e-1, 1.0):
        trial = W_E + share * size * down
        if pattern_of(problem, trial) != here:
            for decoder in (W_D, best_decoder(problem, trial)):
                step = _step(problem, decoder, trial)
                if step[2] < now * (1 - 1e-9):
                    return step
    return None


def _polish(problem: Problem, W_E: Tensor) -> tuple[Tensor, Tensor, float]:
    """BFGS on the loss of the best decoder, along the walls that hold the point: alternating steps end slowly.

    By the envelope theorem its gradient is that of L~ at the best decoder. A point of another pattern is not kept.
    """
    from scipy.linalg import null_space
    from scipy.optimize import minimize

    here = pattern_of(problem, W_E)
    where, begin = region(problem, here), W_E.reshape(-1).numpy()
    walls = where.A.numpy()[where.slack(W_E).numpy() <= 1e-7 * float(W_E.norm())]
    free = null_space(walls, rcond=1e-10) if len(walls) else np.eye(len(begin))

    def value(t: np.ndarray) -> tuple[float, np.ndarray]:
        trial = torch.from_numpy(begin + free @ t).reshape(W_E.shape)
        W_D = best_decoder(problem, trial)
        slope = gradients(problem, W_D, trial)[1].reshape(-1).numpy()
        return float(loss(problem, W_D, trial)), free.T @ slope

    answer = minimize(value, np.zeros(free.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 300})
    moved = torch.from_numpy(begin + free @ answer.x).reshape(W_E.shape)
    inside = float(where.slack(moved).min()) >= -1e-9 * float(moved.norm())
    if not (inside and pattern_of(problem, moved) == here and answer.fun < value(np.zeros(free.shape[1]))[0]):
        moved = W_E
    W_D = best_decoder(problem, moved)
    return W_D, moved, float(loss(problem, W_D, moved))


def acs(
    problem: Problem, W_E: Float[Tensor, "n_q n_p"], steps: int = 500, tolerance: float = 1e-9, hops: int = 50
) -> SearchResult:
    """Alternating convex search on L~ from an encoder; monotone, and certified as a partial minimum when it stops so.

    W_E is optimised jointly over its rows in the closed region (TopK's order constraints couple rows), W_D in closed
    form. At a partial minimum on a wall, the regions across the walls that hold it are tried (region hopping).
    Source: Gorski et al. 2007 (biconvex sets and functions); Tang et al. 2025, appendix F, proposes it.
    Raises: RefusedError for activations without convex regions.
    """
    W_E = _gauge(problem, W_E.double())
    W_D, zero = best_decoder(problem, W_E), problem.zero_dictionary_loss
    history = [float(loss(problem, W_D, W_E))]
    hopped, kkt = 0, float("inf")
    stop: Literal["zero", "partial minimum", "steps"] = "steps"
    for _ in range(steps):
        if history[-1] <= 1e-14 * zero:
            stop, kkt = "zero", 0.0
            break
        candidate = _step(problem, W_D, W_E)
        if candidate[2] <= history[-1]:
            W_D, W_E = candidate[:2]
        history.append(min(history[-1], candidate[2]))
        if history[-2] - history[-1] <= tolerance * history[-2]:
            across = _hop(problem, W_D, W_E, history[-1]) if hopped < hops else None
            if across is not None:
                W_D, W_E, hopped = across[0], across[1], hopped + 1
                history.append(across[2])
                continue
            polished = _polish(problem, W_E)
            if polished[2] < history[-1]:
                W_D, W_E = polished[:2]
                history.append(polished[2])
                if history[-1] < history[-2] * (1 - 1e-6):
                    continue
            where = region(problem, pattern_of(problem, W_E))
            gradient = gradients(problem, W_D, W_E)[1].reshape(-1)
            slack = where.slack(W_E).numpy() / max(float(W_E.norm()), 1e-12)
            kkt, stop = kkt_residual(gradient.numpy(), where.A.numpy(), slack), "partial minimum"
            break
    value = float(loss(problem, W_D, W_E))
    return SearchResult(W_D, W_E, value, tuple(history), pattern_of(problem, W_E), kkt, hopped, stop)


def sampled_acs(
    problem: Problem, W_E: Float[Tensor, "n_q n_p"], atoms: Atoms, steps: int = 30, inner: int = 10
) -> SearchResult:
    """Alternating search on sampled rows: patterns are those of the rows, so regions are too many to bound.

    W_E moves by `inner` conjugate-gradient steps on the quadratic that the loss is on the current piece, then a line
    search on the true loss, walls or not. Monotone on these rows; no certificate, and `stop` is always "steps".
    """
    W_E = W_E.double()
    W_D = best_decoder(problem, W_E, atoms)
    history = [float(loss(problem, W_D, W_E, atoms))]
    for _ in range(steps):
        fires = (problem.codes(W_E, atoms.x_p) != 0).double()

        def quadratic(step: Tensor, fires: Tensor = fires, W_D: Tensor = W_D) -> Tensor:
            made = (fires * (atoms.x_p @ step.T)) @ W_D.T
            return 2 * (fires * ((atoms.weight[:, None] * made) @ W_D)).T @ atoms.x_p

        rest = -gradients(problem, W_D, W_E, atoms)[1]
        step, direction, square = torch.zeros_like(W_E), rest, float(rest.square().sum())
        for _inner in range(inner):
            curved = quadratic(direction)
            bend = float((direction * curved).sum())
            if bend <= 0:
                break
            step, rest = step + square / bend * direction, rest - square / bend * curved
            square, before = float(rest.square().sum()), square
            direction = rest + square / before * direction
        moved = _line(problem, W_D, W_E, W_E + step, atoms)
        if moved is None:
            break
        W_E = moved
        W_D = best_decoder(problem, W_E, atoms)
        history.append(float(loss(problem, W_D, W_E, atoms)))
    return SearchResult(W_D, W_E, history[-1], tuple(history), None, float("nan"), 0, "steps")

"""Lower bounds of L~ over boxes of encoders, by Lagrangian relaxation: many boxes at once."""

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.theory.problem import Problem
from monosem.theory.search.cells import Cell

__all__ = ["lower_bounds"]


def _rows(problem: Problem, node: tuple[Cell, ...], sides: int) -> tuple[Tensor, Tensor]:
    """Masked, weighted responses of centres and sides [n_q, 1 + sides, n] and half widths [n_q, sides]."""
    root = problem.weights.sqrt()
    K = torch.zeros(len(node), 1 + sides, problem.n, dtype=torch.float64)
    h = torch.zeros(len(node), sides, dtype=torch.float64)
    for i, cell in enumerate(node):
        rows = torch.from_numpy(cell.of.responses) * root
        K[i, 0] = torch.tensor(cell.centre, dtype=torch.float64) @ rows
        for j, axis in enumerate(cell.axes):
            K[i, 1 + j], h[i, j] = rows[axis], cell.half[j]
    return K, h


def _decoders(square: Tensor, cross: Tensor, norm_bound: float) -> tuple[Tensor, Tensor]:
    """Ridge decoders [count, n_r, n_q] of the centres, and the least ridge that keeps columns within the bound."""
    eye = torch.eye(square.shape[1], dtype=torch.float64)
    out = torch.zeros_like(cross)
    ridge = torch.zeros(square.shape[0], dtype=torch.float64)
    for value in (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 0.0):
        W = torch.linalg.solve(square + max(value, 1e-11) * eye, cross.transpose(1, 2)).transpose(1, 2)
        fits = W.norm(dim=1).amax(1) <= norm_bound
        out = torch.where(fits[:, None, None], W, out)
        ridge = torch.where(fits, torch.full_like(ridge, value), ridge)
    return out, ridge


def _span_bound(A: Tensor, rows: Tensor) -> Tensor:
    """||A - its projection on the rows||^2 of every node: any decoder, any U."""
    _, values, right = torch.linalg.svd(rows, full_matrices=False)
    keep = (values > 1e-10 * values[:, :1].clamp(min=1e-300)).double()
    kept = torch.einsum("rn,ckn->crk", A, right) * keep[:, None]
    rest: Tensor = (A.square().sum() - kept.square().sum((1, 2))).clamp(min=0)
    return rest


def lower_bounds(problem: Problem, nodes: list[tuple[Cell, ...]], norm_bound: float) -> Float[Tensor, " nodes"]:
    """For each node (a cell per latent), a number that min over its encoders and decoders of L~ cannot be below.

    Equation: with A = [sqrt(M_d) w_r^d], a_i0 the masked response of a centre and a_ij of side j, a row in the box and
        its decoder column w_i give w_i a_i0^T + sum_j U_ij a_ij^T, U_ij = s_ij w_i, |s_ij| <= h_ij. For any
        mu_ij, nu_i >= 0 and antisymmetric G_ij, and |w_i| <= B, the least over all (w, U) of
        ||A - sum_i w_i a_i0^T - sum_ij U_ij a_ij^T||^2 + sum_ij mu_ij (|U_ij|^2 - h_ij^2 |w_i|^2)
        + 2 sum_ij <U_ij, G_ij w_i> + sum_i nu_i (|w_i|^2 - B^2)
        is a lower bound: the added terms are never positive on the box (<w, G w> = 0). It is a linear system. G_ij
        cancels, at the centre's decoder, the part of U's gradient across w_i, so that the error is quadratic in h at a
        stationary point. Several mu and nu are tried, the projection on all rows (any U), and the
        loss of the best matrix of rank n_q.
    """
    if not nodes:
        return torch.zeros(0, dtype=torch.float64)
    sides = max(len(cell.axes) for node in nodes for cell in node)
    norm_bound = norm_bound * float(problem.W_p.norm(dim=0).max())  # rows of a cell are no shorter than 1 / this
    made = [_rows(problem, node, sides) for node in nodes]
    K, h = torch.stack([m[0] for m in made]), torch.stack([m[1] for m in made])
    A = problem.W_r * problem.weights.sqrt()
    count, n_q, width, _ = K.shape
    n_r, free = problem.n_r, n_q * width
    flat = K.reshape(count, free, problem.n)
    gram, cross = flat @ flat.transpose(1, 2), A @ flat.transpose(1, 2)  # [count, free, free], [count, n_r, free]
    centre = K[:, :, 0]
    square = centre @ centre.transpose(1, 2)
    W, ridge = _decoders(square, A @ centre.transpose(1, 2), norm_bound)
    R = A - W @ centre
    g = torch.einsum("crn,cijn->cijr", R, K[:, :, 1:])  # minus half the gradient in U_ij
    w = W.transpose(1, 2)[:, :, None]  # [count, n_q, 1, n_r]
    size = w.square().sum(3).clamp(min=1e-12)
    along = (g * w).sum(3) / size
    across = g - along[..., None] * w
    G = (across[..., :, None] * w[..., None, :] - w[..., :, None] * across[..., None, :]) / size[..., None, None]
    present = (K[:, :, 1:].abs().sum(3) > 0) & (h > 0)
    least = (torch.linalg.eigvalsh(square)[:, :1, None].clamp(min=0) + ridge[:, None, None]).clamp(min=1e-9)
    base = (across.square().sum(3) / size / least).clamp(min=1e-9)
    wide, steep = h.clamp(min=1e-12), g.norm(dim=3)
    choices = [(True, along.abs() / wide + factor * base) for factor in (0.5, 1.5, 4.0, 16.0)]
    choices += [(False, factor * steep / wide / size.sqrt()) for factor in (0.5, 1.0, 2.0)]
    choices += [(False, steep / wide / norm_bound)]
    energy = float(A.square().sum())
    rank = float(torch.linalg.svdvals(A)[n_q:].square().sum())  # Eckart and Young: any code has rank n_q at most
    best = _span_bound(A, flat).clamp(min=rank) - 1e-10 * energy
    position = torch.arange(free).reshape(n_q, width)
    for turned, chosen in choices:
        mu = torch.where(present, chosen.clamp(min=1e-9), torch.ones_like(h))
        pull = (mu * h.square() * present).sum(2)  # what the constraints take from |w_i|^2
        for share in (0.0, 1.0):
            nu = ridge[:, None] + share * pull
            diagonal = torch.cat([(nu - pull)[:, :, None], mu], 2).reshape(count, free)
            small = gram + torch.diag_embed(diagonal)
            Q = torch.einsum("cab,rs->carbs", small, torch.eye(n_r, dtype=torch.float64))
            if turned and sides:
                Q = Q.clone()
                for i in range(n_q):
                    for j in range(sides):
                        a, b = int(position[i, 1 + j]), int(position[i, 0])
                        Q[:, a, :, b, :] += G[:, i, j]
                        Q[:, b, :, a, :] += G[:, i, j].transpose(1, 2)
            full = Q.reshape(count, free * n_r, free * n_r)
            q = cross.transpose(1, 2).reshape(count, free * n_r)
            L, failed = torch.linalg.cholesky_ex(full)
            solved = torch.cholesky_solve(q[..., None], L)[..., 0]
            residual = (full @ solved[..., None])[..., 0] - q
            value = energy - (q * solved).sum(1) - nu.sum(1) * norm_bound**2
            value = value - residual.norm(dim=1) * solved.norm(dim=1) - 1e-10 * energy
            good = (failed == 0) & value.isfinite()
            best = torch.where(good, torch.maximum(best, value), best)
    return best

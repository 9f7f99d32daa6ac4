"""Certified global optima of small problems: over every realizable pattern, exactly or by branch and bound."""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import RefusedError, check
from monosem.theory.descent import DescentConfig, descend
from monosem.theory.patterns import ActivationPattern, competition, pattern_of
from monosem.theory.problem import Problem, best_decoder, loss
from monosem.theory.search.cones import CodeCone, best_normal, best_ray, code_cones
from monosem.theory.search.pairs import bound_pairs


@dataclass(frozen=True, eq=False)
class Certified:
    """The best dictionary found, and a lower bound on L~ over every dictionary.

    Gauge: rows of W_E of unit norm under ReLU, which is free of scale; under a threshold theta, rows such that theta
    lies between what passes and what does not. Decoders are free: where two latents draw together the infimum is not
    attained, and `columns`, the longest decoder column, tells how far the dictionary found has gone. `gap` = (loss -
    lower) / loss, 0 where the loss is below 1e-9 of the zero dictionary's; `complete`: gap <= the one asked for. Bounds
    hold to float64 rounding. `how`: "independent codes" (n_q >= n), "faces" (one latent), "flats" (n_q = n - 1),
    "boxes" (branch and bound); `nodes`: candidates or boxes looked at.
    """

    W_D: Float[Tensor, "n_r n_q"]
    W_E: Float[Tensor, "n_q n_p"]
    loss: float
    lower: float
    gap: float
    complete: bool
    nodes: int
    how: Literal["independent codes", "faces", "flats", "boxes"]
    pattern: ActivationPattern
    columns: float


def in_gauge(problem: Problem, rows: Float[Tensor, "n_q n_p"]) -> tuple[Tensor, Tensor, float]:
    """(best decoder, encoder, L~) with the rows' scale in the gauge: unit norm, or the best set that passes theta."""
    W_E = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)
    theta = competition(problem.activation, problem.n_q, problem.threshold).theta
    choices = [W_E]
    if theta > 0:
        scaled = []
        for row in W_E:
            levels = sorted({0.0, *(problem.W_p.T @ row).clamp(min=0).tolist()})
            middle = [(high * max(low, high / 4)) ** 0.5 for low, high in itertools.pairwise(levels)]
            scaled.append([row * theta / m for m in middle] or [row])
        choices = [torch.stack(chosen) for chosen in itertools.product(*scaled)]
    tried = [(best_decoder(problem, E), E) for E in choices]
    values = [float(loss(problem, *pair)) for pair in tried]
    least = int(np.argmin(values))
    return *tried[least], values[least]


def _independent_rows(cones: list[CodeCone], n_q: int) -> np.ndarray:
    """Encoder rows whose codes span all n features, the first of them repeated to make n_q."""
    from scipy.linalg import qr

    codes = np.vstack([cone.codes for cone in cones])
    rows = np.vstack([cone.encoders + 1e-9 * cone.inside for cone in cones])
    n = codes.shape[1]
    order = qr(codes.T, pivoting=True)[2][:n]
    chosen: np.ndarray = rows[np.resize(order, n_q)]
    return chosen


def certified_optimum(
    problem: Problem, gap: float = 1e-3, max_nodes: int = 1_000_000, starts: int = 32, steps: int = 800, seed: int = 0
) -> Certified:
    """Global minimum of L~ with a certificate, in at most three dimensions, where latents do not compete.

    Equation: with the best decoder L~ depends on the span of the codes alone: L~ = tr(G Pi), Pi the projector on its
        complement, G_cd = sqrt(M_c M_d) <w_r^c, w_r^d>. Codes of a latent form finitely many cones (`code_cones`).
        n_q >= n: independent codes give 0. n_q = 1 and n_q = n - 1: eigenvectors on faces and flats, exact. n = 4 with
        two latents: branch and bound from where Adam on L~ ends.
    Raises: RefusedError for latents that compete (TopK), more than three dimensions, or n > 4 with 1 < n_q < n - 1.
    """
    n, n_q, cones = problem.n, problem.n_q, code_cones(problem)
    exact = n_q == 1 or n_q >= n - 1
    check(exact or (n, n_q) == (4, 2), f"n={n}, n_q={n_q}; use n <= 4, n_q = 1 or n_q >= n - 1", RefusedError)
    A = problem.W_r * problem.weights.sqrt()
    G, zero = (A.T @ A).numpy(), problem.zero_dictionary_loss
    how: Literal["independent codes", "faces", "flats", "boxes"] = "boxes"
    rows: np.ndarray | None
    if n_q >= n:
        how, lower, rows, nodes = "independent codes", 0.0, _independent_rows(cones, n_q), 1
    elif n_q == 1:
        how, (lower, rows, nodes) = "faces", best_ray(G, cones)
    elif n_q == n - 1:
        how, (lower, rows, nodes) = "flats", best_normal(G, cones, gap / 10)
    else:
        ended = descend(problem, DescentConfig(steps=steps, lr=0.03), starts, seed)
        first = min((in_gauge(problem, W_E) for W_E in ended.W_E), key=lambda item: item[2])
        bounded = bound_pairs(G, cones, first[2], gap, max_nodes)
        lower, nodes, rows = bounded.lower, bounded.nodes, (first[1] if bounded.rows is None else bounded.rows).numpy()
    if rows is None:
        rows = descend(problem, DescentConfig(steps=steps, lr=0.03), 1, seed).W_E[0].numpy()
    W_D, W_E, value = in_gauge(problem, torch.from_numpy(np.ascontiguousarray(rows)))
    lower = max(0.0, min(lower, value))
    relative = (value - lower) / value if value > 1e-9 * zero else 0.0
    pattern, columns = pattern_of(problem, W_E), float(W_D.norm(dim=0).max())
    return Certified(W_D, W_E, value, lower, relative, relative <= gap * (1 + 1e-6), nodes, how, pattern, columns)

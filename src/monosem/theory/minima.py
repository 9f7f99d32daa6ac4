"""Theorem 3.6 repaired: which partition patterns hold a trap, which a saddle, which no stationary point at all."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import RefusedError, check
from monosem.theory.patterns import ActivationPattern, Region, pattern_of, region
from monosem.theory.problem import Problem, best_decoder, gradients
from monosem.theory.problem import loss as exact_loss

Verdict36 = Literal["trap", "saddle", "none", "not realizable"]
_TIED = 1e-9
"""Eigenvalues closer than this, relative to the largest, are one."""


@dataclass(frozen=True, eq=False)
class Group:
    """The features of one latent, as a rank-one problem.

    Equation: the group's loss is ||A - w_D z^T||_F^2, A = [sqrt(M_d) w_r^d], z_d = sqrt(M_d) <w_E, w_p^d>; z lies in
        the range of B^T, B = [sqrt(M_d) w_p^d], whose projector is Pi, so that the loss is
        ||A (I - Pi)||_F^2 + ||A Pi - w_D z^T||_F^2.
    Shapes: gram = Pi A^T A Pi [g, g]; basis [g, rank], orthonormal columns that span the range of B^T.
    """

    latent: int
    features: tuple[int, ...]
    A: Float[Tensor, "n_r g"]
    B: Float[Tensor, "n_p g"]
    basis: Float[Tensor, "g rank"]

    @property
    def gram(self) -> Float[Tensor, "rank rank"]:
        """basis^T A^T A basis; its eigenpairs are the singular pairs of A Pi whose right vectors an encoder reaches."""
        reached = self.A @ self.basis
        return reached.T @ reached


@dataclass(frozen=True, eq=False)
class Stationary:
    """What theorem 3.6, repaired, says of one pattern, and the point.

    `gradient` is the largest entry of both gradients at (W_D, W_E); `interior` says whether W_E is in the open region.
    """

    verdict: Verdict36
    W_D: Float[Tensor, "n_r n_q"] | None
    W_E: Float[Tensor, "n_q n_p"] | None
    loss: float
    gradient: float
    interior: bool


def groups_of(problem: Problem, pattern: ActivationPattern) -> list[Group]:
    """The groups of a pattern that partitions the features.

    Raises: RefusedError for a pattern that is no partition (its loss does not split) or with a weight of zero.
    """
    check(pattern.is_partition, f"{pattern} does not partition the features; the loss does not split", RefusedError)
    positive = bool((problem.weights > 0).all())
    check(positive, "every M_d must be positive; drop the features without weight", RefusedError)
    groups = []
    for latent, members in enumerate(pattern.sets):
        if members:
            features = tuple(sorted(members))
            root = problem.weights[list(features)].sqrt()
            A, B = problem.W_r[:, features] * root, problem.W_p[:, features] * root
            _, values, right = torch.linalg.svd(B, full_matrices=False)
            groups.append(Group(latent, features, A, B, right[values > 1e-10 * values[0]].T))
    return groups


def positive_pair(group: Group) -> tuple[Float[Tensor, "g space"], float, bool] | None:
    """The eigenspace that holds a positive right vector, its eigenvalue, and whether that is the leading one.

    At most one eigenvalue qualifies: two positive vectors are never orthogonal.
    """
    values, vectors = torch.linalg.eigh(group.gram)
    top = float(values[-1].clamp(min=1e-300))
    for value in values.flip(0):
        space = group.basis @ vectors[:, (values - value).abs() <= _TIED * top]
        if _positive(space) is not None:
            return space, float(value), bool(value >= top * (1 - _TIED))
    return None


def _positive(space: Float[Tensor, "g space"]) -> Tensor | None:
    """The unit vector of a subspace with the largest smallest entry, if that is positive."""
    if space.shape[1] == 1:
        v = space[:, 0] * space[:, 0].sum().sign()
        return v if float(v.min()) > _TIED else None
    import numpy as np
    from scipy.optimize import linprog

    free = space.shape[1]
    answer = linprog(
        [0.0] * free + [-1.0],
        A_ub=np.column_stack([-space.numpy(), np.ones(space.shape[0])]),
        b_ub=np.zeros(space.shape[0]),
        bounds=[(-1, 1)] * free + [(None, 1)],
        method="highs",
    )
    if answer.x is None or answer.x[-1] <= _TIED:
        return None
    vector: Tensor = space @ torch.from_numpy(answer.x[:-1])
    vector /= vector.norm()
    return vector


def _reach(problem: Problem, where: Region, groups: list[Group], spaces: list[Tensor]) -> Tensor | None:
    """An encoder in the open region whose group responses lie in the given eigenspaces: a linear programme."""
    import numpy as np
    from scipy.optimize import linprog

    rows, n_p = where.A.shape[0], problem.n_p
    weights = problem.n_q * n_p
    sizes = [space.shape[1] for space in spaces]
    total = weights + sum(sizes) + 1
    equal = np.zeros((sum(len(g.features) for g in groups), total))
    row, column = 0, weights
    for group, space, size in zip(groups, spaces, sizes, strict=True):
        stop = row + len(group.features)
        equal[row:stop, group.latent * n_p : (group.latent + 1) * n_p] = group.B.T.numpy()
        equal[row:stop, column : column + size] = -space.numpy()
        row, column = stop, column + size
    inside = np.zeros((rows, total))
    inside[:, :weights], inside[:, -1] = -where.A.numpy(), 1.0
    answer = linprog(
        np.append(np.zeros(total - 1), -1.0),
        A_ub=inside,
        b_ub=-where.b.numpy(),
        A_eq=equal,
        b_eq=np.zeros(len(equal)),
        bounds=[(None, None)] * (total - 1) + [(None, 1.0)],
        method="highs",
    )
    if answer.x is None or answer.x[-1] <= 1e-8:
        return None
    return torch.from_numpy(answer.x[:weights]).reshape(problem.n_q, n_p)


def trichotomy(problem: Problem, pattern: ActivationPattern) -> Stationary:
    """Theorem 3.6, repaired, applied to one pattern.

    trap: every group's positive pair is leading; the point minimises L~ over the whole region. saddle: some group's
    is positive but not leading; each block is optimal given the other, yet the joint loss falls inside the region.
    none: no stationary point in the open region. Hypotheses: the pattern partitions the features, M_d > 0, the
    activation has convex regions. Linearly independent w_p^d are not needed: Pi and a linear programme replace them.
    Source: the claim is Tang et al. 2025, theorem 3.6; statement and proof in docs/theory/spurious-minima.md.
    Raises: RefusedError for a pattern that is no partition.
    """
    from monosem.theory.patterns import realize_region

    where, groups = region(problem, pattern), groups_of(problem, pattern)
    if not (realized := realize_region(where, problem.n_q, problem.n_p)).realizable:
        return Stationary("not realizable", None, None, float("nan"), float("nan"), False)
    pairs = [positive_pair(group) for group in groups]
    positive = [pair for pair in pairs if pair is not None]
    if len(positive) < len(pairs) or not realized.interior:
        return Stationary("none", None, None, float("nan"), float("nan"), False)
    W_E = _reach(problem, where, groups, [space for space, _, _ in positive])
    if W_E is None:
        return Stationary("none", None, None, float("nan"), float("nan"), False)
    W_D = best_decoder(problem, W_E)
    largest = max(float(g.abs().max()) for g in gradients(problem, W_D, W_E))
    verdict: Verdict36 = "trap" if all(leading for _, _, leading in positive) else "saddle"
    slack = float(where.slack(W_E).min())
    return Stationary(verdict, W_D, W_E, float(exact_loss(problem, W_D, W_E)), largest, slack > 0)


def paper_point(problem: Problem, W_E: Float[Tensor, "n_q n_p"]) -> tuple[Float[Tensor, "n_r n_q"], Tensor, Tensor]:
    """The proof's point: the least-squares decoder column of each latent; and both full gradients there.

    Equation: w_D^i = sum_{d in F_i} M_d z_d w_r^d / sum_{d in F_i} M_d z_d^2, z_d = <w_E^i, w_p^d>; 0 for dead latents
    Source: Tang et al. 2025, proof of theorem 3.6. Only <w_E^i, gradient_i> = 0 follows, not gradient_i = 0.
    """
    groups = groups_of(problem, pattern_of(problem, W_E))
    W_D = torch.zeros(problem.n_r, problem.n_q, dtype=torch.float64)
    for group in groups:
        z = group.B.T @ W_E[group.latent]
        W_D[:, group.latent] = group.A @ z / (z @ z)
    return (W_D, *gradients(problem, W_D, W_E))


def valley(problem: Problem, pattern: ActivationPattern, saddle: Stationary) -> tuple[Tensor, float] | None:
    """From a saddle, an encoder of the same region with lower loss, and by how much theory says it is lower.

    Equation: in a group whose eigenvalue l is not the leading l_1 (eigenvector u), z(t) = cos t z + sin t |z| u and
        the best decoder give a loss lower by (l_1 - l) sin^2 t; t is halved until the encoder is in the region.
    """
    where = region(problem, pattern)
    for group in groups_of(problem, pattern):
        pair = positive_pair(group)
        if saddle.W_E is None or pair is None or pair[2]:
            continue
        values, vectors = torch.linalg.eigh(group.gram)
        u = group.basis @ vectors[:, -1]
        z = group.B.T @ saddle.W_E[group.latent]
        for halvings in range(1, 40):
            t = 0.5**halvings
            step = (math.cos(t) - 1) * z + math.sin(t) * z.norm() * u
            W_E = saddle.W_E.clone()
            W_E[group.latent] += torch.linalg.pinv(group.B.T) @ step
            if where.contains(W_E):
                return W_E, (float(values[-1]) - pair[1]) * math.sin(t) ** 2
    return None

"""Theorem 3.6 on closed regions: the minimum that every partition has, its walls, and latents that sit in one."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import RefusedError, ShapeError, check
from monosem.theory.minima import groups_of
from monosem.theory.patterns import ActivationPattern, competition
from monosem.theory.problem import Problem

_LARGEST = 12
"""Groups of more features are refused: supports are enumerated."""
_ZERO = 1e-9
"""Entries of a unit vector below this count as 0."""


def nonnegative_maximum(
    gram: Float[Tensor, "groups g g"],
) -> tuple[Float[Tensor, "groups g"], Float[Tensor, " groups"]]:
    """(z, mu): the unit vector z >= 0 of the largest z^T G z, and that value, for every G of a batch.

    On its own support the maximiser is a positive leading eigenvector, so it is enough to look at the leading
    eigenvector of every principal submatrix: exact, 2^g small problems a group.

    Equation: mu = max over z >= 0, |z| = 1 of z^T G z
    Raises: ShapeError when g exceeds 12.

    Example:
        >>> z, mu = nonnegative_maximum(torch.tensor([[[2.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64))
        >>> z.tolist(), mu.tolist()
        ([[1.0, 0.0]], [2.0])
    """
    batch, g, _ = gram.shape
    check(g <= _LARGEST, f"a group of {g} features; supports are enumerated, so at most {_LARGEST}", ShapeError)
    best, value = gram.new_zeros(batch, g), gram.new_full((batch,), -torch.inf)
    for size in range(1, g + 1):
        supports = torch.tensor(list(itertools.combinations(range(g), size)))
        part = gram[:, supports[:, :, None], supports[:, None, :]]
        values, vectors = torch.linalg.eigh(part)
        lead = vectors[..., -1]
        lead = lead * lead.sum(-1, keepdim=True).sign()
        top = torch.where((lead > _ZERO).all(-1), values[..., -1], -torch.inf)
        most, which = top.max(1)
        better = most > value + _ZERO * most.abs()
        chosen = lead[torch.arange(batch), which]
        spread = torch.zeros_like(best).scatter_(1, supports[which], chosen)
        best, value = torch.where(better[:, None], spread, best), torch.where(better, most, value)
    return best, value


@dataclass(frozen=True, eq=False)
class ClosedMinimum:
    """The minimum of L~ over all encoders whose pattern lies within a partition; it is a local minimum of L~.

    `pattern` is the one at the point: that of the partition without `silent`, the features that fell silent. `slopes`
    are <w_D, w_r^d> of the silent features: < 0 where the wall silences, 0 where it attracts from inside.
    """

    pattern: ActivationPattern
    W_D: Float[Tensor, "n_r n_q"]
    W_E: Float[Tensor, "n_q n_p"]
    loss: float
    silent: tuple[int, ...]
    slopes: Float[Tensor, " silent"]


def closed_minimum(problem: Problem, pattern: ActivationPattern, depth: float = 1.0) -> ClosedMinimum:
    """Theorem 3.6 on the closed region: the local minimum of L~ that belongs to a partition of the features.

    Every latent takes the best nonnegative response to its own features and a response of -`depth` to all others and
    to those that fall silent. The encoder exists because the w_p^d are linearly independent.

    Equation: loss = sum_i (||A_i||^2 - mu_i),  mu_i = max over z >= 0, |z| = 1 of |A_i z|^2
    Source: docs/theory/spurious-minima.md, theorem on the closed region.
    Raises: RefusedError for dependent w_p^d, for a pattern that is no partition, and as `competition` does.
    """
    rank = int(torch.linalg.matrix_rank(problem.W_p))
    check(
        rank == problem.n, f"the n = {problem.n} directions w_p^d have rank {rank}; make them independent", RefusedError
    )
    theta = competition(problem.activation, problem.n_q, problem.threshold).theta
    response = torch.full((problem.n_q, problem.n), -depth, dtype=torch.float64)
    W_D = torch.zeros(problem.n_r, problem.n_q, dtype=torch.float64)
    lost, sets = 0.0, [frozenset[int]() for _ in range(problem.n_q)]
    silent: list[int] = []
    slopes: list[float] = []
    for group in groups_of(problem, pattern):
        features = torch.tensor(group.features)
        z, mu = (part[0] for part in nonnegative_maximum((group.A.T @ group.A)[None]))
        fires = z > 0
        size = (z / problem.weights[features].sqrt())[fires]
        scale = max(1.0, 2 * theta / float(size.min()))  # what fires must pass the threshold
        response[group.latent, features[fires]] = scale * size
        W_D[:, group.latent] = group.A @ z / scale
        lost += float(group.A.square().sum() - mu)
        sets[group.latent] = frozenset(features[fires].tolist())
        silent += features[~fires].tolist()
        slopes += (W_D[:, group.latent] @ problem.W_r[:, features[~fires]]).tolist()
    W_E = response @ torch.linalg.pinv(problem.W_p)
    at = ActivationPattern(tuple(sets), problem.n)
    return ClosedMinimum(at, W_D, W_E, lost, tuple(silent), torch.tensor(slopes, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Standing:
    """The kind of each latent of a dictionary, one of five; `excess` of those that are `alone`.

    `silent`: no feature alone activates it. `single`: one does. `shared`: some feature of its group activates another
    latent too, so that the loss does not split. `trapped`: its group has two features or more, no other latent meets
    them, and the latent is the group's minimum (excess at most the tolerance) of positive loss. `moving`: the same, but
    not at the minimum. `excess` is (group's loss - its minimum) / its loss without the latent.

    Shapes: all [n_q].
    """

    silent: Bool[Tensor, " n_q"]
    single: Bool[Tensor, " n_q"]
    shared: Bool[Tensor, " n_q"]
    trapped: Bool[Tensor, " n_q"]
    moving: Bool[Tensor, " n_q"]
    excess: Float[Tensor, " n_q"]

    def shares(self) -> dict[str, float]:
        """The share of latents of each kind."""
        kinds = ("silent", "single", "shared", "trapped", "moving")
        return {kind: float(getattr(self, kind).double().mean()) for kind in kinds}


def standing(
    W_D: Float[Tensor, "n_r n_q"],
    codes: Float[Tensor, "n n_q"],
    W_r: Float[Tensor, "n_r n"],
    weights: Float[Tensor, " n"],
    tolerance: float = 0.02,
) -> Standing:
    """Which latents of a trained dictionary sit in a proved minimum of L~.

    `codes` are those of every feature alone, at one size; whatever encoder made them. A latent whose group meets no
    other latent is a rank-one problem of its own, whose least loss over nonnegative responses is known exactly.

    Equation: excess_i = (||A_i - w_D^i z_i^T||^2 - (||A_i||^2 - mu_i)) / ||A_i||^2,  A_i = [sqrt(M_d) w_r^d]
    """
    fires = codes.double() != 0
    alone = fires & (fires.sum(1, keepdim=True) == 1)
    count, lonely = fires.sum(0), alone.sum(0)
    split = (count >= 2) & (lonely == count)
    excess, positive = torch.full((codes.shape[1],), torch.nan, dtype=torch.float64), torch.zeros_like(split)
    root = weights.double().sqrt()
    for i in split.nonzero().flatten().tolist():
        members: Int[Tensor, " g"] = fires[:, i].nonzero().flatten()
        if members.numel() > _LARGEST:
            continue
        A, z = W_r.double()[:, members] * root[members], codes.double()[members, i] * root[members]
        whole, mu = float(A.square().sum()), float(nonnegative_maximum((A.T @ A)[None])[1])
        excess[i] = (float((A - torch.outer(W_D.double()[:, i], z)).square().sum()) - (whole - mu)) / whole
        positive[i] = whole - mu > tolerance * whole
    trapped = split & positive & (excess <= tolerance)
    return Standing(
        count == 0, count == 1, (count > 0) & (lonely < count) & (count >= 2), trapped, split & ~trapped, excess
    )

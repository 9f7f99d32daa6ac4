"""Laws of the features, and the loss L under them: exactly over finitely many atoms."""

import itertools
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import ShapeError, check
from monosem.theory.problem import Atoms, Problem, feature_losses


@dataclass(frozen=True)
class Magnitude:
    """The size of an active feature: `levels` with their `chances`; finitely many, so that expectations are exact."""

    levels: tuple[float, ...] = (1.0,)
    chances: tuple[float, ...] = (1.0,)

    @property
    def second_moment(self) -> float:
        """E[x^2 given x > 0]."""
        return sum(c * v * v for v, c in zip(self.levels, self.chances, strict=True))


def truncated(cap: float = 3.0, levels: int = 3, beta: float = 1.0) -> Magnitude:
    """The exponential law of scale beta cut at `cap`, at the means of `levels` equally likely slices."""
    edges = -beta * np.log1p(-np.linspace(0, 1 - np.exp(-cap / beta), levels + 1))
    tail = np.exp(-edges / beta)
    means = [
        ((a + beta) * p - (b + beta) * q) / (p - q)
        for a, b, p, q in zip(edges, edges[1:], tail, tail[1:], strict=False)
    ]
    return Magnitude(tuple(float(m) for m in means), (1.0 / levels,) * levels)


@dataclass(frozen=True, eq=False)
class ExactLaw:
    """Which features are active together, how often, and how large each then is (independently).

    Shapes: supports [s, n] of 0 and 1, chance [s]; `rest` is the probability of the supports left out.
    """

    supports: Float[Tensor, "s n"]
    chance: Float[Tensor, " s"]
    magnitude: Magnitude = field(default_factory=Magnitude)
    rest: float = 0.0

    @property
    def rates(self) -> Float[Tensor, " n"]:
        """Pr(x_d > 0)."""
        return self.chance @ self.supports

    @property
    def weights(self) -> Float[Tensor, " n"]:
        """M_d = Pr(only d is active) E[x_d^2 given x_d > 0]."""
        alone = self.supports.sum(1) == 1
        return self.magnitude.second_moment * (self.chance[alone] @ self.supports[alone])

    @property
    def several(self) -> float:
        """Pr(two features or more are active)."""
        return float(self.chance[self.supports.sum(1) > 1].sum()) + self.rest


def independent(rate: Float[Tensor, " n"], magnitude: Magnitude | None = None, at_most: int | None = None) -> ExactLaw:
    """Independent features; supports of more than `at_most` active ones are left out and counted in `rest`.

    Example:
        >>> law = independent(torch.tensor([0.1, 0.1], dtype=torch.float64))
        >>> law.weights, round(law.several, 12)
        (tensor([0.0900, 0.0900], dtype=torch.float64), 0.01)
    """
    p, n = rate.double(), rate.shape[0]
    sizes = range((n if at_most is None else min(at_most, n)) + 1)
    rows = [c for size in sizes for c in itertools.combinations(range(n), size)]
    supports = torch.zeros(len(rows), n, dtype=torch.float64)
    for row, members in enumerate(rows):
        supports[row, list(members)] = 1.0
    chance = (supports * p + (1 - supports) * (1 - p)).prod(1)
    return ExactLaw(supports, chance, magnitude or Magnitude(), max(0.0, 1.0 - float(chance.sum())))


def exact_atoms(problem: Problem, law: ExactLaw) -> Atoms:
    """Every support with every combination of magnitudes: a loss over these atoms is L itself.

    Raises: ShapeError when they are more than a million; leave supports out or use fewer levels.
    """
    levels, chances = law.magnitude.levels, law.magnitude.chances
    sizes = law.supports.sum(1).int()
    total = int(sum(len(levels) ** int(s) for s in sizes))
    check(total <= 1_000_000, f"{total} atoms; use independent(.., at_most=2) or fewer levels", ShapeError)
    features, weights = [], []
    for size in sorted(set(sizes.tolist()) - {0}):
        rows = sizes == size
        supports, chance = law.supports[rows], law.chance[rows]
        where = supports.nonzero()[:, 1].reshape(-1, size)
        for combination in itertools.product(range(len(levels)), repeat=size):
            x = torch.zeros_like(supports)
            x.scatter_(
                1, where, torch.tensor([levels[c] for c in combination], dtype=x.dtype).expand(where.shape).contiguous()
            )
            features.append(x)
            weights.append(chance * float(np.prod([chances[c] for c in combination])))
    x = torch.cat(features)
    return Atoms(x @ problem.W_p.T, x @ problem.W_r.T, torch.cat(weights))


@dataclass(frozen=True)
class Estimate:
    """A loss and how far it may be off: what supports left out can add."""

    value: float
    error: float


def exact_loss(
    problem: Problem, law: ExactLaw, W_D: Float[Tensor, "n_r n_q"], W_E: Float[Tensor, "n_q n_p"]
) -> Estimate:
    """L = E ||x_r - W_D sigma(W_E x_p)||^2, by enumeration.

    `error` is `law.rest` times the sup C of the squared error over a box that holds every support left out.
    """
    atoms = exact_atoms(problem, law)
    value = float((atoms.weight * feature_losses(problem, W_D, W_E, atoms)).sum())
    if law.rest == 0:
        return Estimate(value, 0.0)
    top = max(law.magnitude.levels)
    reach = top * float(problem.W_r.norm(dim=0).sum())
    codes = top * (W_E @ problem.W_p).clamp(min=0).sum(1)
    return Estimate(value, law.rest * (reach + float((W_D.norm(dim=0) * codes).sum())) ** 2)

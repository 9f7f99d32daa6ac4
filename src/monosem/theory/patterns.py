"""Activation patterns: the region of the encoders that have one, walks in it, and whether it is empty."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import MonosemError, RefusedError, ShapeError, check
from monosem.core.activations import Activation, BatchTopK, GroupMax, JumpReLU, ReLU, TopK
from monosem.theory.problem import Problem


@dataclass(frozen=True)
class _Competition:
    """How latents compete: of each group at most `capacity` pass, the largest, and only above theta.

    ReLU, JumpReLU and BatchTopK's threshold form: every latent alone. TopK: one group. GroupMax: k groups.
    """

    groups: tuple[tuple[int, ...], ...]
    capacity: int
    theta: float


def competition(activation: Activation, n_q: int, threshold: float = 0.0) -> _Competition:
    """The competition of an activation whose regions are convex.

    Raises: RefusedError, with the reason, for every other activation.
    """
    alone = tuple((i,) for i in range(n_q))
    if type(activation) is ReLU:
        return _Competition(alone, 1, 0.0)
    if type(activation) is JumpReLU:
        return _Competition(alone, 1, activation.theta)
    if isinstance(activation, BatchTopK):
        return _Competition(alone, 1, max(threshold, 0.0))
    if type(activation) is GroupMax:
        size = n_q // activation.k
        return _Competition(tuple(tuple(range(g * size, (g + 1) * size)) for g in range(activation.k)), 1, 0.0)
    if type(activation) is TopK and not activation.rank_by_norm:
        return _Competition((tuple(range(n_q)),), activation.k, 0.0)
    name = type(activation).__name__
    reasons = {
        "TopK": "a ranking by decoder norm makes the region depend on W_D; use rank_by_norm=False",
        "AdaptiveK": "the k of a row is a function of z, so that its regions are not convex; use TopK",
        "FeatureChoice": "its thresholds differ by latent and are learned from rows; use JumpReLU",
        "AbsTopK": "its pieces are not convex (|z_1| >= |z_2| holds at z_1 = 2 and -2 but not at 0); use TopK",
        "Binary": "it breaks eq 10 (a latent is 1, not z), so that L~ is constant on a region; use JumpReLU",
        "Gated": "its value is not z but an affine function of it, and its gate learns elsewhere; use JumpReLU",
    }
    raise RefusedError(f"{name} has no convex regions here: {reasons.get(name, 'it is unknown; use ReLU or TopK')}")


@dataclass(frozen=True)
class ActivationPattern:
    """P = (F_1 .. F_N): F_i holds the features that, alone, activate latent i.

    Example:
        >>> pattern = ActivationPattern.of([(0, 1), (2,), ()], n=3)
        >>> str(pattern), pattern.is_partition, pattern.polysemantic, pattern.dead
        ('{0,1} {2} {}', True, (0,), (2,))
    """

    sets: tuple[frozenset[int], ...]
    n: int

    @classmethod
    def of(cls, sets: Sequence[Iterable[int]], n: int) -> "ActivationPattern":
        """From any sequence of feature sets."""
        made = tuple(frozenset(int(d) for d in s) for s in sets)
        outside = sorted({d for s in made for d in s if not 0 <= d < n})
        check(not outside, f"features {outside} are not among 0 .. {n - 1}; name features by number", ShapeError)
        return cls(made, n)

    @property
    def matrix(self) -> Bool[Tensor, "n_q n"]:
        """Which latent fires on which feature."""
        out = torch.zeros(len(self.sets), self.n, dtype=torch.bool)
        for i, members in enumerate(self.sets):
            out[i, list(members)] = True
        return out

    @property
    def is_partition(self) -> bool:
        """Whether every feature activates exactly one latent."""
        return bool((self.matrix.sum(0) == 1).all())

    @property
    def polysemantic(self) -> tuple[int, ...]:
        """Latents that fire on two features or more."""
        return tuple(i for i, s in enumerate(self.sets) if len(s) > 1)

    @property
    def dead(self) -> tuple[int, ...]:
        """Latents that fire on none."""
        return tuple(i for i, s in enumerate(self.sets) if not s)

    def __str__(self) -> str:
        return " ".join("{" + ",".join(map(str, sorted(s))) + "}" for s in self.sets)


def pattern_of(problem: Problem, W_E: Float[Tensor, "n_q n_p"]) -> ActivationPattern:
    """The pattern of an encoder (eq 10 activations: a latent fires when it is not zero)."""
    fires = (problem.codes(W_E.double()) != 0).T
    return ActivationPattern.of([row.nonzero().flatten().tolist() for row in fires], problem.n)


@dataclass(frozen=True, eq=False)
class Region:
    """Omega_P = {W_E: A vec(W_E) > b where strict, >= b elsewhere}, vec row by row; convex.

    `group` numbers the group of latents each inequality is about; different groups do not meet.
    """

    A: Float[Tensor, "m weights"]
    b: Float[Tensor, " m"]
    strict: Bool[Tensor, " m"]
    group: tuple[int, ...]

    def slack(self, W_E: Float[Tensor, "n_q n_p"]) -> Float[Tensor, " m"]:
        """A vec(W_E) - b."""
        return self.A @ W_E.double().reshape(-1) - self.b

    def contains(self, W_E: Float[Tensor, "n_q n_p"]) -> bool:
        """Whether every inequality holds."""
        slack = self.slack(W_E)
        return bool((slack[self.strict] > 0).all() and (slack[~self.strict] >= 0).all())


def region(problem: Problem, pattern: ActivationPattern) -> Region:
    """The inequalities of Omega_P.

    For feature d and a group of latents of which A_d fire: z_i > theta for i in A_d; for the others z_j <= theta when
    fewer than `capacity` fire, else z_j <= z_i for every i in A_d (TopK of ReLU). A pattern with more than `capacity`
    gets the inequality 0 > 0.
    Raises: RefusedError, with the reason, when the activation's pieces are not convex or break eq 10.
    """
    sizes = (len(pattern.sets), pattern.n)
    check(sizes == (problem.n_q, problem.n), f"(n_q, n)={sizes} in P, not {(problem.n_q, problem.n)}", ShapeError)
    rules = competition(problem.activation, problem.n_q, problem.threshold)
    W = problem.W_p.T.numpy()
    rows: list[np.ndarray] = []
    b, strict, group = [], [], []

    def add(terms: list[tuple[int, float]], d: int, bound: float, is_strict: bool, g: int) -> None:
        row = np.zeros((problem.n_q, problem.n_p))
        for latent, factor in terms:
            row[latent] += factor * W[d]
        rows.append(row.reshape(-1))
        b.append(bound)
        strict.append(is_strict)
        group.append(g)

    for g, members in enumerate(rules.groups):
        for d in range(problem.n):
            firing = [i for i in members if d in pattern.sets[i]]
            if len(firing) > rules.capacity:
                add([], d, 0.0, True, g)
            for i in firing:
                add([(i, 1.0)], d, rules.theta, True, g)
            for j in (j for j in members if j not in firing):
                if len(firing) < rules.capacity:
                    add([(j, -1.0)], d, -rules.theta, False, g)
                else:
                    for i in firing:
                        add([(i, 1.0), (j, -1.0)], d, 0.0, False, g)
    return Region(
        torch.from_numpy(np.stack(rows)), torch.tensor(b, dtype=torch.float64), torch.tensor(strict), tuple(group)
    )


_LEAST = 1e-8
"""Margins below this count as none."""


def walk(
    where: Region, W_E: Float[Tensor, "n_q n_p"], rng: np.random.Generator, steps: int = 5, reach: float = 3.0
) -> Float[Tensor, "n_q n_p"]:
    """Hit and run: from a point of a region, `steps` uniform draws on random chords of length at most 2 `reach`."""
    point = W_E.double().reshape(-1)
    for _ in range(steps):
        direction = torch.from_numpy(rng.standard_normal(point.shape[0]))
        slack, speed = where.A @ point - where.b, where.A @ direction
        ratio = slack / speed.abs().clamp(min=1e-300)
        ahead = float(ratio[speed < 0].clamp(min=0).min()) if bool((speed < 0).any()) else reach
        behind = float(ratio[speed > 0].clamp(min=0).min()) if bool((speed > 0).any()) else reach
        low, high = -min(behind, reach) * 0.999, min(ahead, reach) * 0.999
        point = point + float(rng.uniform(low, high)) * direction
    return point.reshape(W_E.shape)


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

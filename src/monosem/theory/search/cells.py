"""Cells for branch and bound: a feature set, and a box of the responses that an encoder row gives on it."""

import itertools
from dataclasses import dataclass

import numpy as np

from monosem.base.errors import RefusedError, check
from monosem.core.activations import ReLU
from monosem.theory.patterns import ActivationPattern
from monosem.theory.problem import Problem
from monosem.theory.realize import realize

__all__ = ["Cell", "FeatureSet", "feature_sets", "first_cells", "split_cell"]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """A realizable F_i with coordinates for its rows: w = basis y, y the responses on min(|F_i|, n_p) of its features.

    Scale is free, so max(y) = 1 and y >= 0: `dim` faces with dim - 1 free coordinates. Where |F_i| < n_p the part of w
    that the responses leave open is left out (`exact` is False): a larger set, so that bounds stay valid.
    `responses` [dim, n] holds the masked responses of each coordinate, `signs` [dim, n] those of every feature.
    """

    members: tuple[int, ...]
    basis: np.ndarray
    responses: np.ndarray
    signs: np.ndarray
    exact: bool

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return int(self.basis.shape[1])


def feature_sets(problem: Problem) -> list[FeatureSet]:
    """Every nonempty feature set that one ReLU latent can have, by linear programming.

    Raises: RefusedError for other activations (rows are then not independent, or not free of scale) and for n > 8.
    """
    check(
        type(problem.activation) is ReLU, "the certified search is for ReLU: independent rows, no scale", RefusedError
    )
    check(problem.n <= 8, f"n={problem.n} has {2**problem.n} sets; the certified search is for n <= 8", RefusedError)
    one = Problem(problem.W_p, problem.W_r, problem.weights, problem.activation, 1)
    W, out = problem.W_p.numpy(), []
    for size in range(1, problem.n + 1):
        for members in itertools.combinations(range(problem.n), size):
            if not realize(one, ActivationPattern.of([members], problem.n)).realizable:
                continue
            chosen = max(
                itertools.combinations(members, min(size, problem.n_p)),
                key=lambda s: float(np.linalg.svd(W[:, s])[1][-1]),
            )
            basis = np.linalg.pinv(W[:, chosen].T)
            signs = basis.T @ W
            mask = np.isin(np.arange(problem.n), members)
            out.append(FeatureSet(members, basis, signs * mask, signs, len(chosen) == problem.n_p))
    return out


@dataclass(frozen=True, eq=False)
class Cell:
    """A box of responses on one face: y = centre + sum_j s_j e_{axes[j]}, |s_j| <= half[j]."""

    of: FeatureSet
    centre: tuple[float, ...]
    axes: tuple[int, ...]
    half: tuple[float, ...]

    @property
    def size(self) -> float:
        """The largest half width."""
        return max(self.half, default=0.0)

    @property
    def possible(self) -> bool:
        """Whether some row of the box may have the set's signs, feature by feature (interval arithmetic)."""
        middle = np.array(self.centre) @ self.of.signs
        spread = sum((h * np.abs(self.of.signs[a]) for a, h in zip(self.axes, self.half, strict=True)), 0.0 * middle)
        fires = np.isin(np.arange(len(middle)), self.of.members)
        room = 1e-12
        if self.of.exact and not (middle - spread <= room)[~fires].all():
            return False
        return bool((middle + spread >= -room)[fires].all())


def first_cells(of: FeatureSet) -> list[Cell]:
    """The cells that cover a feature set's region: one per face max(y) = y_a = 1."""
    out = []
    for face in range(of.dim):
        others = tuple(a for a in range(of.dim) if a != face)
        centre = tuple(1.0 if a == face else 0.5 for a in range(of.dim))
        out.append(Cell(of, centre, others, (0.5,) * len(others)))
    return [cell for cell in out if cell.possible]


def split_cell(cell: Cell) -> list[Cell]:
    """Halve the widest side; halves that cannot have the pattern are left out."""
    j = int(np.argmax(cell.half))
    half = tuple(h / 2 if i == j else h for i, h in enumerate(cell.half))
    out = []
    for sign in (1.0, -1.0):
        centre = list(cell.centre)
        centre[cell.axes[j]] += sign * half[j]
        out.append(Cell(cell.of, tuple(centre), cell.axes, half))
    return [c for c in out if c.possible]

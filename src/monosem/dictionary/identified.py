"""Whether rows determine a dictionary: the conditions of the theorems of identification, tested from rows alone."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import ShapeError, check
from monosem.dictionary.sparse_model import described

SURE, FREE = 0.01, 0.95
"""A ray holds mass where chance gives its count with at most this probability; an atom that rows let turn to a cosine
below `FREE` is open."""


@dataclass(frozen=True, eq=False)
class Identified:
    """What rows say about each atom of a dictionary; nothing of it needs the truth.

    `silent`: rows at b. `solo`: rows within the angle of an atom's ray; `chance` is the probability of so many among
    those within twice the angle, if the ray held no mass. `flats`: supports of two atoms or more that occur in more
    rows than they have members, in whose span no other atom lies, and at most 2 % of the rows outside their cone.
    `free` is the cosine up to which the atom may turn towards `companion` (-1: none) and explain the same rows with
    nonnegative codes that are no denser.

    Equation:
        chance = Pr(Bin(N(2 angle), 1/2) >= N(angle)),  N(a) = rows within angle a of the ray
        free_j = min over i of cos(d_j, d_j + q_ij d_i),  q_ij = 2 % quantile of z_i / z_j over the rows with j
    """

    silent: int
    solo: Int[Tensor, " m"]
    chance: Float[Tensor, " m"]
    flats: Int[Tensor, " m"]
    free: Float[Tensor, " m"]
    companion: Int[Tensor, " m"]

    @property
    def by(self) -> list[str]:
        """For each atom: "solo" (theorem A), else "flats" (theorem B; one may be chance, two count), else "open"."""
        parts = zip(self.chance.tolist(), self.flats.tolist(), self.free.tolist(), strict=True)
        return [("open", "flats")[f > 1 and c >= FREE] if p > SURE else "solo" for p, f, c in parts]


def identified(
    D: Float[Tensor, "d m"], x: Float[Tensor, "rows width"], *, offset: Tensor | None = None, angle: float = 0.03
) -> Identified:
    """Tests whether rows x = b + D z determine the atoms of D, by their solo rows or by flats of few atoms.

    A direction without mass has a smooth law of angles around it, so at most half of the rows within twice a small
    angle lie within the angle. A mixture of features fails this test, and so does a feature that never fires alone.
    Rows so short that the usual residual turns them by half the angle do not count there, nor rows that are not
    explained to within the angle for flats: in noise beyond that every atom is open.

    Source: docs/recovery.md, theorems A, B and C.
    Raises: ShapeError when D and x differ in width.

    Example:
        >>> x = torch.eye(6).repeat(200, 1) * (1.0 + torch.arange(1200)[:, None] % 7)
        >>> identified(torch.eye(6)[:, :2], x).by
        ['solo', 'solo']
    """
    check(
        D.shape[0] == x.shape[1], f"D has {D.shape[0]} rows, x {x.shape[1]} columns; they are of one space", ShapeError
    )
    model = described(D, x, offset=offset)
    code = model.code(x)
    z, y = code.dense(model.m), x - model.offset
    size = y.norm(dim=1)
    error = (y - z @ model.D.T).norm(dim=1)
    loud = size > 1e-2 * size.square().mean().sqrt()
    explained = loud & (error <= angle * size)
    blur = float(error[explained].median()) if bool(explained.any()) else float("inf")
    sharp, exact = loud & (blur <= angle / 2 * size), z[explained]
    near = (y[sharp] / size[sharp, None] @ model.D).clamp(-1, 1).arccos()
    counts = [(near <= a).sum(0) for a in (angle, 2 * angle)]
    flats, (free, companion) = _flats(model.D, exact > 0, y[loud], angle), _free(model.D, exact)
    return Identified(int((~loud).sum()), counts[0], _tail(*counts), flats, free, companion)


def _tail(some: Int[Tensor, " m"], every: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Pr(Bin(every, 1/2) >= some); 1 where there is none."""
    from scipy.special import bdtr

    below = bdtr(some.numpy() - 1.0, every.numpy(), 0.5)
    return torch.from_numpy(np.where(some.numpy() > 0, 1.0 - np.nan_to_num(below), 1.0))


def _flats(
    D: Float[Tensor, "d m"], on: Bool[Tensor, "exact m"], y: Float[Tensor, "rows d"], angle: float
) -> Int[Tensor, " m"]:
    """Supports of each atom that are a flat of the rows, and its atoms the extreme rays of the rows on it."""
    supports, rows = torch.unique(on, dim=0, return_counts=True)
    members = supports.sum(1)
    count = torch.zeros(D.shape[1], dtype=torch.int64)
    unit = torch.nn.functional.normalize(y, dim=1)
    for support in supports[(members > 1) & (members < D.shape[0]) & (rows > members)]:
        basis, shape = torch.linalg.qr(D[:, support])
        if int(((D - basis @ (basis.T @ D)).norm(dim=0) < angle).sum()) > int(support.sum()):
            continue
        place = unit @ basis
        there = place[place.norm(dim=1) > (1 - angle**2) ** 0.5]
        sizes = torch.linalg.solve_triangular(shape, there.T, upper=True)
        count += support * (float((sizes.amin(0) < -2 * angle).float().mean()) < 0.02)
    return count


def _free(D: Float[Tensor, "d m"], z: Float[Tensor, "rows m"]) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
    """(the least cosine to which each atom may turn, towards which atom)."""
    free, companion = D.new_ones(D.shape[1]), torch.full((D.shape[1],), -1)
    for j in range(D.shape[1]):
        rows = z[z[:, j] > 0]
        if rows.shape[0] == 0:
            continue
        q = (rows / rows[:, j : j + 1]).quantile(0.02, dim=0)
        q[j] = 0.0
        cosine = torch.nn.functional.cosine_similarity(D[:, j : j + 1], D[:, j : j + 1] + q * D, dim=0)
        if float(q.max()) > 0:
            free[j], companion[j] = cosine.min(0)
    return free, companion

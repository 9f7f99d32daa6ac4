"""Rows coded on atoms: the state of a dictionary in discovery, and what the codes say of each atom."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import ShapeError, check
from monosem.base.sparse import Positions, SparseCode
from monosem.dictionary.coding import stagewise_pursuit


def reconstruct(code: SparseCode, D: Float[Tensor, "d m"]) -> Float[Tensor, "rows d"]:
    """D z of every row."""
    return torch.nn.functional.embedding_bag(
        code.at.col,
        D.T.contiguous(),
        code.at.crow,
        mode="sum",
        per_sample_weights=code.values,
        include_last_offset=True,
    )


def code_moment(code: SparseCode, x: Float[Tensor, "rows d"]) -> Float[Tensor, "m d"]:
    """Z^T X."""
    order, offsets = code.at.latent_major
    return torch.nn.functional.embedding_bag(
        code.at.row[order], x, offsets, mode="sum", per_sample_weights=code.values[order], include_last_offset=True
    )


def code_gram(code: SparseCode) -> Float[Tensor, "m m"]:
    """Z^T Z, from the pairs of atoms that share a row."""
    m, counts, start = code.n_q, code.at.crow.diff(), code.at.crow[:-1]
    gram = torch.zeros(m * m, dtype=torch.float64)
    cell = torch.arange(code.at.nnz)
    row = code.at.row
    for shift in range(int(counts.max()) if counts.numel() else 0):
        other = start[row] + shift
        here = shift < counts[row]
        i, j = cell[here], other[here]
        gram += torch.bincount(
            code.at.col[i] * m + code.at.col[j], weights=(code.values[i] * code.values[j]).double(), minlength=m * m
        )
    return gram.view(m, m)


def fit(
    code: SparseCode, x: Float[Tensor, "rows d"], ridge: float = 1e-4
) -> tuple[Float[Tensor, "d m"], Float[Tensor, " d"]]:
    """Unit atoms and the offset that fit the rows best by least squares, given the codes (MOD with an intercept).

    Equation:
        min over D, b of sum over rows |x - D z - b|^2 + ridge |D diag(Z^T Z)^(1/2)|^2
    Source:
        Engan, Aase and Husoy (1999), Method of optimal directions for frame design.
    """
    mean_z = code.latent_sum(code.values).double() / code.batch
    mean_x = x.mean(0, dtype=torch.float64)
    gram = code_gram(code) - code.batch * torch.outer(mean_z, mean_z)
    right = code_moment(code, x).double() - code.batch * torch.outer(mean_z, mean_x)
    power = gram.diagonal().clamp(min=1e-12)
    gram = gram + torch.diag(ridge * power + 1e-9 * power.max())
    D = torch.linalg.solve(gram, right).T
    offset = mean_x - D @ mean_z
    return torch.nn.functional.normalize(D, dim=0).float(), offset.float()


def company(code: SparseCode) -> Float[Tensor, " m"]:
    """How much more often than by chance another atom fires along with each atom, the most faithful companion.

    Two atoms that span the plane of two features without pointing at them fire together; features fire alone.

    Equation:
        max over i of (Pr(i | j) - Pr(i)) / (1 - Pr(i))
    """
    both = code_gram(code.with_values(torch.ones_like(code.values)))
    fires = both.diagonal().clone()
    rate = fires / code.batch
    given = both / fires.clamp(min=1.0)  # [i, j] = Pr(i | j)
    excess = (given - rate[:, None]) / (1.0 - rate[:, None]).clamp(min=1e-3)
    return excess.fill_diagonal_(0.0).amax(0).clamp(min=0.0).float()


def strain(code: SparseCode, x: Float[Tensor, "rows d"], residual: Float[Tensor, "rows d"]) -> Float[Tensor, " m"]:
    """The share of a row that is left over where an atom carries it, each row weighted by what the atom carries.

    An atom between two features leaves half of both over; one that is right leaves what every atom leaves.

    Equation:
        sum over rows of z_j^2 |r|^2 / |x|^2, over sum of z_j^2
    """
    left = (residual.square().sum(1) / x.square().sum(1).clamp(min=1e-12)).clamp(max=1.0)
    power = code.values.square()
    return code.latent_sum(power * left[code.at.row]) / code.latent_sum(power).clamp(min=1e-12)


def agreement(code: SparseCode, residual: Float[Tensor, "rows d"], D: Float[Tensor, "d m"]) -> Float[Tensor, " m"]:
    """The cosine between what even and odd rows would make of each atom.

    Equation:
        a_half = d_j + sum over half the rows of z_j r / sum over these of z_j^2;  cos(a_even, a_odd)
    """
    halves = []
    for half in (0, 1):
        mine = code.with_values(code.values * (code.at.row % 2 == half))
        power = mine.latent_sum(mine.values.square()).clamp(min=1e-12)
        halves.append(torch.nn.functional.normalize(D.T + code_moment(mine, residual) / power[:, None], dim=1))
    return (halves[0] * halves[1]).sum(1)


_SILENT = 1e-3
"""Rows of less than this share of the mean energy hold no feature, """
_MANY = 0.02
"""if they are more than this share of the rows; fewer of them do no harm, and are coded like the rest."""


@dataclass(frozen=True, eq=False)
class CodedRows:
    """Rows x ~ D z + offset, with the codes at one tolerance and what these leave of the rows."""

    x: Float[Tensor, "rows d"]
    D: Float[Tensor, "d m"]
    offset: Float[Tensor, " d"]
    tol: float
    code: SparseCode
    residual: Float[Tensor, "rows d"]

    @staticmethod
    def of(x: Tensor, D: Tensor, offset: Tensor, tol: float) -> "CodedRows":
        """Rows coded by stagewise pursuit.

        Where no feature fires, a row holds nothing but the error of the offset, which all such rows would be coded as
        alike. If there are many of them, they stay without atoms.
        """
        centred = x - offset
        energy = centred.square().sum(1)
        silent = energy < _SILENT * energy.mean()
        many = float(silent.float().mean()) > _MANY
        code, _ = stagewise_pursuit(centred.masked_fill(silent[:, None], 0.0) if many else centred, D, tol=tol)
        return CodedRows(x, D, offset, tol, code, centred - reconstruct(code, D))

    def on(self, D: Float[Tensor, "d m"]) -> "CodedRows":
        """The same rows on other atoms."""
        return CodedRows.of(self.x, D, self.offset, self.tol)

    def kept(self, keep: Bool[Tensor, " m"]) -> "CodedRows":
        """Without some atoms; coded again if there were any."""
        return self if bool(keep.all()) else self.on(self.D[:, keep])

    def fitted(self, least_events: int = 1) -> "CodedRows":
        """Atoms that fire in so many rows, and the offset, by least squares on their codes; coded again."""
        often = self.events >= least_events
        if not bool(often.any()):
            return self.kept(often)
        code = _renumbered(self.code, often)
        D, offset = fit(code, self.x)
        return CodedRows.of(self.x, D, offset, self.tol)

    @cached_property
    def events(self) -> Float[Tensor, " m"]:
        """In how many rows every atom fires."""
        return torch.bincount(self.code.at.col, minlength=self.D.shape[1]).float()

    @cached_property
    def company(self) -> Float[Tensor, " m"]:
        """How much more often than by chance another atom fires along (steps.py)."""
        return company(self.code)

    @cached_property
    def strain(self) -> Float[Tensor, " m"]:
        """The share of rows left over where an atom carries them (steps.py)."""
        return strain(self.code, self.x - self.offset, self.residual)

    @cached_property
    def agreement(self) -> Float[Tensor, " m"]:
        """The cosine between what even and odd rows would make of each atom (steps.py)."""
        return agreement(self.code, self.residual, self.D)

    @property
    def l0(self) -> float:
        """Atoms per row."""
        return self.code.at.nnz / self.code.batch

    @property
    def fvu(self) -> float:
        """Energy left over, as a share of the variance."""
        return float(self.residual.square().sum() / (self.x - self.x.mean(0)).square().sum().clamp(min=1e-30))

    @property
    def typical(self) -> float:
        """The share of its energy that the median row leaves over; a row that holds nothing leaves nothing."""
        energy = (self.x - self.offset).square().sum(1)
        left = self.residual.square().sum(1) / energy.clamp(min=1e-12)
        return float(left[energy >= _SILENT * energy.mean()].median()) if bool(energy.any()) else 0.0

    def entry(self) -> dict[str, Any]:
        """What a log says about it."""
        sizes = {"rows": self.x.shape[0], "tol": self.tol, "atoms": self.D.shape[1]}
        return sizes | {"l0": self.l0, "fvu": self.fvu, "typical": self.typical}


def _renumbered(code: SparseCode, keep: Bool[Tensor, " m"]) -> SparseCode:
    """Only the latents that stay, counted anew; their values are left as they are."""
    code = code.keep(keep)
    number = keep.cumsum(0) - 1
    return SparseCode(Positions(code.at.crow, number[code.at.col], int(keep.sum())), code.values)


def extend(
    D: Float[Tensor, "d m"], x: Float[Tensor, "rows d"], *others: Float[Tensor, "rows _"], tol: float = 0.05
) -> tuple[Tensor, ...]:
    """Unit columns, one for each direction of D, in every other representation of the same rows.

    Equation:
        z = nonnegative sparse code of x - b on D;  each D' = argmin over D', b' of sum over rows |x' - D' z - b'|^2
    Here b, which every row shares, is what a first code without it leaves on average. `tol` as in stagewise_pursuit.
    Shapes: D [d, m], x [rows, d], each other one [rows, d'], giving [d', m].
    Raises: ShapeError when rows differ in number.
    """
    for other in others:
        rows, have = x.shape[0], other.shape[0]
        check(have == rows, f"a representation has {have} rows and x {rows}; pair the rows", ShapeError)
    first, _ = stagewise_pursuit(x, D, tol=tol)
    offset = (x - reconstruct(first, D)).mean(0)
    code, _ = stagewise_pursuit(x - offset, D, tol=tol)
    return tuple(fit(code, other)[0] for other in others)

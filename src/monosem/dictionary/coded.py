"""Rows coded on atoms: the state of a dictionary while it is being found."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.sparse import Positions, SparseCode
from monosem.dictionary.stagewise import stagewise_pursuit
from monosem.dictionary.steps import agreement, company, fit, reconstruct, strain

_SILENT = 1e-3
"""Rows of less than this share of the mean energy hold no feature, """
_MANY = 0.02
"""if they are more than this share of the rows; fewer of them do no harm, and are coded like the rest."""


@dataclass(frozen=True, eq=False)
class Coded:
    """Rows x ~ D z + offset, with the codes at one tolerance and what these leave of the rows."""

    x: Float[Tensor, "rows d"]
    D: Float[Tensor, "d m"]
    offset: Float[Tensor, " d"]
    tol: float
    code: SparseCode
    residual: Float[Tensor, "rows d"]

    @staticmethod
    def of(x: Tensor, D: Tensor, offset: Tensor, tol: float) -> "Coded":
        """Rows coded by stagewise pursuit.

        Where no feature fires, a row holds nothing but the error of the offset, which all such rows would be coded as
        alike. If there are many of them, they stay without atoms.
        """
        centred = x - offset
        energy = centred.square().sum(1)
        silent = energy < _SILENT * energy.mean()
        many = float(silent.float().mean()) > _MANY
        code, _ = stagewise_pursuit(centred.masked_fill(silent[:, None], 0.0) if many else centred, D, tol=tol)
        return Coded(x, D, offset, tol, code, centred - reconstruct(code, D))

    def on(self, D: Float[Tensor, "d m"]) -> "Coded":
        """The same rows on other atoms."""
        return Coded.of(self.x, D, self.offset, self.tol)

    def kept(self, keep: Bool[Tensor, " m"]) -> "Coded":
        """Without some atoms; coded again if there were any."""
        return self if bool(keep.all()) else self.on(self.D[:, keep])

    def fitted(self, least_events: int = 1) -> "Coded":
        """Atoms that fire in so many rows, and the offset, by least squares on their codes; coded again."""
        often = self.events >= least_events
        if not bool(often.any()):
            return self.kept(often)
        code = _renumbered(self.code, often)
        D, offset = fit(code, self.x)
        return Coded.of(self.x, D, offset, self.tol)

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

"""FVU that a few rows or a few dimensions do not decide: of all rows, without the largest, and by dimension."""

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import DataError, check

TRIMMED = 0.01
"""Share of the rows, those of largest norm, that the trimmed FVU leaves out."""

_MOST = 1024
"""Rows that are kept to be left out: memory does not grow with the rows."""


@dataclass(frozen=True)
class Unexplained:
    """Variance unexplained in three ways; all three are the same number where rows and dimensions are alike.

    Equation: fvu = sum_t |x_t - x_hat_t|^2 / sum_t |x_t - mean x|^2; trimmed: over the rows without the 1 % of largest
        |x_t| (1,024 rows at most), with their own mean; by_dimension = mean over dimensions d of
        sum_t (x_td - x_hat_td)^2 / sum_t (x_td - mean x_d)^2, dimensions that do not vary left out.
    """

    fvu: float
    trimmed: float
    by_dimension: float

    def plain(self) -> dict[str, float]:
        """As plain values, for records."""
        return asdict(self)


class RobustFVU:
    """Accumulates rows; sums in float64, which merge as Chan, Golub and LeVeque (1983) give them."""

    def __init__(self, width: int) -> None:
        self.rows = 0
        self.mean: Float[Tensor, " n"] = torch.zeros(width, dtype=torch.float64)
        self.spread, self.error = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        self._norms = torch.zeros(0, dtype=torch.float64)
        self._x, self._e = torch.zeros(0, width), torch.zeros(0, width)

    def update(self, target: Float[Tensor, "batch n"], reconstruction: Float[Tensor, "batch n"]) -> None:
        """Rows and what a model makes of them, on any device."""
        if target.shape[0] == 0:
            return
        x, e = target.detach(), (target - reconstruction).detach()
        rows, mean, spread = _moments(x)
        between = (mean - self.mean).square() * (self.rows * rows / (self.rows + rows))
        self.spread += spread + between
        self.mean += (mean - self.mean) * (rows / (self.rows + rows))
        self.error += e.double().square().sum(0).cpu()
        self.rows += rows
        norms = torch.cat([self._norms, x.double().norm(dim=1).cpu()])
        top = norms.topk(min(_MOST, norms.numel())).indices
        old, kept = top[top < self._norms.numel()], top[top >= self._norms.numel()] - self._norms.numel()
        self._norms = torch.cat([norms[old], norms[top[top >= self._norms.numel()]]])
        self._x = torch.cat([self._x[old], x.float().cpu()[kept]])
        self._e = torch.cat([self._e[old], e.float().cpu()[kept]])

    def result(self) -> Unexplained:
        """Raises: DataError when there are no rows, or none that differ."""
        check(self.rows > 1, f"{self.rows} rows to evaluate; give at least two", DataError)
        check(
            float(self.spread.sum()) > 0,
            f"the {self.rows} targets are all equal; FVU needs rows that differ",
            DataError,
        )
        varies = self.spread > 1e-12 * self.spread.max()
        by_dimension = float((self.error[varies] / self.spread[varies]).mean())
        return Unexplained(float(self.error.sum() / self.spread.sum()), self._trimmed(), by_dimension)

    def _trimmed(self) -> float:
        """The sums of all rows less those of the largest."""
        most = min(_MOST, math.ceil(TRIMMED * self.rows), self.rows - 2)
        if most <= 0:
            return float(self.error.sum() / self.spread.sum())
        top = self._norms.topk(most).indices
        rows, mean, spread = _moments(self._x[top])
        left = self.rows - rows
        rest = (self.rows * self.mean - rows * mean) / left
        between = (mean - rest).square() * (left * rows / self.rows)
        remaining = float((self.spread - spread - between).clamp(min=0).sum())
        error = float((self.error - self._e[top].double().square().sum(0)).clamp(min=0).sum())
        return error / remaining if remaining > 0 else math.nan


def _moments(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """(rows, mean, squared distances from it, dimension by dimension), in float64 on the CPU."""
    y = x.double()
    mean = y.mean(0)
    return x.shape[0], mean.cpu(), (y - mean).square().sum(0).cpu()

"""Zipf's law: a few features fire often and most of them rarely."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from monosem.base.errors import check
from monosem.bench.world import FeatureLaw

HALVES = ("frequent", "rare")
"""The kinds of features under Zipf's law: the upper and the lower half of the ranks."""


@dataclass(frozen=True)
class Zipf(FeatureLaw):
    """Independent firing at rates that fall as a power of the rank; feature d has rank d + 1.

    No rate exceeds `max_rate`. Where that cap binds, the scale c rises until the mean over all features is `mean_rate`
    again: the first features all fire at `max_rate`, and what they lose goes to the others in proportion.

    Equation:
        x_d = m_d (c_min + Exp(beta)),  m_d ~ Bernoulli(p_d), independent
        p_d = min(max_rate, c (d + 1)^-exponent),  c such that mean_d p_d = mean_rate
    Source:
        Zipf (1949), Human behavior and the principle of least effort; magnitudes as in Tang et al. (arXiv
        2512.05534), appendix C.

    Example:
        >>> Zipf(mean_rate=0.2).rates(6).round(3).tolist()
        [0.49, 0.245, 0.163, 0.122, 0.098, 0.082]
    """

    exponent: float = 1.0
    mean_rate: float = 0.01
    max_rate: float = 0.5
    c_min: float = 0.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check(self.exponent >= 0.0, f"exponent = {self.exponent} must not be negative; rates fall with the rank")
        check(0.0 < self.max_rate < 1.0, f"max_rate = {self.max_rate} must lie in (0, 1); it is a probability")
        check(
            0.0 < self.mean_rate <= self.max_rate,
            f"mean_rate = {self.mean_rate} must lie in (0, max_rate = {self.max_rate}]; raise max_rate or lower it",
        )
        check(self.c_min >= 0.0, f"c_min = {self.c_min} must not be negative; features are nonnegative")
        check(self.beta > 0.0, f"beta = {self.beta} must be positive; it is the scale of the exponential")

    def draw(self, rng: np.random.Generator, rows: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Cells hit by a Poisson process in which each takes -log(1 - p_d) of time: exactly Bernoulli, without a mask.

        Each cell is hit with probability 1 - exp(log(1 - p_d)) = p_d, independently of all others.
        """
        ends = -np.log1p(-self.rates(n)).cumsum()
        row, time = np.divmod(np.sort(rng.random(rng.poisson(rows * ends[-1]))) * (rows * ends[-1]), ends[-1])
        column = np.searchsorted(ends, time, side="right").clip(max=n - 1)
        active = np.unique(row.clip(max=rows - 1).astype(np.int64) * n + column)
        return active, self.c_min + self.beta * rng.standard_exponential(active.size)

    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """Pr(x_d > 0) of every feature."""
        weight = np.arange(1.0, n + 1.0) ** -self.exponent
        rest = weight[::-1].cumsum()[::-1]
        scale = (n * self.mean_rate - np.arange(n) * self.max_rate) / rest  # entry m: the first m features are capped
        capped = int((scale * weight <= self.max_rate * (1 + 1e-12)).argmax())
        rates: np.ndarray = np.minimum(self.max_rate, scale[capped] * weight)
        return rates

    def group(self, name: str, n: int) -> Bool[np.ndarray, " n"]:
        """Which features are "all", "frequent" (the first n // 2) or "rare". Raises: ArgumentError for another name."""
        if name == "all":
            return super().group(name, n)
        check(name in HALVES, f"Zipf's law has no {name!r} among its features; ask for all, {', '.join(HALVES)}")
        frequent = np.arange(n) < n // 2
        return frequent if name == "frequent" else ~frequent

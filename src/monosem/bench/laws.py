"""Laws of features beyond independent firing at one rate: hierarchies of parents and children, and Zipf's law."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from monosem.base.errors import ArgumentError, check
from monosem.bench.world import FeatureLaw, Independent

GROUPS = ("parents", "children", "free")
"""The kinds of features in a hierarchy, in the order of their numbers."""


@dataclass(frozen=True)
class Hierarchy(FeatureLaw):
    """Parents with children: a child never fires without its parent.

    Features in order: all parents, then the children of the first parent, of the second ...; `families[p]` is the
    number of children of parent p. Whatever is left of n is free, outside every family. With alone = 0 this is the
    paper's hierarchy: a parent fires if and only if one of its children does.

    Equation:
        children and free features:  x_d = m_d (c_min + Exp(beta)),  m_d ~ Bernoulli(1 - sparsity), independent
        parents:                     m_p = max over its children of m_c, or Bernoulli(alone) where all of them are 0
        Pr(m_p = 0) = sparsity^(children of p) (1 - alone)
    Source:
        Tang et al. (arXiv 2512.05534), definition 3.2; magnitudes as in appendix C, each feature its own.

    Example:
        >>> Hierarchy((2, 3), sparsity=0.9).rates(7).round(3).tolist()
        [0.19, 0.271, 0.1, 0.1, 0.1, 0.1, 0.1]
    """

    families: tuple[int, ...]
    sparsity: float = 0.99
    alone: float = 0.0
    c_min: float = 0.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        sizes = self.families
        check(bool(sizes) and min(sizes) >= 1, f"families = {sizes}; give each parent at least one child")
        check(0.0 <= self.alone < 1.0, f"alone = {self.alone} must lie in [0, 1); it is a probability")
        assert self._below  # the law of the children checks the rest

    @property
    def parents(self) -> int:
        """How many parents: features 0 .. parents - 1."""
        return len(self.families)

    @property
    def related(self) -> int:
        """How many features lie in a family: they come before the free ones."""
        return self.parents + sum(self.families)

    @cached_property
    def parent_of(self) -> Int[np.ndarray, " children"]:
        """The parent of each child; child i is feature parents + i."""
        return np.repeat(np.arange(self.parents), self.families)

    @property
    def _below(self) -> Independent:
        return Independent(self.sparsity, self.c_min, self.beta)

    def draw(self, rng: np.random.Generator, rows: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Children and free features first, then their parents."""
        self._fits(n)
        cells, sizes = self._below.draw(rng, rows, n - self.parents)
        row, column = np.divmod(cells, n - self.parents)
        child = column < self.parent_of.size
        fires = rng.random((rows, self.parents)) < self.alone
        present = np.zeros((rows, self.parents), dtype=bool)
        present[row[child], self.parent_of[column[child]]] = True
        at, parent = np.nonzero(present | fires)
        active = np.concatenate([row * n + column + self.parents, at * n + parent])
        values = np.concatenate([sizes, self.c_min + self.beta * rng.standard_exponential(at.size)])
        order = np.argsort(active)
        return active[order], values[order]

    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """Pr(x_d > 0) of every feature."""
        self._fits(n)
        rates = np.full(n, 1.0 - self.sparsity)
        rates[: self.parents] = 1.0 - self.sparsity ** np.array(self.families) * (1.0 - self.alone)
        return rates

    def group(self, name: str, n: int) -> Bool[np.ndarray, " n"]:
        """Which features are "all", "parents", "children" or "free". Raises: ArgumentError for another name."""
        if name == "all":
            return super().group(name, n)
        check(name in GROUPS, f"a hierarchy has no {name!r} among its features; ask for all, {', '.join(GROUPS)}")
        self._fits(n)
        feature = np.arange(n)
        return np.asarray(np.digitize(feature, (self.parents, self.related)) == GROUPS.index(name))

    def anchor_order(self, rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
        """Family by family, the parent first, families in a random order; then the free features."""
        self._fits(n)
        families = [np.r_[p, self.parents + np.flatnonzero(self.parent_of == p)] for p in rng.permutation(self.parents)]
        return np.concatenate([*families, self.related + rng.permutation(n - self.related)])

    def _fits(self, n: int) -> None:
        if self.related > n:
            raise ArgumentError(
                f"families = {self.families} are {self.related} features but the world has n = {n}; raise n to that"
            )


def bernoulli_cells(rng: np.random.Generator, rows: int, rates: Float[np.ndarray, " n"]) -> Int[np.ndarray, " active"]:
    """Increasing flat positions of a [rows, n] block: cell (r, d) is active with probability p_d, independently.

    A Poisson process in which each cell takes -log(1 - p_d) of time: a cell is hit with probability p_d, exactly, and
    no mask is formed. The rates must lie in [0, 1).
    """
    ends = -np.log1p(-rates).cumsum()
    row, time = np.divmod(np.sort(rng.random(rng.poisson(rows * ends[-1]))) * (rows * ends[-1]), ends[-1])
    column = np.searchsorted(ends, time, side="right").clip(max=rates.size - 1)
    return np.unique(row.clip(max=rows - 1).astype(np.int64) * rates.size + column)


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
        """Cells by `bernoulli_cells`, then their sizes."""
        active = bernoulli_cells(rng, rows, self.rates(n))
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

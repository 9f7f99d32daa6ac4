"""Who fires with whom: independent features, correlated ones, blocks, exclusive groups, trees, subspaces."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from math import pi, prod

import numpy as np
from jaxtyping import Float, Int

from monosem.base.errors import check
from monosem.base.registry import Registry
from monosem.base.seeds import philox
from monosem.bench.laws import Zipf, bernoulli_cells

Cells = Int[np.ndarray, " active"]


class Firing(ABC):
    """Which features are active in a row. `rates` and `together` state the law exactly; tests hold draws to them."""

    @abstractmethod
    def fires(self, rng: np.random.Generator, rows: int, n: int) -> Cells:
        """Active cells of a [rows, n] block, as increasing flat positions."""

    @abstractmethod
    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """Pr(feature d is active)."""

    def together(self, n: int) -> Float[np.ndarray, "n n"]:
        """Pr(both are active) for every pair; the rates on the diagonal. Independent unless a law says otherwise."""
        p = self.rates(n)
        both = np.outer(p, p)
        np.fill_diagonal(both, p)
        return both

    def subspace(self, n: int) -> int:
        """How many neighbouring features span one subspace and share one size: 1, each its own."""
        return 1


FIRINGS: Registry[type[Firing]] = Registry("firing law")


def _probability(**named: float) -> None:
    for name, value in named.items():
        check(0.0 < value < 1.0, f"{name} = {value} must lie in (0, 1); it is a probability")


@dataclass(frozen=True)
class _Rated(Firing):
    """One mean rate; `zipf` > 0 lets rates fall with the rank as rank^-zipf, at most `max_rate`."""

    rate: float = 0.04
    zipf: float = 0.0
    max_rate: float = 0.5

    def __post_init__(self) -> None:
        _probability(rate=self.rate)
        assert self._law  # checks the rest

    @property
    def _law(self) -> Zipf:
        return Zipf(self.zipf, self.rate, max(self.rate, self.max_rate))

    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """Pr(feature d is active)."""
        return self._law.rates(n)


@FIRINGS.register("independent")
@dataclass(frozen=True)
class IndependentFiring(_Rated):
    """Every feature for itself.

    Equation: m_d ~ Bernoulli(p_d), independent;  p_d as `Zipf`, all `rate` for zipf = 0

    Example:
        >>> IndependentFiring(rate=0.1).rates(3).round(3).tolist()
        [0.1, 0.1, 0.1]
    """

    def fires(self, rng: np.random.Generator, rows: int, n: int) -> Cells:
        """By a Poisson process."""
        return bernoulli_cells(rng, rows, self.rates(n))


@FIRINGS.register("copula")
@dataclass(frozen=True)
class Copula(_Rated):
    """Features that fire together because they share Gaussian causes.

    `strength` is the share of a feature's variance that comes from `rank` shared causes; its loadings are a random
    direction, keyed by `seed`. Marginals are exactly those of independent firing.

    Equation:
        m_d = 1[<f_d, e> + sqrt(1 - strength) h_d > Phi^-1(1 - p_d)],  e, h standard normal,  |f_d|^2 = strength
        Pr(m_i m_j) = p_i p_j + (1 / 2 pi) integral_0^rho exp(-q / 2) / sqrt(1 - r^2) dr,  rho = <f_i, f_j>,
        q = (t_i^2 - 2 r t_i t_j + t_j^2) / (1 - r^2),  t = Phi^-1(1 - p)
    Source: the integral is Plackett (1954), A reduction formula for normal multivariate integrals.
    """

    strength: float = 0.5
    rank: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _probability(strength=self.strength)
        check(self.rank >= 1, f"rank = {self.rank}; at least one cause is shared")

    def fires(self, rng: np.random.Generator, rows: int, n: int) -> Cells:
        """One field of shared causes a row; a feature's own part is drawn in single precision."""
        return copula_cells(rng, rows, self.rates(n), self._loadings(n), np.float32((1.0 - self.strength) ** 0.5))

    def together(self, n: int) -> Float[np.ndarray, "n n"]:
        """By Gauss-Legendre quadrature with 48 nodes."""
        return copula_together(self.rates(n), self._loadings(n) @ self._loadings(n).T)

    def _loadings(self, n: int) -> Float[np.ndarray, "n rank"]:
        return np.asarray(_unit_rows(self.seed, n, self.rank) * self.strength**0.5)


def copula_cells(
    rng: np.random.Generator,
    rows: int,
    rates: Float[np.ndarray, " n"],
    loadings: Float[np.ndarray, "n rank"],
    own_part: np.float32 | Float[np.ndarray, " n"],
) -> Cells:
    """Active cells where Gaussians that share causes, and have a part of their own, exceed their quantiles."""
    field = (rng.standard_normal((rows, loadings.shape[1])) @ loadings.T).astype(np.float32)
    own = rng.standard_normal((rows, rates.size), dtype=np.float32)
    own *= own_part
    own += field
    return np.flatnonzero(own > _thresholds(rates).astype(np.float32))


def copula_together(
    p: Float[np.ndarray, " n"], rho: Float[np.ndarray, "n n"], nodes: int = 48
) -> Float[np.ndarray, "n n"]:
    """Pr(both are active) for the correlations rho of the Gaussians, by quadrature; the rates on the diagonal."""
    t = _thresholds(p)
    both, squares, products = np.outer(p, p), np.add.outer(t**2, t**2), np.outer(t, t)
    for node, weight in zip(*np.polynomial.legendre.leggauss(nodes), strict=True):
        r = rho * (node + 1) / 2
        q = squares - 2 * r * products
        both = both + weight * rho / 2 * np.exp(-q / (2 * (1 - r**2))) / np.sqrt(1 - r**2) / (2 * pi)
    np.fill_diagonal(both, p)
    return both


@lru_cache(maxsize=8)
def _unit_rows(seed: int, n: int, rank: int) -> Float[np.ndarray, "n rank"]:
    rows = philox(seed, "law/loadings").standard_normal((n, rank))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _thresholds(rates: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Phi^-1(1 - p)."""
    from statistics import NormalDist

    value = {p: NormalDist().inv_cdf(1.0 - p) for p in set(rates.tolist())}
    return np.array([value[p] for p in rates.tolist()])


@FIRINGS.register("blocks")
@dataclass(frozen=True)
class Blocks(Firing):
    """Neighbours that fire in company: given that its block is on, a member is active with probability `given`.

    Equation: block ~ Bernoulli(rate / given),  m_d ~ Bernoulli(given) where its block is on, independent
    """

    rate: float = 0.04
    given: float = 0.4
    size: int = 5

    def __post_init__(self) -> None:
        _probability(rate=self.rate)
        check(self.rate <= self.given <= 1.0, f"given = {self.given} must lie in [rate = {self.rate}, 1]")
        check(self.size >= 1, f"size = {self.size}; a block has at least one member")

    def fires(self, rng: np.random.Generator, rows: int, n: int) -> Cells:
        """Blocks first, then their members."""
        blocks = -(-n // self.size)
        on = bernoulli_cells(rng, rows, np.full(blocks, min(self.rate / self.given, 1.0 - 1e-15)))
        member = rng.random((on.size, self.size)) < self.given
        column = (on % blocks)[:, None] * self.size + np.arange(self.size)
        keep = member & (column < n)
        return np.asarray(((on // blocks)[:, None] * n + column)[keep])

    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """All `rate`."""
        return np.full(n, self.rate)

    def together(self, n: int) -> Float[np.ndarray, "n n"]:
        """rate x given within a block."""
        both, block = super().together(n), np.arange(n) // self.size
        both[block[:, None] == block] = self.rate * self.given
        np.fill_diagonal(both, self.rate)
        return both


@FIRINGS.register("exclusive")
@dataclass(frozen=True)
class Exclusive(Firing):
    """Siblings of which at most one is active: `size` neighbours, one of them in a share `present` of the rows."""

    size: int = 15
    present: float = 1.0

    def __post_init__(self) -> None:
        check(self.size >= 2, f"size = {self.size}; siblings are two or more")
        check(0.0 < self.present <= 1.0, f"present = {self.present} must lie in (0, 1]; it is a probability")

    def fires(self, rng: np.random.Generator, rows: int, n: int) -> Cells:
        """For each group and row one member, or none. A last group that n cuts short is a smaller one."""
        first = np.arange(0, n, self.size)
        width = np.minimum(self.size, n - first)
        column = first + (rng.random((rows, first.size)) * width).astype(np.int64)
        on = rng.random((rows, first.size)) < self.present
        return np.asarray((np.arange(rows)[:, None] * n + column)[on])

    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """present / the group's size."""
        feature = np.arange(n)
        return np.asarray(self.present / np.minimum(self.size, n - feature // self.size * self.size))

    def together(self, n: int) -> Float[np.ndarray, "n n"]:
        """0 within a group."""
        both, group = super().together(n), np.arange(n) // self.size
        both[group[:, None] == group] = 0.0
        np.fill_diagonal(both, self.rates(n))
        return both


@FIRINGS.register("tree")
@dataclass(frozen=True)
class Tree(Firing):
    """A hierarchy of several levels, from the top: where a feature is active each child is, with probability `follow`.

    `branching` (4, 2) gives every root four children and each of them two. Features come tree by tree, level by level;
    what is left of n beyond `trees` of them is free, at the rate `free`. `exclusive`: at most one child is active,
    with probability `follow` in all. Roots fire at `root`, or by Zipf's law with that mean.

    Equation: Pr(level l) = root_t follow^l, or root_t prod_k (follow / branching_k) where exclusive
    """

    branching: tuple[int, ...] = (4, 2)
    trees: int = 4
    root: float = 0.15
    follow: float = 0.5
    exclusive: bool = False
    free: float = 0.04
    zipf: float = 0.0

    def __post_init__(self) -> None:
        sizes = self.branching
        check(bool(sizes) and min(sizes) >= 1, f"branching = {sizes}; each level has at least one child")
        check(self.trees >= 1, f"trees = {self.trees}; ask for at least one")
        _probability(root=self.root, free=self.free)
        check(0.0 < self.follow <= 1.0, f"follow = {self.follow} must lie in (0, 1]; it is a probability")

    @property
    def widths(self) -> tuple[int, ...]:
        """Features a level in one tree."""
        return tuple(prod(self.branching[:level]) for level in range(len(self.branching) + 1))

    def fires(self, rng: np.random.Generator, rows: int, n: int) -> Cells:
        """Level by level, then the free features."""
        self._fits(n)
        size, at, levels = sum(self.widths), 0, []
        on = rng.random((rows, self.trees)) < self._roots
        for width, children in zip(self.widths, (*self.branching, 0), strict=True):
            row, place = np.nonzero(on)
            tree, inside = np.divmod(place, width)
            levels.append(row * n + tree * size + at + inside)
            at += width
            if not children:
                break
            chance = rng.random((rows, on.shape[1], children))
            if self.exclusive:
                one = rng.random((rows, on.shape[1], 1)) < self.follow
                below = one & (chance == chance.max(2, keepdims=True))
            else:
                below = chance < self.follow
            on = (below & on[:, :, None]).reshape(rows, -1)
        related = self.trees * size
        if n > related:
            free = bernoulli_cells(rng, rows, np.full(n - related, self.free))
            levels.append(free // (n - related) * n + related + free % (n - related))
        return np.sort(np.concatenate(levels))

    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """Root, then level by level."""
        self._fits(n)
        pass_on = [self.follow / (b if self.exclusive else 1) for b in self.branching]
        one = np.concatenate([np.full(w, prod(pass_on[:level])) for level, w in enumerate(self.widths)])
        related = np.outer(self._roots, one).ravel()
        return np.concatenate([related, np.full(n - related.size, self.free)])

    def together(self, n: int) -> Float[np.ndarray, "n n"]:
        """Within a tree: Pr(i) Pr(j) / Pr(last common ancestor); siblings that exclude each other never."""
        both, p, parent = super().together(n), self.rates(n), self.parent_of(n)
        line: list[list[int]] = []  # from the root down to each feature; parents come before their children
        for d in range(n):
            line.append([*(line[parent[d]] if parent[d] >= 0 else []), d])
        for i in range(n):
            for j in range(i):
                shared = [a for a, b in zip(line[i], line[j], strict=False) if a == b]
                if shared:
                    apart = shared[-1] not in (i, j)
                    both[i, j] = both[j, i] = 0.0 if self.exclusive and apart else p[i] * p[j] / p[shared[-1]]
        return both

    def parent_of(self, n: int) -> Int[np.ndarray, " n"]:
        """The parent of every feature; -1 for roots and free features."""
        self._fits(n)
        size, parent = sum(self.widths), np.full(n, -1)
        starts = np.cumsum((0, *self.widths))
        for tree in range(self.trees):
            for level, children in enumerate(self.branching):
                inside = np.arange(self.widths[level + 1])
                parent[tree * size + starts[level + 1] + inside] = tree * size + starts[level] + inside // children
        return parent

    @property
    def _roots(self) -> Float[np.ndarray, " trees"]:
        return Zipf(self.zipf, self.root, max(self.root, 0.5)).rates(self.trees)

    def _fits(self, n: int) -> None:
        need = self.trees * sum(self.widths)
        check(need <= n, f"trees = {self.trees} of {sum(self.widths)} features need n = {need} or more, not n = {n}")


@FIRINGS.register("subspaces")
@dataclass(frozen=True)
class Subspaces(Firing):
    """Features of several dimensions: `dim` neighbours are active together, at a random point of a sphere.

    What is identified is the subspace that they span, no direction in it. The size of a feature is the radius.
    """

    dim: int = 2
    rate: float = 0.04

    def __post_init__(self) -> None:
        _probability(rate=self.rate)
        check(self.dim >= 1, f"dim = {self.dim}; a feature has at least one dimension")

    def fires(self, rng: np.random.Generator, rows: int, n: int) -> Cells:
        """All members of a feature, or none."""
        check(n % self.dim == 0, f"n = {n} is no multiple of dim = {self.dim}; make it one")
        on = bernoulli_cells(rng, rows, np.full(n // self.dim, self.rate))
        return np.asarray((on[:, None] * self.dim + np.arange(self.dim)).ravel())

    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """All `rate`."""
        return np.full(n, self.rate)

    def together(self, n: int) -> Float[np.ndarray, "n n"]:
        """The rate within a feature."""
        both, feature = super().together(n), np.arange(n) // self.dim
        both[feature[:, None] == feature] = self.rate
        return both

    def subspace(self, n: int) -> int:
        """`dim`."""
        return self.dim

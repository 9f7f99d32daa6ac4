"""How large active features are, and `Composed`: a law made of who fires and how large."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from monosem.base.errors import ArgumentError, check
from monosem.base.registry import Registry
from monosem.base.seeds import philox
from monosem.bench.laws import HALVES
from monosem.bench.laws_firing import Firing, IndependentFiring
from monosem.bench.world import FeatureLaw


class Sizes(ABC):
    """The size of an active feature; positive."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
        """Independent sizes."""


SIZES: Registry[type[Sizes]] = Registry("law of sizes")


@SIZES.register("exponential")
@dataclass(frozen=True)
class Exponential(Sizes):
    """c_min + Exp(beta), the paper's; beta is the mean of the exponential."""

    c_min: float = 0.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check(self.c_min >= 0.0, f"c_min = {self.c_min} must not be negative; sizes are positive")
        check(self.beta > 0.0, f"beta = {self.beta} must be positive; it is the scale of the exponential")

    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
        """Shifted exponentials."""
        return np.asarray(self.c_min + self.beta * rng.standard_exponential(count))


@SIZES.register("constant")
@dataclass(frozen=True)
class Constant(Sizes):
    """One size: features that always fire together cannot be told apart then."""

    size: float = 1.0

    def __post_init__(self) -> None:
        check(self.size > 0.0, f"size = {self.size} must be positive")

    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
        """All the same."""
        return np.full(count, self.size)


@SIZES.register("pareto")
@dataclass(frozen=True)
class Pareto(Sizes):
    """A heavy tail: sizes from 1 on; the variance is infinite for exponent <= 2, the mean for exponent <= 1."""

    exponent: float = 1.2

    def __post_init__(self) -> None:
        check(self.exponent > 0.0, f"exponent = {self.exponent} must be positive; the tail falls as v^-exponent")

    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
        """By the exponential of an exponential."""
        return np.asarray(np.exp(rng.standard_exponential(count) / self.exponent))


@SIZES.register("lognormal")
@dataclass(frozen=True)
class Lognormal(Sizes):
    """exp(sd N(0, 1)): median 1."""

    sd: float = 0.5

    def __post_init__(self) -> None:
        check(self.sd > 0.0, f"sd = {self.sd} must be positive; use constant for none")

    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
        """Exponentials of normals."""
        return np.asarray(np.exp(self.sd * rng.standard_normal(count)))


@dataclass(frozen=True)
class Composed(FeatureLaw):
    """A law of two parts: who fires, and how large.

    `spread` is the standard deviation of the logarithm of a feature's own scale (keyed by `seed`); `signed`: every
    active feature takes either sign with probability 1/2.

    Equation: x_d = m_d s_d exp(spread g_d) size,  m ~ firing,  s_d = 1 or a random sign,  g_d ~ N(0, 1) fixed
    """

    firing: Firing = field(default_factory=IndependentFiring)
    sizes: Sizes = field(default_factory=Exponential)
    spread: float = 0.0
    signed: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.spread >= 0.0, f"spread = {self.spread} must not be negative; it is a standard deviation")

    def draw(self, rng: np.random.Generator, rows: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Firing first, then sizes, then signs or points of spheres."""
        cells, dim = self.firing.fires(rng, rows, n), self.firing.subspace(n)
        values = np.repeat(self.sizes.draw(rng, cells.size // dim), dim)
        if dim > 1:
            point = rng.standard_normal((cells.size // dim, dim))
            values *= (point / np.linalg.norm(point, axis=1, keepdims=True)).ravel()
        elif self.signed:
            values *= rng.choice((-1.0, 1.0), cells.size)
        if self.spread:
            values *= self.scales(n)[cells % n]
        return cells, values

    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """Pr(x_d != 0) of every feature."""
        return self.firing.rates(n)

    def scales(self, n: int) -> Float[np.ndarray, " n"]:
        """The scale of every feature; one for a whole subspace."""
        return _scales(self.seed, n, self.spread, self.firing.subspace(n))

    def has_signs(self, n: int) -> bool:
        """Whether features take both signs."""
        return self.signed or self.firing.subspace(n) > 1

    def group(self, name: str, n: int) -> Bool[np.ndarray, " n"]:
        """ "all", or "frequent" and "rare": the halves by rate. Raises: ArgumentError for another name."""
        if name == "all":
            return super().group(name, n)
        if name not in HALVES:
            raise ArgumentError(f"the law has no {name!r} among its features; ask for all, {', '.join(HALVES)}")
        rank: Int[np.ndarray, " n"] = np.argsort(np.argsort(-self.rates(n), kind="stable"))
        return np.asarray((rank < n // 2) == (name == "frequent"))


@lru_cache(maxsize=8)
def _scales(seed: int, n: int, spread: float, dim: int) -> Float[np.ndarray, " n"]:
    own = np.exp(spread * philox(seed, "law/scales").standard_normal(-(-n // dim)))
    return np.asarray(np.repeat(own, dim)[:n])

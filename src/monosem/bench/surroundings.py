"""What makes a world resemble a network: how directions lie, and what every row holds apart from its features."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from monosem.base.errors import check
from monosem.base.registry import Registry

Columns = Float[np.ndarray, "width n"]


class Geometry(ABC):
    """Moves directions of bounded interference to where they are wanted; columns stay unit vectors."""

    @abstractmethod
    def shape(self, W: Columns, rng: np.random.Generator) -> Columns:
        """The new columns; the world normalises them."""


GEOMETRIES: Registry[type[Geometry]] = Registry("geometry")


def _unit(columns: np.ndarray) -> np.ndarray:
    return np.asarray(columns / np.linalg.norm(columns, axis=0))


def _cosine(value: float, name: str) -> None:
    check(0.0 <= value < 1.0, f"{name} = {value} must lie in [0, 1); it is a cosine")


@GEOMETRIES.register("cone")
@dataclass(frozen=True)
class Cone(Geometry):
    """All directions share a common one: two of them have cosine `cosine` on average.

    Equation: w_d <- sqrt(v) c + sqrt(1 - v) w_d,  c one random direction
    """

    cosine: float = 0.3

    def __post_init__(self) -> None:
        _cosine(self.cosine, "cosine")

    def shape(self, W: Columns, rng: np.random.Generator) -> Columns:
        """A common part."""
        c = _unit(rng.standard_normal((W.shape[0], 1)))
        return np.asarray(self.cosine**0.5 * c + (1 - self.cosine) ** 0.5 * W)


@GEOMETRIES.register("clusters")
@dataclass(frozen=True)
class Clusters(Geometry):
    """`size` neighbours share a direction: their cosines are `cosine` on average.

    Equation: w_d <- sqrt(v) c_k + sqrt(1 - v) w_d,  c_k a random direction for each cluster
    """

    cosine: float = 0.6
    size: int = 5

    def __post_init__(self) -> None:
        _cosine(self.cosine, "cosine")
        check(self.size >= 2, f"size = {self.size}; a cluster has two members or more")

    def shape(self, W: Columns, rng: np.random.Generator) -> Columns:
        """A common part for each cluster."""
        width, n = W.shape
        centres = _unit(rng.standard_normal((width, -(-n // self.size))))
        own = centres[:, np.arange(n) // self.size]
        return np.asarray(self.cosine**0.5 * own + (1 - self.cosine) ** 0.5 * W)


@GEOMETRIES.register("duplicates")
@dataclass(frozen=True)
class Duplicates(Geometry):
    """`pairs` features have a twin at cosine `cosine`: feature n - 1 - i is that of feature i.

    Equation: w_{n-1-i} <- v w_i + sqrt(1 - v^2) u,  u a random direction orthogonal to w_i
    """

    pairs: int = 6
    cosine: float = 0.9

    def __post_init__(self) -> None:
        _cosine(self.cosine, "cosine")
        check(self.pairs >= 1, f"pairs = {self.pairs}; ask for at least one")

    def shape(self, W: Columns, rng: np.random.Generator) -> Columns:
        """Twins at the end of the features."""
        n = W.shape[1]
        check(2 * self.pairs <= n, f"pairs = {self.pairs} need n = {2 * self.pairs} features or more, not n = {n}")
        first = _unit(W[:, : self.pairs])
        u = rng.standard_normal(first.shape)
        u = _unit(u - first * (first * u).sum(0))
        W = W.copy()
        W[:, n - 1 - np.arange(self.pairs)] = self.cosine * first + (1 - self.cosine**2) ** 0.5 * u
        return W


class Background(ABC):
    """What a row holds apart from its features. `energy` is the mean squared length of W x."""

    @abstractmethod
    def rows(
        self, rng: np.random.Generator, fixed: np.random.Generator, count: int, width: int, energy: float
    ) -> Float[np.ndarray, "count width"]:
        """`count` rows; `rng` belongs to their block, `fixed` to the world."""

    def offset(self, fixed: np.random.Generator, width: int) -> Float[np.ndarray, " width"]:
        """The part that all rows share."""
        return np.zeros(width)

    def noise(self, width: int, energy: float) -> float:
        """The standard deviation of the part that is isotropic noise."""
        return 0.0

    def factors(self, fixed: np.random.Generator, width: int, energy: float) -> Float[np.ndarray, "width q"]:
        """Directions of dense Gaussian factors, each times its standard deviation."""
        return np.zeros((width, 0))


BACKGROUNDS: Registry[type[Background]] = Registry("background")


@BACKGROUNDS.register("noise")
@dataclass(frozen=True)
class Noise(Background):
    """Isotropic Gaussian noise, `db` decibels below the features.

    Equation: e ~ N(0, s^2 I),  width s^2 = E|W x|^2 10^(-db / 10)
    """

    db: float = 20.0

    def rows(
        self, rng: np.random.Generator, fixed: np.random.Generator, count: int, width: int, energy: float
    ) -> Float[np.ndarray, "count width"]:
        """In single precision."""
        return rng.standard_normal((count, width), dtype=np.float32) * np.float32(self.noise(width, energy))

    def noise(self, width: int, energy: float) -> float:
        """s."""
        return float((energy / width * 10 ** (-self.db / 10)) ** 0.5)


@BACKGROUNDS.register("factors")
@dataclass(frozen=True)
class Factors(Background):
    """Dense features: `count` Gaussian factors on orthonormal directions, of `share` times the features' energy."""

    count: int = 5
    share: float = 1.0

    def __post_init__(self) -> None:
        check(self.count >= 1, f"count = {self.count}; ask for at least one factor")
        check(self.share > 0.0, f"share = {self.share} must be positive; it is a ratio of energies")

    def rows(
        self, rng: np.random.Generator, fixed: np.random.Generator, count: int, width: int, energy: float
    ) -> Float[np.ndarray, "count width"]:
        """Normal factors times fixed directions."""
        return np.asarray(rng.standard_normal((count, self.count)) @ self.factors(fixed, width, energy).T)

    def factors(self, fixed: np.random.Generator, width: int, energy: float) -> Float[np.ndarray, "width q"]:
        """Orthonormal directions of equal strength."""
        check(self.count <= width, f"count = {self.count} factors do not fit into {width} dimensions; ask for fewer")
        basis = np.linalg.qr(fixed.standard_normal((width, self.count)))[0]
        return np.asarray(basis * (self.share * energy / self.count) ** 0.5)


@BACKGROUNDS.register("offset")
@dataclass(frozen=True)
class Offset(Background):
    """One vector of length `length` in every row, in a random direction: the b of x = W z + b."""

    length: float = 5.0

    def __post_init__(self) -> None:
        check(self.length > 0.0, f"length = {self.length} must be positive; leave the offset out for none")

    def offset(self, fixed: np.random.Generator, width: int) -> Float[np.ndarray, " width"]:
        """The vector."""
        return np.asarray(self.length * _unit(fixed.standard_normal((width, 1)))[:, 0])

    def rows(
        self, rng: np.random.Generator, fixed: np.random.Generator, count: int, width: int, energy: float
    ) -> Float[np.ndarray, "count width"]:
        """The vector, row after row."""
        return np.broadcast_to(self.offset(fixed, width), (count, width))

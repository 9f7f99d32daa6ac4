"""Worlds fitted to real rows: directions, rates, co-firing, sizes and surroundings of a dictionary's codes on them."""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import CheckpointError, ShapeError, check
from monosem.base.files import write_atomic
from monosem.base.seeds import philox
from monosem.base.spec import ELSEWHERE
from monosem.base.tensors import read_tensors, tensor_writer
from monosem.bench.laws_firing import copula_cells, copula_together
from monosem.bench.surroundings import Background, Columns, Geometry
from monosem.bench.world import FeatureLaw, World, WorldSpec
from monosem.dictionary.sparse_model import described, fit_background, gain

_FORMAT, _GIVE = "monosem.fitted/1", "give what `monosem bench fit` wrote"
_PARTS = ("D", "factors", "loadings", "log_size", "offset", "rates")
EVENTS = 5.0
"""Pairs of features are held to be independent until they were seen together about so often."""


def fit_world(
    x: Float[Tensor, "rows width"],
    D: Float[Tensor, "d n"],
    path: str | Path,
    *,
    rank: int = 16,
    rows: int | None = None,
) -> WorldSpec:
    """A world that resembles rows, as a dictionary codes them, written to a file.

    Rows are coded as they are or less their mean, by the larger `gain`; features of fewer than 20 events are left out.
    Firing is a Gaussian copula with the codes' rates and, up to `rank` shared causes, their pairs; sizes are lognormal,
    feature by feature; what the codes leave over is Gaussian of the mean and covariance that it has. Events too small
    to pay for themselves belong to what is left. `rows`: how many a fixed set has (None: as many as x).

    Equation:
        x = D z + b + s g + U h,  z_i = 1[<l_i, c> + sqrt(1 - |l_i|^2) g_i > Phi^-1(1 - p_i)] exp(m_i + v_i g'_i)
    Raises: ShapeError when D and x differ in width; DataError when no feature has enough events.
    """
    check(
        D.shape[0] == x.shape[1], f"D has {D.shape[0]} rows, x {x.shape[1]} columns; they are of one space", ShapeError
    )
    law = fit_background(x)
    model = max((described(D, x, offset=b) for b in (x.mean(0) * 0, x.mean(0))), key=lambda m: gain(m, x, law))
    z = model.code(x).dense(model.m)
    keep = (z > 0).sum(0) >= 20
    check(bool(keep.any()), f"none of {D.shape[1]} columns is active in 20 of {x.shape[0]} rows; give more rows")
    on, left = (z[:, keep] > 0).double(), (x - z @ model.D.T).double()
    logs = torch.where(z > 0, z, 1.0).log()[:, keep].double()
    mean = logs.sum(0) / on.sum(0)
    sd = ((logs - mean * on).square().sum(0) / on.sum(0)).sqrt()
    values, vectors = torch.linalg.eigh(torch.cov(left.T))
    noise = values[: max(1, len(values) // 2)].mean().clamp(min=0.0)
    large = values > 1.05 * noise
    parts = {
        "D": model.D[:, keep],
        "factors": vectors[:, large] * (values[large] - noise).sqrt(),
        "loadings": torch.from_numpy(_loadings(on.numpy(), min(rank, int(keep.sum())))),
        "log_size": torch.stack([mean, sd]),
        "offset": left.mean(0),
        "rates": on.mean(0).clamp(max=0.999),
    }
    about = {"rows": str(rows or x.shape[0]), "noise": repr(float(noise) ** 0.5)}
    write_atomic(
        Path(path), tensor_writer({name: part.float() for name, part in parts.items()}, about | {"format": _FORMAT})
    )
    return fitted_world(path)


def _loadings(on: Float[np.ndarray, "rows n"], rank: int) -> Float[np.ndarray, "n rank"]:
    """Loadings whose copula has the pairs that fire together: tetrachoric correlations, then principal factors."""
    p, rows = on.mean(0), on.shape[0]
    chance = np.outer(p, p)
    wanted = chance * (on.T @ on + EVENTS) / (rows * chance + EVENTS)
    low, high = np.full_like(chance, -0.95), np.full_like(chance, 0.95)
    for _ in range(12):
        rho = (low + high) / 2
        more = copula_together(p, rho, 24) < wanted
        low, high = np.where(more, rho, low), np.where(more, high, rho)
    rho = (low + high) / 2
    np.fill_diagonal(rho, 0.0)
    share, loads = np.abs(rho).max(1), np.zeros((p.size, rank))
    for _ in range(8):
        np.fill_diagonal(rho, share)
        values, vectors = np.linalg.eigh(rho)
        loads = vectors[:, -rank:] * np.sqrt(values[-rank:].clip(min=0.0))
        share = (loads**2).sum(1).clip(max=0.95)
    size = np.sqrt((loads**2).sum(1, keepdims=True))
    return np.asarray(loads * np.minimum(1.0, 0.95**0.5 / size.clip(min=1e-12)))


@dataclass(frozen=True)
class _Fitted:
    """A part of a fitted world: the digest says which, the file where it lies."""

    digest: str
    file: str = field(compare=False, metadata=ELSEWHERE)

    def part(self, name: str) -> np.ndarray:
        """A table of the fit, in float64."""
        return _read(self.file, self.digest)[name]


@dataclass(frozen=True)
class FittedLaw(_Fitted, FeatureLaw):
    """Which features are active, and how large."""

    def draw(self, rng: np.random.Generator, rows: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """By the copula, then lognormal sizes."""
        loads, (mean, sd) = self.part("loadings"), self.part("log_size")
        rest = np.sqrt(1.0 - (loads**2).sum(1)).astype(np.float32)
        cells = copula_cells(rng, rows, self.rates(n), loads, rest)
        return cells, np.exp(mean[cells % n] + sd[cells % n] * rng.standard_normal(cells.size))

    def rates(self, n: int) -> Float[np.ndarray, " n"]:
        """Pr(feature d is active)."""
        return self.part("rates")

    def together(self, n: int) -> Float[np.ndarray, "n n"]:
        """Pr(both are active) for every pair."""
        return copula_together(self.rates(n), self.part("loadings") @ self.part("loadings").T)


@dataclass(frozen=True)
class FittedDirections(_Fitted, Geometry):
    """The dictionary's columns, in the world of any seed."""

    def shape(self, W: Columns, rng: np.random.Generator) -> Columns:
        """They replace what was there."""
        return self.part("D")


@dataclass(frozen=True)
class FittedSurroundings(_Fitted, Background):
    """What codes left over: an offset, Gaussian factors, and isotropic noise."""

    def rows(
        self, rng: np.random.Generator, fixed: np.random.Generator, count: int, width: int, energy: float
    ) -> Float[np.ndarray, "count width"]:
        """In double precision."""
        U = self.part("factors")
        shared = rng.standard_normal((count, U.shape[1])) @ U.T + self.part("offset")
        return np.asarray(shared + self.part("noise") * rng.standard_normal((count, width)))

    def offset(self, fixed: np.random.Generator, width: int) -> Float[np.ndarray, " width"]:
        """The mean of what was left."""
        return self.part("offset")

    def noise(self, width: int, energy: float) -> float:
        """Its standard deviation in the directions without factors."""
        return float(self.part("noise"))

    def factors(self, fixed: np.random.Generator, width: int, energy: float) -> Float[np.ndarray, "width q"]:
        """Directions times standard deviations."""
        return self.part("factors")


def fitted_world(path: str | Path, seed: int = 0) -> WorldSpec:
    """The world of a file that `fit_world` wrote; the seed draws its rows. Raises: CheckpointError for another file."""
    about, _ = read_tensors(Path(path), _FORMAT, frozenset(["rows", "noise"]), _GIVE)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    which = (digest, str(path))
    law, geometry, around = FittedLaw(*which), FittedDirections(*which), FittedSurroundings(*which)
    d, n = law.part("D").shape
    return WorldSpec(n, (d, d), 1.0, law, int(about["rows"]), seed, geometry=(geometry,), background=(around,))


@lru_cache(maxsize=4)
def _read(path: str, digest: str) -> dict[str, np.ndarray]:
    about, tensors = read_tensors(Path(path), _FORMAT, frozenset(["rows", "noise"]), _GIVE)
    check(sorted(tensors) == sorted(_PARTS), f"{path} does not hold {', '.join(_PARTS)}; {_GIVE}", CheckpointError)
    have = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    check(have == digest, f"{path} is not the file that the task was made of; its sha256 is {have}", CheckpointError)
    return {name: part.double().numpy() for name, part in tensors.items()} | {"noise": np.array(float(about["noise"]))}


def nearest_share(x: Float[Tensor, "rows d"], y: Float[Tensor, "other d"]) -> float:
    """Share of the rows of two samples whose nearest other row is of their own sample: 1/2 for equal laws, 1 apart.

    Both are cut to the same number of rows.
    Source: Schilling (1986), Multivariate two-sample tests based on nearest neighbors.

    Example:
        >>> nearest_share(torch.zeros(3, 2), torch.ones(3, 2))
        1.0
    """
    count = min(x.shape[0], y.shape[0])
    both = torch.cat([x[:count], y[:count]]).double()
    far = torch.cdist(both, both).fill_diagonal_(torch.inf)
    own = torch.arange(2 * count) < count
    return float((own[far.argmin(1)] == own).double().mean())


def resemblance(spec: WorldSpec, x: Float[Tensor, "rows d"], rows: int = 2000) -> dict[str, float]:
    """How far real rows are from a world's, from Gaussian rows of their own mean and covariance, and from themselves.

    Each number is `nearest_share` of two times `rows` rows: rows of x that are apart, and drawn ones.
    """
    count = min(rows, x.shape[0] // 2)
    order = torch.from_numpy(philox(spec.seed, "fitted/rows").permutation(x.shape[0]))
    one, other = x[order[:count]], x[order[count : 2 * count]]
    covariance = torch.linalg.cholesky_ex(torch.cov(x.double().T) + 1e-9 * torch.eye(x.shape[1]).double())[0]
    drawn = torch.from_numpy(philox(spec.seed, "fitted/gaussian").standard_normal((count, x.shape[1])))
    samples: dict[str, Any] = {
        "fitted": World(spec).held_out(count, sources=(0,)).sources[0],
        "gaussian": (x.double().mean(0) + drawn @ covariance.T).float(),
        "itself": other,
    }
    return {name: nearest_share(one, sample) for name, sample in samples.items()}

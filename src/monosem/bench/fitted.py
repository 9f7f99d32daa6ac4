"""Worlds fitted to real rows: directions, rates, co-firing, sizes and surroundings of a dictionary's codes on them."""

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
from monosem.base.tensors import read_tensors, sealed, tensor_writer
from monosem.bench.laws_firing import copula_cells, copula_together
from monosem.bench.surroundings import Background, Columns, Geometry
from monosem.bench.world import FeatureLaw, World, WorldSpec
from monosem.dictionary.sparse_model import described, fit_background, gain

_FORMAT, _GIVE = "monosem.fitted/1", "give what `monosem bench fit` wrote"
_PARTS = ("D", "factors", "loadings", "log_size", "offset", "rates")
_NUMBERS = ("noise", "common", "uneven")
_ABOUT = frozenset(["rows", *_NUMBERS])
EVENTS = 5.0
"""Pairs of features are held to be independent until they were seen together about so often."""


def fit_world(
    x: Float[Tensor, "rows width"],
    D: Float[Tensor, "d n"],
    path: str | Path,
    *,
    codes: Float[Tensor, "rows n"] | None = None,
    rank: int = 16,
    rows: int | None = None,
) -> WorldSpec:
    """A world that resembles rows, as a dictionary codes them, written to a file.

    `codes` of the rows, nonnegative (None: the priced pursuit's, of rows as they are or less their mean, by the larger
    `gain`); features of fewer than 20 events are left out.
    Firing is a Gaussian copula with the codes' rates and, up to `rank` shared causes, their pairs. Sizes are lognormal
    of the mean and variance that they have, feature by feature, with one correlation among those of a row. What codes
    leave over is Gaussian of its own covariance, times a lognormal scale of the row. All of it then goes through the
    linear map A closest to the identity that gives it the rows' covariance. `rows`: how many a fixed set has (None: as
    many as x).

    Equation:
        x = D z + b + t (s g + U h),  z_i = 1[<l_i, c> + sqrt(1 - |l_i|^2) g_i > Phi^-1(1 - p_i)] exp(m_i + v_i e_i),
        e_i = sqrt(w) e + sqrt(1 - w) e'_i,  log t = u g' - u^2,  u^2 = Var(log |left|) less 1 / 2d, a Gaussian's;
        A = F^-1/2 (F^1/2 C F^1/2)^1/2 F^-1/2,  C = cov(rows), F = cov(x) before A
    Raises: ShapeError when D and x differ in width; DataError when no feature has enough events.
    """
    check(
        D.shape[0] == x.shape[1], f"D has {D.shape[0]} rows, x {x.shape[1]} columns; they are of one space", ShapeError
    )
    z = _priced(x, D) if codes is None else codes.clamp(min=0.0) * D.norm(dim=0)
    keep = (z > 0).sum(0) >= 20
    check(bool(keep.any()), f"none of {D.shape[1]} columns is active in 20 of {x.shape[0]} rows; give more rows")
    D, z = torch.nn.functional.normalize(D[:, keep], dim=0).double(), z[:, keep].double()
    left = x.double() - z @ D.T
    rates, log_size, common = _sizes(z)
    loadings = torch.from_numpy(_loadings((z > 0).double().numpy(), min(rank, D.shape[1])))
    mean, covariance = _moments(rates, loadings, log_size, common)
    A = _between(D @ covariance @ D.T + torch.cov(left.T), torch.cov(x.double().T))
    length = (A @ D).norm(dim=0)
    values, vectors = torch.linalg.eigh(A @ torch.cov(left.T) @ A)
    noise = values[: max(1, len(values) // 2)].mean().clamp(min=0.0)
    large = values > 1.05 * noise
    parts = {
        "D": A @ D / length,
        "factors": vectors[:, large] * (values[large] - noise).sqrt(),
        "loadings": loadings,
        "log_size": torch.stack([log_size[0] + length.log(), log_size[1]]),
        "offset": x.double().mean(0) - A @ D @ mean,
        "rates": rates,
    }
    uneven = float((left - left.mean(0)).norm(dim=1).clamp(min=1e-12).log().var()) - 0.5 / x.shape[1]
    numbers = {"noise": float(noise) ** 0.5, "common": common, "uneven": max(uneven, 0.0) ** 0.5}
    about = {"rows": str(rows or x.shape[0])} | {name: repr(number) for name, number in numbers.items()}
    write_atomic(
        Path(path),
        tensor_writer(
            {name: part.half() if part.numel() > 4096 else part.float() for name, part in parts.items()},
            about | {"format": _FORMAT},
        ),
    )
    return fitted_world(path)


def _priced(x: Float[Tensor, "rows d"], D: Float[Tensor, "d n"]) -> Float[Tensor, "rows n"]:
    law = fit_background(x)
    model = max((described(D, x, offset=b) for b in (x.mean(0) * 0, x.mean(0))), key=lambda m: gain(m, x, law))
    return model.code(x).dense(model.m)


def _sizes(z: Float[Tensor, "rows n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "2 n"], float]:
    """Rates, the mean and deviation of the logarithm of sizes, and how much of it the features of a row share."""
    on, count = z > 0, (z > 0).sum(0)
    mean = z.sum(0) / count
    variance = (z.square().sum(0) / count - mean.square()).clamp(min=0.0)
    deviation = (1 + variance / mean.square()).log()
    log_size = torch.stack([mean.log() - deviation / 2, deviation.sqrt()])
    standard = torch.where(on, (torch.where(on, z, 1.0).log() - log_size[0]) / log_size[1].clamp(min=1e-6), 0.0)
    several = on.sum(1)
    pairs = float(
        (standard.sum(1).square() - standard.square().sum(1)).sum() / (several * (several - 1)).sum().clamp(min=1)
    )
    power = float(standard.square().sum() / on.sum())
    return (count / z.shape[0]).clamp(max=0.999), log_size, min(max(pairs / power, 0.0), 0.95)


def _moments(
    p: Float[Tensor, " n"], loadings: Float[Tensor, "n rank"], log_size: Float[Tensor, "2 n"], common: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """Mean and covariance of z under the law, in closed form but for the quadrature of the pairs."""
    (m, v), both = log_size, torch.from_numpy(copula_together(p.numpy(), (loadings @ loadings.T).numpy()))
    size = (m + v.square() / 2).exp()
    shared = (common * v.outer(v)).fill_diagonal_(0.0) + torch.diag(v.square())
    mean = p * size
    return mean, both * size.outer(size) * shared.exp() - mean.outer(mean)


def _between(F: Float[Tensor, "d d"], C: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The symmetric map that takes covariance F to C: the optimal one between Gaussians."""

    def power(S: Tensor, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(S)
        least = 1e-9 * float(values[-1])
        powered: Tensor = (vectors * values.clamp(min=least) ** exponent) @ vectors.T
        return powered

    root, back = power(F, 0.5), power(F, -0.5)
    return back @ power(root @ C @ root, 0.5) @ back


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
        """By the copula, then lognormal sizes that the features of a row share in part."""
        loads, (mean, sd), common = self.part("loadings"), self.part("log_size"), self.part("common")
        rest = np.sqrt(1.0 - (loads**2).sum(1)).astype(np.float32)
        cells = copula_cells(rng, rows, self.rates(n), loads, rest)
        row = rng.standard_normal(rows)[cells // n]
        normal = np.sqrt(common) * row + np.sqrt(1.0 - common) * rng.standard_normal(cells.size)
        return cells, np.exp(mean[cells % n] + sd[cells % n] * normal)

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
        U, u = self.part("factors"), self.part("uneven")
        rest = rng.standard_normal((count, U.shape[1])) @ U.T + self.part("noise") * rng.standard_normal((count, width))
        return np.asarray(np.exp(u * rng.standard_normal((count, 1)) - u**2) * rest + self.part("offset"))

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
    about, _ = read_tensors(Path(path), _FORMAT, _ABOUT, _GIVE)
    which = (str(sealed(Path(path))), str(path))
    law, geometry, around = FittedLaw(*which), FittedDirections(*which), FittedSurroundings(*which)
    d, n = law.part("D").shape
    return WorldSpec(n, (d, d), 1.0, law, int(about["rows"]), seed, geometry=(geometry,), background=(around,))


@lru_cache(maxsize=4)
def _read(path: str, digest: str) -> dict[str, np.ndarray]:
    about, tensors = read_tensors(Path(path), _FORMAT, _ABOUT, _GIVE)
    check(sorted(tensors) == sorted(_PARTS), f"{path} does not hold {', '.join(_PARTS)}; {_GIVE}", CheckpointError)
    have = sealed(Path(path))
    check(have == digest, f"{path} is not the file that the task was made of; its sha256 is {have}", CheckpointError)
    numbers = {name: np.array(float(about[name])) for name in _NUMBERS}
    return {name: part.double().numpy() for name, part in tensors.items()} | numbers


def told_apart(x: Float[Tensor, "rows d"], y: Float[Tensor, "other d"], seed: int = 0, steps: int = 200) -> float:
    """Share of new rows of two samples that a trained classifier gives to the right one: 1/2 for equal laws, 1 apart.

    A network of one hidden layer sees every second row of each, in units of their common deviation, and the logarithm
    of its length; the other rows are scored. Both samples are cut to the same number of rows.
    Source: Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests.

    Example:
        >>> told_apart(torch.zeros(40, 2), torch.ones(40, 2))
        1.0
    """
    count = min(x.shape[0], y.shape[0])
    both = torch.cat([x[:count], y[:count]]).float()
    length = both.norm(dim=1, keepdim=True).clamp(min=1e-12).log()
    both = torch.cat([both, length], 1)
    both = (both - both.mean(0)) / both.std(0).clamp(min=1e-12)
    goal = (torch.arange(2 * count) < count).float()
    draw = torch.from_numpy(philox(seed, "fitted/classifier").standard_normal((both.shape[1] + 1, 64))).float()
    first, bias = (draw[:-1] / both.shape[1] ** 0.5).requires_grad_(), draw[-1].clone().requires_grad_()
    last = torch.zeros(65, requires_grad=True)

    def said(rows: Tensor) -> Tensor:
        return torch.relu(rows @ first + bias) @ last[:-1] + last[-1]

    optimiser = torch.optim.AdamW([first, bias, last], lr=0.01, weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(said(both[::2]), goal[::2])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        return float(((said(both[1::2]) > 0) == (goal[1::2] > 0)).float().mean())


def resemblance(spec: WorldSpec, x: Float[Tensor, "rows d"], rows: int = 2000) -> dict[str, float]:
    """How far real rows are from a world's, from Gaussian rows of their own mean and covariance, and from themselves.

    Each number is `told_apart` of two times `rows` rows: rows of x, and drawn ones or other rows of x.
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
    return {name: told_apart(one, sample) for name, sample in samples.items()}

"""A generative model of rows as sparse sums in noise, and the background law that it has to beat."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.dictionary.priced import Priced, priced_pursuit

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
UNEXPLAINED = 2.5
"""A whitened squared residual above this many times d says that a row is not explained."""


@dataclass(frozen=True, eq=False)
class Background:
    """Rows without a sparse code: a multivariate t law, Gaussian for `dof` = inf, of the rows' mean and covariance."""

    mean: Float[Tensor, " d"]
    root: Float[Tensor, "d d"]
    """Lower Cholesky factor of the scale matrix."""
    dof: float

    def log_density(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
        """log B(x) of every row."""
        d = x.shape[1]
        q = torch.linalg.solve_triangular(self.root, (x - self.mean).T, upper=False).square().sum(0)
        volume = float(self.root.diagonal().double().log().sum())
        if math.isinf(self.dof):
            gaussian: Tensor = -q / 2 - volume - d * _HALF_LOG_2PI
            return gaussian
        v = self.dof
        constant = math.lgamma((v + d) / 2) - math.lgamma(v / 2) - d / 2 * math.log(v * math.pi) - volume
        heavy: Tensor = constant - (v + d) / 2 * torch.log1p(q / v)
        return heavy


_DOFS = (2.1, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0, math.inf)


def fit_background(x: Float[Tensor, "rows d"]) -> Background:
    """The t law of most likely degrees of freedom among a grid, at the rows' own mean and covariance.

    The covariance has the noise that a model has at least, so that rows of low rank do not favour the law.
    """
    mean = x.mean(0)
    centred = (x - mean).double()
    covariance = centred.T @ centred / x.shape[0]
    covariance += (FLOOR * typical_length(x - mean)) ** 2 * torch.eye(x.shape[1], dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    laws = []
    for dof in _DOFS:
        scale = 1.0 if math.isinf(dof) else ((dof - 2) / dof) ** 0.5
        laws.append(Background(mean, (scale * root).float(), dof))
    return max(laws, key=lambda law: float(law.log_density(x).mean()))


@dataclass(frozen=True, eq=False)
class SparseModel:
    """x = b + D z + e: feature i is active with probability `rates`_i and then of mean size `sizes`_i; e is noise.

    The noise is N(0, s^2 I + U U^T), U the `factors` (none: isotropic). A share `outside` of the rows comes from the
    background law instead, so that no row costs more than it does there.

    Shapes: D [d, m] unit columns; offset [d]; factors [d, q]; rates, sizes [m].
    """

    D: Float[Tensor, "d m"]
    offset: Float[Tensor, " d"]
    noise: float
    factors: Float[Tensor, "d q"]
    rates: Float[Tensor, " m"]
    sizes: Float[Tensor, " m"]
    outside: float = 0.1

    @property
    def m(self) -> int:
        """How many atoms."""
        return self.D.shape[1]

    @cached_property
    def whitener(self) -> Float[Tensor, "d d"]:
        """The symmetric root of the noise's inverse covariance."""
        d = self.D.shape[0]
        if self.factors.shape[1] == 0:
            return torch.eye(d) / self.noise
        U, strength, _ = torch.linalg.svd(self.factors, full_matrices=False)
        shrink = 1.0 - self.noise / (self.noise**2 + strength.square()).sqrt()
        root: Tensor = (torch.eye(d) - (U * shrink) @ U.T) / self.noise
        return root

    @cached_property
    def volume(self) -> float:
        """log det of the whitener."""
        d = self.D.shape[0]
        strength = torch.linalg.svdvals(self.factors.double()) if self.factors.shape[1] else torch.zeros(0).double()
        return -d * math.log(self.noise) - float((1 + (strength / self.noise).square()).log().sum()) / 2

    @cached_property
    def atoms(self) -> Float[Tensor, "d m"]:
        """Whitened atoms."""
        return self.whitener @ self.D

    @cached_property
    def price(self) -> Float[Tensor, " m"]:
        """What it costs to say that an atom is active, and how large: nats.

        Equation: log((1 - p) / p) + log mu + 1 - log(2 pi) / 2 + log |a|
        """
        p = self.rates.clamp(1e-6, 0.5)
        size = self.sizes.clamp(min=1e-12).log() + self.atoms.norm(dim=0).clamp(min=1e-12).log()
        nats: Tensor = ((1 - p) / p).log() + (size + 1 - _HALF_LOG_2PI).clamp(min=0.0)
        return nats

    def code(self, x: Float[Tensor, "rows d"], barred: Tensor | None = None) -> Priced:
        """The codes of rows."""
        y = (x - self.offset) @ self.whitener
        return priced_pursuit(y @ self.atoms, y.square().sum(1), self.atoms.T @ self.atoms, self.price, barred=barred)

    def log_sparse(self, loss: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """log density of a row under the sparse part, from the loss of its code."""
        silent = float((1 - self.rates.double().clamp(max=0.5)).log().sum())
        return -loss + (self.volume + silent - self.D.shape[0] * _HALF_LOG_2PI)

    def scores(self, loss: Float[Tensor, " rows"], background: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """log((1 - outside) L + outside B) of every row; `background` holds log B."""
        return torch.logaddexp(math.log1p(-self.outside) + self.log_sparse(loss), math.log(self.outside) + background)


def gain(model: SparseModel, x: Float[Tensor, "rows d"], law: Background) -> float:
    """Nats a row by which the model beats the background law on rows that neither was fitted to.

    About 0 where no sparse code is there to be known; a missing feature costs its rows tens of nats.

    Equation: mean over rows of log((1 - outside) L(x) + outside B(x)) - log B(x)
    """
    background = law.log_density(x)
    return float((model.scores(model.code(x).loss, background) - background).double().mean())


def described(
    D: Float[Tensor, "d m"],
    x: Float[Tensor, "rows d"],
    *,
    noise: float | None = None,
    offset: Tensor | None = None,
    passes: int = 6,
) -> SparseModel:
    """A given dictionary as a model: rates, sizes and noise are fitted to the rows, the atoms stay.

    `noise` is the least that it may come to (None: a hundredth of a typical row). With it the gain of anybody's
    dictionary can be read; dictionaries are to be compared at the same `noise`.
    """
    b = torch.zeros(x.shape[1]) if offset is None else offset
    length = typical_length(x - b)
    floor = length * FLOOR if noise is None else noise
    m = D.shape[1]
    unit = torch.nn.functional.normalize(D, dim=0)
    model = SparseModel(
        unit,
        b,
        max(0.3 * length, floor),
        D.new_zeros(D.shape[0], 0),
        D.new_full((m,), min(0.5, 2.0 / m)),
        D.new_full((m,), length),
    )
    background = fit_background(x).log_density(x)
    for _ in range(passes):
        model = refreshed_numbers(model, x, model.code(x), background, floor, fall=0.4)
    return model


FLOOR = 0.01
"""The least noise, as a share of a typical row's root mean square."""


def typical_length(x: Float[Tensor, "rows d"]) -> float:
    """The root mean square coordinate of the median row, among rows that are not next to nothing."""
    size = x.square().mean(1).sqrt()
    loud = size[size > 1e-2 * size.square().mean().sqrt()]
    return float(loud.median()) if loud.numel() else 1e-12


def refreshed_numbers(
    model: SparseModel, x: Tensor, code: Priced, background: Tensor, floor: float, fall: float = 0.75
) -> SparseModel:
    """Rates, sizes, noise and the share outside by what the codes say; the noise falls to `fall` of itself at most."""
    rows, d = x.shape
    m = model.m
    uses = code.sum_of((code.value > 0).to(x.dtype), m)
    rates = (uses + 0.5) / (rows + 1.0)
    sizes = code.sum_of(code.value, m) / uses.clamp(min=1.0)
    sizes = torch.where(uses > 0, sizes, model.sizes)
    sparse = model.log_sparse(code.loss) + math.log1p(-model.outside)
    outside = float(torch.sigmoid(math.log(model.outside) + background - sparse).mean())
    energy = (x - model.offset).square().mean(1)
    loud = energy > 6 * model.noise**2
    noise = model.noise
    if int(loud.sum()) > d:
        left = code.error[loud] / d  # in units of the noise, whose whitened coordinates have variance 1
        spent = (d / (d - (code.atom[loud] < m).sum(1)).clamp(min=1)).to(x.dtype)
        noise = model.noise * float((left * spent).median()) ** 0.5
    noise = min(max(noise, fall * model.noise, floor), 4 * model.noise)
    return SparseModel(model.D, model.offset, noise, model.factors, rates, sizes, min(max(outside, 1e-3), 0.999))

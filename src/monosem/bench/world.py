"""The linear world: directions of bounded interference, sparse features x >= 0, representations x_s = W_s x."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, DataError, GeneratorError, check
from monosem.base.guard import guard_fields, guarded
from monosem.base.seeds import philox
from monosem.base.spec import TACIT, digest
from monosem.bench.surroundings import Background, Geometry

_ROUNDING = 1e-7  # room for rounding the float64 columns to float32


@dataclass(frozen=True, eq=False)
class Directions:
    """Feature directions: `W` [width, n] float32 with unit columns, its `interference`, the `steps` it took.

    `W` is a view of a contiguous [n, width] matrix, so that `W.T` serves row lookups without a copy.
    """

    W: Tensor
    interference: float
    steps: int


def welch_bound(n: int, width: int) -> float:
    """The least possible max over i != j of |<w_i, w_j>|: sqrt((n - d) / (d (n - 1))), 0 for n <= d.

    Source:
        Welch (1974), Lower bounds on the maximum cross correlation of signals.
    """
    return math.sqrt((n - width) / (width * (n - 1))) if n > width else 0.0


def rankin_bound(n: int, width: int) -> float:
    """No signed max over i != j of <w_i, w_j> is below this: -1/(n - 1) for n <= d + 1 (simplex), else 0 (orthoplex).

    Source:
        Rankin (1955), The closest packing of spherical caps in n dimensions.
    """
    return -1.0 / (n - 1) if 1 < n <= width + 1 else (0.0 if n > 1 else -1.0)


def signed_interference(W: Tensor) -> float:
    """max over i != j of <w_i, w_j> for the columns of W, in float64; -1 for a single column."""
    return float(_gram(W.double()).max())


def feature_directions(
    n: int,
    width: int,
    max_interference: float,
    *,
    eps: float = 1e-3,
    lam: float = 1e-3,
    lr: float = 0.125,
    max_steps: int = 2000,
    seed: int = 0,
    stream: str = "directions",
) -> Directions:
    """n unit columns in `width` dimensions with max over i != j of <w_i, w_j> <= M = `max_interference`.

    Gaussian columns, normalised, then projected gradient descent with renormalised columns. At step size 1/8 a
    lone pair above M - eps is corrected exactly; the step is halved whenever the objective would rise. The arithmetic
    is float64 on one thread, so the bits do not depend on the caller's thread count; the result is rounded to float32.

    Equation:
        sum_{i != j} max(0, <w_i, w_j> - (M - eps))^2 + lam sum_{i != j} max(0, <w_i, w_j>)^2
    Source:
        Tang et al. (arXiv 2512.05534), appendix C; step size and halving are ours.
    Raises:
        GeneratorError: M is not reached in `max_steps`; says what was reached and what is possible.

    Example:
        >>> feature_directions(24, 16, 0.1).interference <= 0.1
        True
    """
    check(n >= 1 and width >= 1, f"n = {n} features and width = {width} must both be at least 1; ask for more")
    if not -1.0 <= max_interference <= 1.0:
        raise ArgumentError(f"max_interference = {max_interference} is not a cosine; choose M between -1 and 1")
    with _one_thread():
        W = torch.from_numpy(philox(seed, stream).standard_normal((width, n)))
        W = W / W.norm(dim=0)
        gram, gradient, objective = _objective(W, max_interference - eps, lam)
        steps, reached = 0, float(gram.max())
        while reached > max_interference - _ROUNDING and steps < max_steps and lr > 1e-9:
            steps += 1
            trial = W - lr * gradient
            trial = trial / trial.norm(dim=0)
            gram, trial_gradient, trial_objective = _objective(trial, max_interference - eps, lam)
            if trial_objective > objective:
                lr /= 2
                continue
            W, gradient, objective, reached = trial, trial_gradient, trial_objective, float(gram.max())
        if reached > max_interference - _ROUNDING:
            raise GeneratorError(
                f"n = {n} directions in {width} dimensions reached a signed interference of {reached:.4f}, not the "
                f"wanted M = {max_interference:.4f}, in {steps} steps (no set has a signed one below "
                f"{rankin_bound(n, width):.4f}, Rankin, or an absolute one below {welch_bound(n, width):.4f}, Welch); "
                "ask for fewer features, a larger width, a larger M or more steps"
            )
        W = W.T.float().contiguous().T
        return Directions(W, signed_interference(W), steps)


def _gram(W: Tensor) -> Tensor:
    """W^T W with -1 on the diagonal, so that its maximum is the signed interference."""
    return (W.T @ W).fill_diagonal_(-1.0)


def _objective(W: Tensor, cap: float, lam: float) -> tuple[Tensor, Tensor, float]:
    """The Gram matrix, the gradient of the objective and its value."""
    gram = _gram(W)
    over, positive = (gram - cap).clamp_(min=0.0).fill_diagonal_(0.0), gram.clamp(min=0.0)
    value = float(over.square().sum() + lam * positive.square().sum())
    return gram, 4.0 * (W @ over.add_(positive, alpha=lam)), value


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run the body on one torch thread: matrix products then have the same bits for any caller."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


BLOCK = 1024  # rows are generated in whole blocks of this many


class FeatureLaw(ABC):
    """How features fire and how large they are. A new law is a new frozen dataclass; the world needs nothing else."""

    def has_signs(self, n: int) -> bool:
        """Whether features take both signs; else they are positive where active."""
        return False

    @abstractmethod
    def draw(self, rng: np.random.Generator, rows: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Active cells of a [rows, n] block: increasing flat positions (int64) and their values (float64)."""

    def anchor_order(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """A permutation of the features, the order in which anchoring takes them: any by default."""
        return rng.permutation(n)

    def group(self, name: str, n: int) -> np.ndarray:
        """Which of the n features are of a named kind: a law that has kinds names them. Raises: ArgumentError."""
        if name != "all":
            raise ArgumentError(f"{type(self).__name__} has no {name!r} among its features; ask for 'all'")
        return np.ones(n, dtype=bool)


@dataclass(frozen=True)
class Independent(FeatureLaw):
    """The paper's law: independent firing, shifted exponential magnitudes; beta is the scale (the mean).

    Equation:
        x_d = m_d (c_min + Exp(beta)),  m_d ~ Bernoulli(1 - sparsity)
    Source:
        Tang et al. (arXiv 2512.05534), appendix C; c_min = 0 and beta = 1 are ours (not given there).
    """

    sparsity: float = 0.99
    c_min: float = 0.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        check(0.0 <= self.sparsity < 1.0, f"sparsity S = {self.sparsity} must lie in [0, 1); it is Pr(x_d = 0)")
        check(self.c_min >= 0.0, f"c_min = {self.c_min} must not be negative; features are nonnegative")
        check(self.beta > 0.0, f"beta = {self.beta} must be positive; it is the scale of the exponential")

    def draw(self, rng: np.random.Generator, rows: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Gaps between active cells are geometric, which is exactly independent Bernoulli firing, without a mask."""
        cells, rate = rows * n, 1.0 - self.sparsity
        chunk = int(cells * rate + 6.0 * np.sqrt(cells * rate)) + 16
        positions, last = [], -1
        while last < cells:
            positions.append(last + np.cumsum(rng.geometric(rate, chunk)))
            last = int(positions[-1][-1])
        active = np.concatenate(positions)
        active = active[active < cells]
        return active, self.c_min + self.beta * rng.standard_exponential(active.size)


@dataclass(frozen=True)
class WorldSpec:
    """A world: n features, one representation of `widths[s]` dimensions per source, a law, and how many rows.

    `rows` is the size of a fixed set of samples, or None for an endless stream. The first rows of the
    two are the same. `geometry` moves the directions, in turn, once they have their bounded interference;
    `background` is added to every row. Worlds without them have the digests that they always had.
    """

    n: int
    widths: tuple[int, ...]
    max_interference: float = 0.1
    law: FeatureLaw = Independent()
    rows: int | None = None
    seed: int = 0
    eps: float = 1e-3
    lam: float = 1e-3
    geometry: tuple[Geometry, ...] = field(default=(), metadata=TACIT)
    background: tuple[Background, ...] = field(default=(), metadata=TACIT)

    def __post_init__(self) -> None:
        guard_fields(self)
        check(self.n >= 1 and len(self.widths) >= 1, f"n = {self.n} and widths = {self.widths} must not be empty")
        check(self.rows is None or self.rows >= 1, f"rows = {self.rows} must be at least 1, or None for a stream")

    @property
    def digest(self) -> str:
        """sha256 of the specification."""
        return digest(self)


@dataclass(frozen=True)
class SparseFeatures:
    """Feature vectors as CSR: row r holds `value[crow[r]:crow[r + 1]]` at columns `col[...]` of n."""

    crow: Int[Tensor, " rows_plus_1"]
    col: Int[Tensor, " nnz"]
    value: Float[Tensor, " nnz"]
    n: int

    def __len__(self) -> int:
        return self.crow.numel() - 1

    @property
    def l0(self) -> Int[Tensor, " rows"]:
        """The number of active features of each row."""
        return self.crow.diff()

    def dense(self) -> Float[Tensor, "rows n"]:
        """The [rows, n] matrix."""
        x = torch.zeros(len(self), self.n)
        x[torch.repeat_interleave(torch.arange(len(self)), self.l0), self.col] = self.value
        return x

    def take(self, index: Int[Tensor, " batch"]) -> "SparseFeatures":
        """The rows of `index`, in its order."""
        start, length = self.crow[index], self.l0[index]
        crow = torch.cat([length.new_zeros(1), length.cumsum(0)])
        where = torch.repeat_interleave(start - crow[:-1], length) + torch.arange(int(crow[-1]))
        return SparseFeatures(crow, self.col[where], self.value[where], self.n)

    def map(self, columns: Float[Tensor, "n width"]) -> Float[Tensor, "rows width"]:
        """x @ columns, summed row by row in order, so that its bits do not depend on the other rows."""
        return torch.nn.functional.embedding_bag(
            self.col, columns, self.crow, mode="sum", per_sample_weights=self.value, include_last_offset=True
        )


@dataclass(frozen=True)
class Truth:
    """Rows of the world: `features` x and one representation x_s [rows, width_s] per source asked for.

    Equation: x_s = W_s x, and the world's background
    """

    features: SparseFeatures
    sources: tuple[Tensor, ...]


class World:
    """The realised world of a specification.

    Example:
        >>> world = World(WorldSpec(n=24, widths=(16,), law=Independent(sparsity=0.9), rows=100))
        >>> truth = world.take(torch.tensor([3, 1]))
        >>> truth.features.dense().shape, truth.sources[0].shape
        (torch.Size([2, 24]), torch.Size([2, 16]))
    """

    @guarded
    def __init__(self, spec: WorldSpec) -> None:
        self.spec = spec
        self._block = lru_cache(maxsize=16)(self._draw)
        self._background = lru_cache(maxsize=16)(self._drawn_background)
        self._whole, self._energy = lru_cache(self._fixed_background), lru_cache(self._measured_energy)

    def directions(self, source: int) -> Directions:
        """W_s and its interference, built on first use, each source from a stream of its own."""
        s = self.spec
        check(0 <= source < len(s.widths), f"source {source} of {len(s.widths)}; choose one in range")
        return _directions(s.n, s.widths[source], s.max_interference, s.eps, s.lam, s.seed, source, s.geometry)

    @property
    def W(self) -> tuple[Tensor, ...]:
        """The true feature matrices, one [width_s, n] per source."""
        return tuple(self.directions(s).W for s in range(len(self.spec.widths)))

    @property
    def realised_interference(self) -> tuple[float, ...]:
        """max over i != j of <w_i, w_j> for each source."""
        return tuple(self.directions(s).interference for s in range(len(self.spec.widths)))

    def rows(self, start: int, stop: int, sources: Sequence[int] | None = None) -> Truth:
        """Rows start..stop - 1."""
        return self.take(torch.arange(start, stop), sources)

    def take(self, index: Int[Tensor, " batch"], sources: Sequence[int] | None = None) -> Truth:
        """The rows of `index` in its order; representations of `sources` only (None: all).

        Raises:
            DataError: a row is negative or beyond the fixed set.
        """
        if index.numel():
            low, high = int(index.min()), int(index.max())
            stop = self.spec.rows
            if low < 0 or (stop is not None and high >= stop):
                have = "an endless stream" if stop is None else f"{stop} rows"
                raise DataError(f"index holds rows {low} to {high} but the world has {have} from 0 on; index inside it")
        if self.spec.rows is not None:
            return self._truth(self._fixed.take(index), "features", index, sources)
        blocks, place = torch.unique(index // BLOCK, return_inverse=True)
        drawn = _concatenate([self._block("features", b) for b in blocks.tolist()], self.spec.n)
        return self._truth(drawn.take(place * BLOCK + index % BLOCK), "features", index, sources)

    def held_out(self, rows: int, *, start: int = 0, sources: Sequence[int] | None = None) -> Truth:
        """Rows start..start + rows - 1 of the evaluation stream, which training never sees."""
        first, last = start // BLOCK, (start + rows - 1) // BLOCK
        drawn = _concatenate([self._block("features/eval", b) for b in range(first, last + 1)], self.spec.n)
        index = torch.arange(start, start + rows)
        return self._truth(drawn.take(index - first * BLOCK), "features/eval", index, sources)

    def offset(self, source: int) -> Float[Tensor, " width"]:
        """The vector that every row of a source has in common."""
        width = self.spec.widths[source]
        parts = [b.offset(self._world_key(i, source), width) for i, b in enumerate(self.spec.background)]
        return torch.from_numpy(np.sum([np.zeros(width), *parts], 0)).float()

    def noise(self, source: int) -> tuple[float, Float[Tensor, "width q"]]:
        """(standard deviation of the isotropic noise, dense factors) of a source's rows."""
        width, energy = self.spec.widths[source], self._energy(source)
        parts = list(enumerate(self.spec.background))
        factors = [part.factors(self._world_key(i, source), width, energy) for i, part in parts]
        sd = sum(part.noise(width, energy) ** 2 for _, part in parts) ** 0.5
        return sd, torch.from_numpy(np.concatenate([np.zeros((width, 0)), *factors], 1)).float()

    def data_digest(self, rows: int = BLOCK, sources: Sequence[int] | None = None) -> str:
        """sha256 of the realised bits: the directions, and features and representations of the first `rows` rows."""
        which = range(len(self.spec.widths)) if sources is None else sources
        truth = self.rows(0, rows if self.spec.rows is None else min(rows, self.spec.rows), which)
        parts = [self.directions(s).W for s in which]
        parts += [truth.features.crow, truth.features.col, truth.features.value, *truth.sources]
        total = hashlib.sha256()
        for part in parts:
            total.update(f"{part.dtype}{tuple(part.shape)}".encode())
            total.update(part.contiguous().numpy().tobytes())
        return total.hexdigest()

    @cached_property
    def _fixed(self) -> SparseFeatures:
        count = -(-(self.spec.rows or 0) // BLOCK)
        return _concatenate([self._draw("features", b) for b in range(count)], self.spec.n)

    def _draw(self, stream: str, block: int) -> SparseFeatures:
        """One block of rows, from its own key."""
        n = self.spec.n
        cells, values = self.spec.law.draw(philox(self.spec.seed, stream, block), BLOCK, n)
        ends = np.searchsorted(cells, np.arange(BLOCK + 1) * n)
        crow, col, value = (torch.from_numpy(part) for part in (ends, cells % n, values.astype(np.float32)))
        return SparseFeatures(crow, col, value, n)

    def _truth(
        self, features: SparseFeatures, stream: str, index: Int[Tensor, " batch"], sources: Sequence[int] | None
    ) -> Truth:
        which = range(len(self.spec.widths)) if sources is None else sources
        made = [features.map(self.directions(s).W.T) for s in which]
        if self.spec.background:
            made = [x + self._around(stream, index, s) for x, s in zip(made, which, strict=True)]
        return Truth(features, tuple(made))

    def _around(self, stream: str, index: Int[Tensor, " batch"], source: int) -> Float[Tensor, "batch width"]:
        """The background of rows; that of a fixed set is kept whole."""
        if stream == "features" and self.spec.rows is not None:
            return self._whole(source)[index]
        blocks, place = torch.unique(index // BLOCK, return_inverse=True)
        drawn = [self._background(stream, b, source) for b in blocks.tolist()]
        return torch.cat(drawn)[place * BLOCK + index % BLOCK]

    def _fixed_background(self, source: int) -> Float[Tensor, "rows width"]:
        count = -(-(self.spec.rows or 0) // BLOCK)
        return torch.cat([self._drawn_background("features", b, source) for b in range(count)])

    def _drawn_background(self, stream: str, block: int, source: int) -> Float[Tensor, "block width"]:
        """The background of one block, each part from its own key."""
        total = np.zeros((BLOCK, width := self.spec.widths[source]), dtype=np.float32)
        for i, part in enumerate(self.spec.background):
            rng = philox(self.spec.seed, f"{stream}/background/{i}/{source}", block)
            total += part.rows(rng, self._world_key(i, source), BLOCK, width, self._energy(source))
        return torch.from_numpy(total)

    def _world_key(self, part: int, source: int) -> np.random.Generator:
        return philox(self.spec.seed, f"background/{part}/{source}")

    def _measured_energy(self, source: int) -> float:
        """The mean of |W_s x|^2 over the first block of rows."""
        return float(self._block("features", 0).map(self.directions(source).W.T).double().square().sum(1).mean())


@lru_cache(maxsize=16)
def _directions(
    n: int, width: int, cap: float, eps: float, lam: float, seed: int, source: int, geometry: tuple[Geometry, ...] = ()
) -> Directions:
    """Directions are remembered per process: many runs share a world."""
    base = feature_directions(n, width, cap, eps=eps, lam=lam, seed=seed, stream=f"directions/{source}")
    if not geometry:
        return base
    W = base.W.double().numpy()
    for i, part in enumerate(geometry):
        W = part.shape(W, philox(seed, f"geometry/{i}/{source}"))
        W = W / np.linalg.norm(W, axis=0)
    moved = torch.from_numpy(W).T.float().contiguous().T
    return Directions(moved, signed_interference(moved), base.steps)


def _concatenate(blocks: Sequence[SparseFeatures], n: int) -> SparseFeatures:
    if not blocks:
        return SparseFeatures(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0), n)
    lengths = torch.cat([block.l0 for block in blocks])
    crow = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return SparseFeatures(crow, torch.cat([b.col for b in blocks]), torch.cat([b.value for b in blocks]), n)

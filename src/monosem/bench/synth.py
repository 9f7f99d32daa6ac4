"""SynthSAEBench-16k: a public synthetic world of 16,384 features in 768 dimensions, drawn exactly and fast on a CPU.

The law is that of Chanin et al. (arXiv 2602.14687). The published world's directions came from a GPU's generator and
cannot be drawn again on a CPU: a world drawn here is a sibling of the same law, and `read_world` reads the published
files where they are at hand.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, DataError, check
from monosem.base.files import read_json
from monosem.base.seeds import philox
from monosem.base.spec import digest
from monosem.bench.world import BLOCK, FeatureLaw, SparseFeatures, Truth
from monosem.core.pairs import FreshRows

FLOOR = 2.2
"""Free features whose threshold lies above this many standard deviations are drawn by gaps, the others one by one."""
TILE = 128  # rows whose thresholds stay in the cache together


@dataclass(frozen=True)
class SynthSpec:
    """The numbers of the world; the defaults are those of SynthSAEBench-16k.

    `roots` trees of `depth` levels below the root, each parent with `branch` children of which at most one fires; the
    other features are free. `scaled`: a child's size is multiplied by its parent's relative size (data version 2; v1
    does not). `directions`: "optimised" takes the benchmark's 100 steps towards orthogonality (four minutes of one
    core, kept on disk afterwards), "random" leaves them out: a variant of its own name.
    """

    n: int = 16_384
    width: int = 768
    seed: int = 42
    roots: int = 128
    branch: int = 4
    depth: int = 3
    exponent: float = 0.5
    p_max: float = 0.4
    p_min: float = 5e-4
    rank: int = 25
    correlation: float = 0.1
    bias_norm: float = 0.5
    scaled: bool = True
    directions: Literal["optimised", "random"] = "optimised"

    def __post_init__(self) -> None:
        check(self.related <= self.n, f"the trees hold {self.related} features, n = {self.n}; lower roots or depth")
        check(0 < self.p_min < self.p_max < 1, f"p_min = {self.p_min}, p_max = {self.p_max}; 0 < p_min < p_max < 1")
        check(self.directions in ("optimised", "random"), f"directions={self.directions!r}; 'optimised' or 'random'")

    @property
    def levels(self) -> tuple[int, ...]:
        """How many features lie on each level of the trees."""
        return tuple(self.roots * self.branch**level for level in range(self.depth + 1))

    @property
    def related(self) -> int:
        """How many features lie in trees: they come before the free ones, level by level."""
        return sum(self.levels)

    @property
    def parents(self) -> int:
        """How many features have children: the first ones; those of q are roots + branch q and the next."""
        return sum(self.levels[:-1])

    @property
    def name(self) -> str:
        """The variant, as reports name it."""
        size = f"{self.n // 1024}k" if self.n % 1024 == 0 else str(self.n)
        short = "" if self.directions == "optimised" else "-random"
        return f"synth-{size}-v{2 if self.scaled else 1}{short}"

    @property
    def nominal(self) -> Float[np.ndarray, " n"]:
        """p_i = p_min + (p_max - p_min) (r^-a - n^-a) / (1 - n^-a) of rank r = i + 1."""
        rank, last = np.arange(1.0, self.n + 1.0) ** -self.exponent, float(self.n) ** -self.exponent
        rates: np.ndarray = self.p_min + (self.p_max - self.p_min) * (rank - last) / (1.0 - last)
        return rates

    @property
    def compensated(self) -> Float[np.ndarray, " n"]:
        """Rates before gating, which allow for a silent parent and for siblings that shut each other out.

        Equation: p'_c = min(1, p_c / p_q (1 + (sum over the siblings of c of p_k) / p_q)) for a child c of q, all
            of nominal rates; p' = p for roots and free features.
        """
        p = self.nominal
        family = p[self.roots : self.related].reshape(self.parents, self.branch)
        parent = p[: self.parents, None]
        rates = p.copy()
        raised = family / parent * (1.0 + (family.sum(1, keepdims=True) - family) / parent)
        rates[self.roots : self.related] = np.minimum(1.0, raised).reshape(-1)
        return rates


@dataclass(frozen=True, eq=False)
class _SynthTensors:
    """What a world draws once: directions [n, width], bias [width], factors F [n, rank], sizes' mu and sigma [n]."""

    directions: Float[Tensor, "n width"]
    bias: Float[Tensor, " width"]
    factors: Float[Tensor, "n rank"]
    mu: Float[Tensor, " n"]
    sigma: Float[Tensor, " n"]


def draw_tensors(spec: SynthSpec) -> _SynthTensors:
    """A world's tensors from CPU generators: seed for directions and bias, seed + 1 for sigma, seed + 4 for factors."""
    own = torch.Generator().manual_seed(spec.seed)
    rows = torch.randn(spec.n, spec.width, generator=own)
    rows = rows / rows.norm(dim=1, keepdim=True)
    bias = torch.randn(spec.width, generator=own)
    factors = spec.correlation * torch.randn(spec.n, spec.rank, generator=torch.Generator().manual_seed(spec.seed + 4))
    if spec.directions == "optimised":
        rows = _kept(spec, lambda: orthogonalised(rows))
    return _SynthTensors(rows, bias * (spec.bias_norm / bias.norm()), _capped(factors), *_sizes(spec))


def _sizes(spec: SynthSpec) -> tuple[Tensor, Tensor]:
    """mu falls from 5 to 4 with the index; sigma = |.5 + .5 N(0, 1)|, drawn once."""
    normals = torch.randn(spec.n, generator=torch.Generator().manual_seed(spec.seed + 1))
    return torch.linspace(5.0, 4.0, spec.n), (0.5 + 0.5 * normals).abs()


def _capped(factors: Tensor) -> Tensor:
    """Rows whose own share 1 - |F_i|^2 would fall below .01 are scaled to |F_i|^2 = .99."""
    squares = factors.square().sum(1, keepdim=True)
    return torch.where(squares > 0.99, factors * (0.99 / squares).sqrt(), factors)


def orthogonalised(rows: Float[Tensor, "n width"], steps: int = 100, lr: float = 3e-4) -> Float[Tensor, "n width"]:
    """Unit rows after some Adam steps towards orthogonality, normalised at the end only.

    Equation: L = sum_{i != j} (v_i . v_j)^2 + n sum_i (|v_i|^2 - 1)^2, whose gradient
        4 (V V'V - |v_i|^2 v_i + n (|v_i|^2 - 1) v_i) costs 4 n d^2 operations, not 6 n^2 d.
    """
    v = rows.clone()
    first, second = torch.zeros_like(v), torch.zeros_like(v)
    for step in range(1, steps + 1):
        squares = v.square().sum(1, keepdim=True)
        gradient = 4.0 * (v @ (v.T @ v) + (len(v) * (squares - 1.0) - squares) * v)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        spread = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
        v.addcdiv_(first, spread, value=-lr / (1 - 0.9**step))
    return torch.nn.functional.normalize(v, dim=1)


def _kept(spec: SynthSpec, make: Callable[[], Tensor]) -> Tensor:
    """Directions that a file holds from an earlier call, or made and kept."""
    from safetensors.torch import load_file, save

    from monosem.base.files import write_atomic
    from monosem.base.machine import cache_folder

    key = digest([spec.n, spec.width, spec.seed, "directions/1"])[:16]
    path = cache_folder() / "synth" / f"{key}.safetensors"
    if path.is_file():
        kept: Tensor = load_file(path)["directions"]
        return kept
    rows = make()
    write_atomic(path, save({"directions": rows}))
    return rows


def read_world(folder: str | Path, *, scaled: bool | None = None) -> "SynthSource":
    """The published world from its folder: synthetic_model.safetensors and hierarchy.json.

    Sizes are not in the files: they are drawn from the seed, as the benchmark does. `scaled`: None takes what the
    hierarchy's nodes say. Raises: DataError when a file is missing or its shapes are not those of the benchmark.
    """
    from safetensors.torch import load_file

    folder, spec = Path(folder), SynthSpec()
    for name in ("synthetic_model.safetensors", "hierarchy.json"):
        check((folder / name).is_file(), f"{folder} has no {name}; give the folder of the published world", DataError)
    tensors = load_file(folder / "synthetic_model.safetensors")
    wanted = {
        "feature_vectors": (spec.n, spec.width),
        "bias": (spec.width,),
        "correlation_factor": (spec.n, spec.rank),
    }
    for name, shape in wanted.items():
        got = tuple(tensors[name].shape) if name in tensors else None
        check(got == shape, f"{folder}: {name} has shape {got}, the benchmark's is {shape}", DataError)
    nodes = read_json(folder / "hierarchy.json")
    if scaled is None:
        scaled = bool(nodes["roots"][0]["scale_children_by_parent"])
    spec = SynthSpec(scaled=scaled)
    directions, bias, factors = (tensors[name].float().contiguous() for name in wanted)
    return SynthSource(spec, _SynthTensors(directions, bias, factors, *_sizes(spec)), "published")


@dataclass(frozen=True, eq=False)
class SynthLaw(FeatureLaw):
    """How the features of a world fire: a Gaussian copula, then trees in which a parent brings at most one child.

    Equation:
        u = F e + sqrt(1 - |F_i|^2) h, e ~ N(0, I_rank), h ~ N(0, I_n); feature i is drawn iff u_i > t_i,
        Pr(u_i > t_i) = p'_i; its size is max(0, mu_i + sigma_i xi). Level by level, a child is silent unless its parent
        is active and it alone was chosen, uniformly, among the drawn siblings; scaled, it is multiplied by z_q / mu_q.
    The trees are drawn from their roots down: given e, latents are independent, so that a subtree below a silent
    parent need not be drawn. The law is exactly that of drawing everything and gating it.
    """

    spec: SynthSpec
    tensors: _SynthTensors

    @cached_property
    def _numbers(self) -> "_Numbers":
        return _Numbers(self.spec, self.tensors)

    def draw(self, rng: np.random.Generator, rows: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Roots, then each level below active parents, then the free features."""
        s = self.spec
        check(n == s.n, f"n = {n}, but this law has {s.n} features; draw all of them")
        c = self._numbers
        e = rng.standard_normal((rows, s.rank), dtype=np.float32)
        u = e @ c.factors[: s.roots].T
        u += c.own[: s.roots] * rng.standard_normal(u.shape, dtype=np.float32)
        row, feature = np.nonzero(u > c.threshold[: s.roots])
        row, feature, size = self._positive(rng, row, feature)
        cells, sizes = [row * n + feature], [size]
        for _ in range(s.depth):
            row, feature, size = self._children(rng, e, row, feature, size)
            cells.append(row * n + feature)
            sizes.append(size)
        row, feature = self._free(rng, e)
        row, feature, size = self._positive(rng, row, feature)
        cells.append(row * n + feature)
        sizes.append(size)
        active, values = np.concatenate(cells), np.concatenate(sizes)
        order = np.argsort(active, kind="stable")
        return active[order], values[order]

    def _positive(self, rng: np.random.Generator, row: np.ndarray, feature: np.ndarray) -> tuple[np.ndarray, ...]:
        """(row, feature, size) of the cells whose raw size is positive."""
        c = self._numbers
        size = c.mu[feature] + c.sigma[feature] * rng.standard_normal(feature.size, dtype=np.float32)
        keep = size > 0
        return row[keep], feature[keep], size[keep]

    def _children(
        self, rng: np.random.Generator, e: np.ndarray, row: np.ndarray, parent: np.ndarray, size: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """The one child that each active parent brings, where any of its children is drawn."""
        s, c = self.spec, self._numbers
        first = s.roots + s.branch * parent
        u = np.einsum("pcf,pf->pc", c.families[parent], e[row])
        child = first[:, None] + np.arange(s.branch)
        u += c.own[child] * rng.standard_normal(u.shape, dtype=np.float32)
        raw = c.mu[child] + c.sigma[child] * rng.standard_normal(u.shape, dtype=np.float32)
        alive = (u > c.threshold[child]) & (raw > 0)
        count = alive.sum(1)
        pick = (rng.random(count.size) * count).astype(np.int64)
        has = count > 0
        which = (alive.cumsum(1) > pick[:, None]).argmax(1)[has]
        at = np.flatnonzero(has)
        value = raw[at, which]
        if s.scaled:
            value = value * (size[at] / c.mu[parent[at]])
        return row[at], child[at, which], value

    def _free(self, rng: np.random.Generator, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Free features: candidates at a low rate by geometric gaps, thinned; likely cells one by one.

        a = (t - F e) / sqrt(1 - |F|^2) is a cell's threshold for its own normal. Where a >= FLOOR, a candidate at rate
        tail(FLOOR) is kept with probability tail(a) / tail(FLOOR); the few others are drawn with probability tail(a).
        """
        s, c = self.spec, self._numbers
        width, rows = s.n - s.related, len(e)
        if not width:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        extended = np.concatenate([e, np.ones((rows, 1), dtype=np.float32)], 1)
        a = np.empty((rows, width), dtype=np.float32)
        likely = []
        for start in range(0, rows, TILE):
            tile = a[start : start + TILE]
            np.matmul(extended[start : start + TILE], c.free, out=tile)
            likely.append(np.flatnonzero(tile.reshape(-1) < FLOOR) + start * width)
        flat, rate = a.reshape(-1), float(_tail(np.array([FLOOR]))[0])
        gaps = rng.geometric(rate, int(flat.size * rate * 1.05) + 200)
        candidate = np.cumsum(gaps) - 1
        while candidate[-1] < flat.size:
            more = candidate[-1] + np.cumsum(rng.geometric(rate, 1000))
            candidate = np.concatenate([candidate, more])
        candidate = candidate[candidate < flat.size]
        high = flat[candidate]
        candidate, high = candidate[high >= FLOOR], high[high >= FLOOR]
        kept = candidate[rng.random(candidate.size) * rate < _tail(high)]
        exceptions = np.concatenate(likely)
        drawn = exceptions[rng.random(exceptions.size) < _tail(flat[exceptions])]
        row, column = np.divmod(np.concatenate([kept, drawn]), width)
        return row, column + s.related


class _Numbers:
    """A law's arrays as numpy wants them, float32."""

    def __init__(self, spec: SynthSpec, tensors: _SynthTensors) -> None:
        factors = tensors.factors.double()
        own = (1.0 - factors.square().sum(1)).sqrt()
        rates = torch.from_numpy(spec.compensated)
        threshold = np.sqrt(2.0) * torch.erfinv(1.0 - 2.0 * rates)
        self.factors = tensors.factors.numpy()
        self.own = own.float().numpy()
        self.threshold = threshold.float().numpy()
        self.mu, self.sigma = tensors.mu.numpy(), tensors.sigma.numpy()
        tree = self.factors[spec.roots : spec.related]
        self.families = np.ascontiguousarray(tree.reshape(spec.parents, spec.branch, spec.rank))
        loose = slice(spec.related, spec.n)
        columns = torch.cat([-factors[loose], threshold[loose, None]], 1) / own[loose, None]
        self.free = np.ascontiguousarray(columns.T.float().numpy())


def _tail(a: Float[np.ndarray, " cells"]) -> Float[np.ndarray, " cells"]:
    """Pr(N(0, 1) > a)."""
    tail: np.ndarray = torch.special.ndtr(torch.from_numpy(-a)).numpy()
    return tail


class SynthSource:
    """An endless stream of a world's rows for `fit`, with its truth: x = sum_i z_i d_i + b, without noise.

    Row r of a stream is a function of (seed, stream, r); `held_out` and `fresh` rows are never trained on. While
    a step runs, another thread draws the next block of training rows.

    Example:
        >>> small = SynthSpec(n=64, width=16, roots=4, branch=2, depth=2, rank=3, directions="random")
        >>> x_p, x_r = SynthSource(small).take(torch.arange(5))
        >>> x_p.shape
        torch.Size([5, 16])
    """

    rows = None

    def __init__(self, spec: SynthSpec, tensors: _SynthTensors | None = None, origin: str = "sibling") -> None:
        self.spec, self.origin = spec, origin
        self.tensors = draw_tensors(spec) if tensors is None else tensors
        self.law = SynthLaw(spec, self.tensors)
        self.p_widths = self.r_widths = (spec.width,)
        self._block = lru_cache(maxsize=4)(self._draw)
        self._next: dict[int, Future[Truth]] = {}

    @cached_property
    def _producer(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "synth")

    @cached_property
    def digest(self) -> str:
        """sha256 of the specification and of the first block's bits."""
        import hashlib

        truth = self.held_out(BLOCK)
        total = hashlib.sha256(digest(self.spec).encode())
        for part in (truth.features.col, truth.features.value, truth.sources[0]):
            total.update(part.contiguous().numpy().tobytes())
        return total.hexdigest()

    @property
    def W_r(self) -> Float[Tensor, "width n"]:
        """True directions, a unit column each."""
        return self.tensors.directions.T

    def take(self, index: Int[Tensor, " batch"]) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch width"]]:
        """Training rows by number."""
        first, block = int(index[0]) if index.numel() else 0, int(index[0]) // BLOCK if index.numel() else 0
        whole = index.numel() == BLOCK and first % BLOCK == 0 and bool((index.diff() == 1).all())
        if not whole:
            return (x := self._rows("train", index).sources[0]), x
        ready = self._next.pop(block, None)
        self._next = {block + 1: self._producer.submit(self._rows, "train", index + BLOCK)}
        x = (ready.result() if ready is not None else self._rows("train", index)).sources[0]
        return x, x

    def held_out(self, rows: int, *, start: int = 0) -> Truth:
        """Rows of the evaluation stream."""
        return self._rows("eval", torch.arange(start, start + rows))

    @cached_property
    def fresh(self) -> FreshRows:
        """Rows of a third stream, for thresholds."""

        def take(index: Tensor) -> tuple[Tensor, Tensor]:
            return (x := self._rows("calibrate", index).sources[0]), x

        return FreshRows(take, self.p_widths, self.r_widths)

    def _rows(self, stream: str, index: Int[Tensor, " batch"]) -> Truth:
        check(
            index.numel() > 0 and int(index.min()) >= 0, "rows are numbered from 0; ask for one or more", ArgumentError
        )
        blocks, place = torch.unique(index // BLOCK, return_inverse=True)
        drawn = [self._block(stream, int(b)) for b in blocks]
        if len(drawn) == 1 and index.numel() == BLOCK and bool((index.diff() == 1).all()):
            features = drawn[0]
        else:
            features = _below(drawn).take(place * BLOCK + index % BLOCK)
        return Truth(features, (features.map(self.tensors.directions) + self.tensors.bias,))

    def _draw(self, stream: str, block: int) -> SparseFeatures:
        n = self.spec.n
        cells, values = self.law.draw(philox(self.spec.seed, f"synth/{stream}", block), BLOCK, n)
        ends = np.searchsorted(cells, np.arange(BLOCK + 1) * n)
        return SparseFeatures(torch.from_numpy(ends), torch.from_numpy(cells % n), torch.from_numpy(values), n)


def _below(blocks: Sequence[SparseFeatures]) -> SparseFeatures:
    """Blocks of rows, one below the other."""
    lengths = torch.cat([block.l0 for block in blocks])
    crow = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    col, value = torch.cat([block.col for block in blocks]), torch.cat([block.value for block in blocks])
    return SparseFeatures(crow, col, value, blocks[0].n)

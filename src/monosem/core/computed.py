"""Dictionaries that are computed: of low rank, one column for several targets, or inside a convex hull."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.base.errors import RefusedError, check
from monosem.base.seeds import philox
from monosem.core.blockmap import BlockMap
from monosem.core.dictionaries import DICTIONARIES, Dictionary
from monosem.core.pairs import Layout


class _Computed(BlockMap):
    """Weights that are a function of other parameters."""

    def __init__(self, layout: Layout) -> None:
        nn.Module.__init__(self)
        self.blocks, self.n_q, self.width = tuple(layout.decoder), layout.n_q, layout.n_r

    @property
    def own(self) -> dict[str, Tensor]:
        """What the weights are made of."""
        return dict(self.named_parameters())


def _drawn(seed: int, stream: str, number: int, like: Tensor) -> Tensor:
    """Standard normal numbers of a shape, by key."""
    draw = philox(seed, stream, number).standard_normal(tuple(like.shape), dtype="float32")
    return torch.from_numpy(draw).to(like)


@DICTIONARIES.register("low_rank")
@dataclass(frozen=True)
class LowRank(Dictionary):
    """W_D of a rank: the columns of a block lie in a subspace that is learned with them.

    Equation: block of W_D^T = A B, A [latents, rank], B [rank, columns]; one pair a block, so that a cross-layer
        transcoder has a subspace of its own for each layer that it reads.
    Source: low-rank decoders of cross-layer transcoders, as trained in 2025 to save memory.
    """

    rank: int = 64

    def __post_init__(self) -> None:
        check(self.rank >= 1, f"rank={self.rank}; it must be at least 1")

    def decoder(self, layout: Layout, encoder: BlockMap) -> BlockMap:
        """Two factors a block."""
        return _Product(layout, self.rank)

    def start(self, decoder: BlockMap, x_r: Float[Tensor, "..."], seed: int) -> None:
        """Random factors."""
        assert isinstance(decoder, _Product)
        for number, (left, right) in enumerate(zip(decoder.left, decoder.right, strict=True)):
            left.copy_(_drawn(seed, "init/decoder/left", number, left))
            right.copy_(_drawn(seed, "init/decoder/right", number, right) / right.shape[1] ** 0.5)


class _Product(_Computed):
    """A B, block by block."""

    def __init__(self, layout: Layout, rank: int) -> None:
        super().__init__(layout)
        shapes = [block.shape for block in self.blocks]
        self.left = nn.ParameterList(nn.Parameter(torch.zeros(latents, rank)) for latents, _ in shapes)
        self.right = nn.ParameterList(nn.Parameter(torch.zeros(rank, columns)) for _, columns in shapes)

    @property
    def weights(self) -> Sequence[Tensor]:  # type: ignore[override]
        """The products."""
        return tuple(a @ b for a, b in zip(self.left, self.right, strict=True))

    @torch.no_grad()
    def scale_rows(self, factors: Float[Tensor, " n_q"]) -> None:
        """Scale the left factors."""
        for block, left in zip(self.blocks, self.left, strict=True):
            left.mul_(factors[block.latents, None])

    @torch.no_grad()
    def set_rows(self, latents: Tensor, rows: Float[Tensor, "k width"]) -> None:
        """The nearest rows in the subspace."""
        for block, left, right in zip(self.blocks, self.left, self.right, strict=True):
            inside = (latents >= block.first) & (latents < block.last)
            nearest = rows[inside, block.columns].to(right) @ torch.linalg.pinv(right)
            left[latents[inside] - block.first] = nearest


@DICTIONARIES.register("tied_targets")
@dataclass(frozen=True)
class TiedTargets(Dictionary):
    """A latent writes one and the same vector to every target that it writes to.

    Equation: block of W_D^T = [V, V, ..., V], V [latents, width], once for each target of the block.
    Source: cross-layer transcoders with tied decoders (CLT-Forge 2026). Needs targets of one width.
    """

    def decoder(self, layout: Layout, encoder: BlockMap) -> BlockMap:
        """One vector a latent."""
        width = layout.r_widths[0]
        if len(layout.r_widths) < 2 or set(layout.r_widths) != {width}:
            raise RefusedError(
                f"targets of widths {layout.r_widths} cannot share a column; several of one width can, as in "
                "'topk_cross_layer' over layers of one network"
            )
        return _Repeated(layout, width)

    def start(self, decoder: BlockMap, x_r: Float[Tensor, "..."], seed: int) -> None:
        """Random vectors."""
        assert isinstance(decoder, _Repeated)
        for number, vectors in enumerate(decoder.vectors):
            vectors.copy_(_drawn(seed, "init/decoder", number, vectors))


class _Repeated(_Computed):
    """[V, ..., V], block by block."""

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__(layout)
        self.one = width
        self.vectors = nn.ParameterList(nn.Parameter(torch.zeros(block.shape[0], width)) for block in self.blocks)

    @property
    def weights(self) -> Sequence[Tensor]:  # type: ignore[override]
        """The vectors, once for each target."""
        pairs = zip(self.blocks, self.vectors, strict=True)
        return tuple(vectors.repeat(1, block.shape[1] // self.one) for block, vectors in pairs)

    @torch.no_grad()
    def scale_rows(self, factors: Float[Tensor, " n_q"]) -> None:
        """Scale the vectors."""
        for block, vectors in zip(self.blocks, self.vectors, strict=True):
            vectors.mul_(factors[block.latents, None])

    @torch.no_grad()
    def set_rows(self, latents: Tensor, rows: Float[Tensor, "k width"]) -> None:
        """The mean over the targets."""
        for block, vectors in zip(self.blocks, self.vectors, strict=True):
            inside = (latents >= block.first) & (latents < block.last)
            parts = rows[inside, block.columns].to(vectors)
            vectors[latents[inside] - block.first] = parts.view(len(parts), block.shape[1] // self.one, self.one).mean(
                1
            )


@DICTIONARIES.register("archetypal")
@dataclass(frozen=True)
class Archetypal(Dictionary):
    """Every column of W_D lies in the convex hull of centroids of the data, up to a bounded drift.

    Equation: W_D[:, j] = sum_c softmax(a_j)_c x_c + min(1, drift / ||l_j||) l_j, with `centroids` points x_c by k-means
        on the sample of x_r that the method is built with; a and l are learned.
    Source: Fel et al. 2025 (relaxed archetypal SAE). Difference: a softmax in place of clipped and normalised weights.
    """

    centroids: int = 256
    drift: float = 1.0
    scales: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.centroids >= 2, f"centroids={self.centroids}; a hull needs at least two")
        check(self.drift >= 0, f"drift={self.drift}; it must be at least 0")

    def decoder(self, layout: Layout, encoder: BlockMap) -> BlockMap:
        """Weights of the centroids, and drifts."""
        return _Hull(layout, self.centroids, self.drift)

    def start(self, decoder: BlockMap, x_r: Float[Tensor, "..."], seed: int) -> None:
        """Centroids of the sample; each column begins near one of them."""
        assert isinstance(decoder, _Hull)
        rng = philox(seed, "init/decoder/centroids")
        rows = x_r if x_r.ndim == 2 else torch.from_numpy(rng.standard_normal((self.centroids, decoder.width)))
        first = torch.from_numpy(rng.choice(rows.shape[0], self.centroids, rows.shape[0] < self.centroids))
        decoder.points.copy_(_k_means(rows.to(decoder.points), first))
        near = torch.from_numpy(rng.integers(self.centroids, size=decoder.n_q)).to(decoder.points.device)
        decoder.logits.copy_(_drawn(seed, "init/decoder", 0, decoder.logits))
        decoder.logits[torch.arange(decoder.n_q, device=near.device), near] += 4.0
        decoder.drifts.zero_()


class _Hull(_Computed):
    """Convex combinations of points, plus drifts of at most a length."""

    def __init__(self, layout: Layout, centroids: int, drift: float) -> None:
        super().__init__(layout)
        self.drift = drift
        self.logits = nn.Parameter(torch.zeros(self.n_q, centroids))
        self.drifts = nn.Parameter(torch.zeros(self.n_q, self.width))
        self.points = nn.Parameter(torch.zeros(centroids, self.width), requires_grad=False)

    @property
    def weights(self) -> Sequence[Tensor]:  # type: ignore[override]
        """The columns, cut into blocks."""
        length = (self.drifts.pow(2).sum(1, keepdim=True) + 1e-24).sqrt()
        rows = self.logits.softmax(1) @ self.points + self.drifts * (self.drift / length).clamp(max=1.0)
        return tuple(rows[block.latents, block.columns] for block in self.blocks)

    def scale_rows(self, factors: Float[Tensor, " n_q"]) -> None:
        """Columns of a hull keep their length."""

    def set_rows(self, latents: Tensor, rows: Float[Tensor, "k width"]) -> None:
        """Raises: RefusedError: a hull holds no column that is not made of the data."""
        raise RefusedError("columns of an archetypal dictionary cannot be set: they lie in the hull of the data")


def _k_means(rows: Float[Tensor, "rows width"], first: Tensor, steps: int = 20) -> Float[Tensor, "points width"]:
    """Lloyd's algorithm from chosen rows; a centroid without rows stays."""
    points = rows[first].clone()
    for _ in range(steps):
        nearest = torch.cdist(rows, points).argmin(1)
        counts = torch.bincount(nearest, minlength=points.shape[0]).to(rows)
        sums = torch.zeros_like(points).index_add_(0, nearest, rows)
        points = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], points)
    return points

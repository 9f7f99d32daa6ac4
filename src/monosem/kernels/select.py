"""Which cells of z = x W^T + bias an activation's rule and a step's requests select: every way, and the choice of one.

z of a whole batch never exists where only some of its cells are carried. A tile is one encoder product into memory that
every tile uses again; what is selected of it leaves with its z. Tiles are latents where the rule ranks z itself and
compiled kernels select, since W then goes through the product once; else rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.selection import Above, Custom, Request, Rule, TopK
from monosem.base.sparse import Positions, SparseCode
from monosem.kernels.density import Counts, crowded, goes_dense, room
from monosem.kernels.fold import (
    SAMPLE,
    BatchFloor,
    Fold,
    Mask,
    Mergeable,
    Score,
    Undecided,
    below,
    cells_of,
    floors_of,
    largest,
    pick,
    positions,
    positions_of,
    strided,
)
from monosem.kernels.gpu.launch import serves
from monosem.kernels.gpu.select import Scan, encode_tops
from monosem.kernels.native.calls import usable
from monosem.kernels.native.certified import Halved, has_bfloat16
from monosem.kernels.precision import in_bfloat16, product
from monosem.kernels.workspace import recycled, workspace

ROWS, COLUMNS = 1024, 2048
"""Rows and latents of a tile of latents."""

TILE = 256
"""Rows of a tile of rows: enough for the product to run at full speed."""

SAMPLE_ROWS, SAMPLE_LATENTS = 32, 2048
"""Rows and latents of a sample of z, at least where there are as many."""


@dataclass(frozen=True, eq=False)
class Product:
    """z = x W^T + bias, not yet computed; W is one weight, or several blocks."""

    x: Float[Tensor, "batch n_p"]
    bias: Float[Tensor, " n_q"]
    blocks: Sequence[Block]
    weights: Sequence[Tensor]

    @property
    def rows(self) -> int:
        """Rows of x."""
        return self.x.shape[0]

    @property
    def n_q(self) -> int:
        """Number of latents."""
        return self.bias.numel()

    @cached_property
    def whole(self) -> bool:
        """Whether one weight holds the encoder of every latent."""
        return len(self.blocks) == 1 and self.blocks[0].shape == (self.n_q, self.x.shape[1])

    def _into(self, out: Tensor, rows: slice, low: bool = False) -> Tensor:
        """z of some rows; `low`: by a product in bfloat16."""
        x = self.x[rows]
        if self.whole:
            product_of = out.copy_(product(x, self.weights[0].T)) if low else torch.mm(x, self.weights[0].T, out=out)
            return product_of.add_(self.bias)
        out.zero_()
        for block, weight in zip(self.blocks, self.weights, strict=True):
            out[:, block.latents].addmm_(x[:, block.columns], weight.T)
        return out.add_(self.bias)

    def tile(self, start: int) -> Float[Tensor, "rows n_q"]:
        """z of a tile of rows, in memory that the next tile uses again."""
        shape = (min(TILE, self.rows - start), self.n_q)
        out = workspace("z", shape, self.x.dtype, self.x.device)
        return self._into(out, slice(start, start + shape[0]))

    def every(self, known: Float[Tensor, "first n_q"] | None = None) -> Float[Tensor, "batch n_q"]:
        """z of every cell; `known` are its first rows."""
        z = recycled((self.rows, self.n_q), self.x)
        start = 0 if known is None else known.shape[0]
        if known is not None:
            z[:start] = known
        self._into(z[start:], slice(start, None), in_bfloat16())
        return z

    def sample(self) -> Float[Tensor, "some_rows some_latents"]:
        """z of some latents, evenly spaced, at some rows, evenly spaced."""
        step = self.sample_step
        some = self.x[:: max(1, self.rows // SAMPLE_ROWS)]
        return (some @ self.weights[0][::step].T).add_(self.bias[::step])

    @property
    def sample_step(self) -> int:
        """Of how many latents a sample takes one."""
        return max(1, self.n_q // SAMPLE_LATENTS)


@dataclass(frozen=True, eq=False)
class Selection:
    """What is selected of a batch: by the activation's rule for the code, and for each TopK request.

    `code` and `extra` hold z at the selected cells, or a mask where these are crowded; `z` is that of every cell where
    it was computed. A `code` of None is a dense one that needs no mask. `fell_back`: the share of rows that a
    bfloat16 product could not decide.
    """

    code: SparseCode | Mask | None
    extra: tuple[SparseCode | Mask, ...]
    z: Float[Tensor, "batch n_q"] | None = None
    fell_back: float | Tensor = 0.0


@dataclass(frozen=True, eq=False)
class _Job:
    """One selection: z of what, by which rule, with which requests."""

    z: Product
    rule: Mergeable
    requests: tuple[TopK, ...]
    score: Score | None
    implicit: bool
    available: tuple[int, ...]

    @property
    def on_z(self) -> bool:
        """Whether the rule ranks z itself, cell by cell or row by row."""
        return self.score is None and not (isinstance(self.rule, TopK) and self.rule.groups > 1)

    def dense(self, known: Tensor | None = None) -> Selection:
        """From z of every cell."""
        z = self.z.every(known)
        if self.implicit and not self.requests:
            return Selection(None, (), z)
        return rank(z, self.rule, self.requests, self.score)

    def settled(self, floor: BatchFloor | None, gather: Callable[[Mergeable], list[SparseCode]]) -> Selection:
        """Pass over the batch, for the largest of a batch until enough of its cells lie above the floor."""
        while True:
            code, *extra = gather(self.rule if floor is None else floor.rule)
            if floor is None:
                return Selection(code, tuple(extra))
            if not floor.was_too_high(code.at.nnz):
                score = code.values if self.score is None else self.score(code.values, code.at)
                return Selection(largest(code, floor.most, score), tuple(extra))

    def floor(self) -> BatchFloor | None:
        """What the largest of a batch lie above; None for other rules."""
        ranks_batch = isinstance(self.rule, Above) and self.rule.most is not None
        return BatchFloor(self.rule, self.z.rows) if ranks_batch and isinstance(self.rule, Above) else None


@torch.no_grad()
def select(
    z: Product,
    rule: Rule,
    requests: Sequence[Request] = (),
    score: Score | None = None,
    *,
    low: bool = False,
    implicit: bool = False,
) -> Selection:
    """The cells of z that a rule and each TopK request select, with their z; an Every request brings z of every cell.

    `score`: what is ranked, where that is not z. `low`: a bfloat16 product may propose, exact float32 values decide.
    `implicit`: what the rule leaves out is zero by itself, so that a dense code needs no mask.
    """
    tops = tuple(request for request in requests if isinstance(request, TopK))
    counts = Counts(z.rows, z.n_q, tuple(_available(request, z.n_q) for request in tops), device=z.x.device.type)
    if isinstance(rule, TopK):
        rule = replace(rule, k=min(rule.k, z.n_q))
    if isinstance(rule, Custom) or goes_dense(rule, requests, counts):
        return Selection(None, (), z.every()) if implicit and not requests else rank(z.every(), rule, tops, score)
    job = _Job(z, rule, tops, score, implicit, counts.available)
    for way in _ways(job, low):
        try:
            return way(job)
        except Undecided:
            continue
    return _by_rows(job)


def _available(request: TopK, n_q: int) -> int:
    return n_q if request.among is None else int(torch.as_tensor(request.among).sum())


def _ways(job: _Job, low: bool) -> list[Callable[[_Job], Selection]]:
    """The ways that these tensors and this rule allow, the fastest first; the last one, by rows, takes all."""
    z = job.z
    if not (z.whole and job.on_z):
        return []
    if serves(z.x, *z.weights):
        return [partial(_on_gpu, low=low) if isinstance(job.rule, TopK) else partial(_scanned, low=low)]
    if not (z.rows and usable(z.x, z.bias, *z.weights)):
        return []
    return [_certified, _by_latents] if low and has_bfloat16() else [_by_latents]


def _on_gpu(job: _Job, low: bool = False) -> Selection:
    """The k largest of every row and every request from one product that is never stored whole."""
    z, n_q = job.z, job.z.n_q
    asked = []
    for rule, available in zip((job.rule, *job.requests), (n_q, *job.available), strict=True):
        assert isinstance(rule, TopK)
        among = None if rule.among is None else torch.as_tensor(rule.among)
        bias = z.bias if among is None else z.bias.masked_fill(~among, -torch.inf)
        asked.append((bias, min(rule.k, available)))
    tops = encode_tops(z.x, z.weights[0], asked, low=low)
    code, *extra = (SparseCode(Positions.from_rows(top.index, n_q), top.value.reshape(-1)) for top in tops)
    redone = torch.stack([top.redone for top in tops]).sum() if low else 0.0
    return Selection(code, tuple(extra), None, redone / (max(z.rows, 1) * len(tops)))


def _scanned(job: _Job, low: bool) -> Selection:
    """On a GPU, what lies above a floor."""
    return _proposed(job, Scan(job.z.weights[0], job.z.bias, low))


def _certified(job: _Job) -> Selection:
    """bfloat16 products propose and exact values decide."""
    return _proposed(job, Halved(job.z.weights[0], job.z.bias))


def _proposed(job: _Job, halved: Halved | Scan) -> Selection:
    """What a pass over the encoder brings. Raises: Undecided where cells are crowded, or NaN."""
    z, floor = job.z, job.floor()
    if floor is not None:
        floor.look(halved.sample(z.x, SAMPLE), z.rows, z.rows * z.n_q)

    def cells(rule: Mergeable) -> SparseCode:
        if isinstance(rule, Above):
            return _decided(halved.above(z.x, floors_of(rule), room(z.rows * z.n_q, z.x.device.type) + 7), z.n_q)
        if rule.among is None:
            return _decided(halved.top(z.x, min(rule.k, z.n_q)), z.n_q)
        return _of_some(z, rule)

    selection = job.settled(floor, lambda rule: [cells(rule), *map(cells, job.requests)])
    return replace(selection, fell_back=halved.fell_back / max(halved.rows, 1))


def _decided(cells: tuple[Tensor, ...] | None, n_q: int) -> SparseCode:
    if cells is None:
        raise Undecided
    return SparseCode(positions_of(cells, n_q), cells[-1].reshape(-1))


def _of_some(z: Product, rule: TopK) -> SparseCode:
    """The largest of some latents, whose z alone is computed."""
    latents, parts = torch.as_tensor(rule.among).nonzero().squeeze(1), []
    weight, bias = z.weights[0].index_select(0, latents), z.bias[latents]
    for start in range(0, z.rows, TILE):
        some = torch.addmm(bias, z.x[start : start + TILE], weight.T)
        at = positions(pick(TopK(rule.k), some))
        parts.append(SparseCode(Positions(at.crow, latents[at.col], z.n_q), cells_of(at, some).values))
    return below(parts)


def _by_latents(job: _Job) -> Selection:
    """One product, latents by latents. Raises: Undecided where a row has fewer numbers (NaN) than are asked for."""
    z, floor = job.z, job.floor()
    if floor is not None:  # few latents may be most of the code: ask for little, then for more
        floor.look(z.sample().reshape(-1), z.rows, z.rows * z.n_q, slack=3.0)
    elif isinstance(job.rule, Above):
        sample, floors = z.sample(), floors_of(job.rule)
        floors = floors[:: z.sample_step] if isinstance(floors, Tensor) else floors
        some = int(torch.count_nonzero(sample > floors))
        counts = Counts(z.rows, z.n_q, (), some, sample.numel(), sample.device.type)
        if goes_dense(job.rule, (), counts):
            return job.dense()

    def gather(rule: Mergeable) -> list[SparseCode]:
        parts: list[list[SparseCode]] = [[] for _ in (rule, *job.requests)]
        for start in range(0, z.rows, ROWS):
            rows = z.x[start : start + ROWS]
            folds = [Fold(each, rows.shape[0], z.n_q, z.bias) for each in (rule, *job.requests)]
            for first in range(0, z.n_q, COLUMNS):
                some = z.weights[0][first : first + COLUMNS]
                out = workspace("z", (rows.shape[0], some.shape[0]), z.x.dtype, z.x.device)
                torch.mm(rows, some.T, out=out)
                for fold in folds:
                    fold.update(out, first)
            for part, fold in zip(parts, folds, strict=True):
                part.append(fold.finish())
        return [below(part) for part in parts]

    return job.settled(floor, gather)


def _by_rows(job: _Job) -> Selection:
    """Tile by tile of rows, by any rule on any device; the first tile says whether the code is dense."""
    z, floor = job.z, job.floor()
    head = z.tile(0)
    score = head if job.score is None else job.score(head, None)
    if floor is not None:
        floor.look(strided(score), score.shape[0], score.numel())
    if isinstance(job.rule, Above):
        bar = job.rule.floor if floor is None else floor.floor
        some = int(torch.count_nonzero(torch.gt(score, bar)))
        counts = Counts(z.rows, z.n_q, (), some, score.numel(), score.device.type)
        if goes_dense(job.rule, (), counts):
            return job.dense(head)
    first: Tensor | None = head

    def gather(rule: Mergeable) -> list[SparseCode]:
        nonlocal first
        parts: list[list[SparseCode]] = [[] for _ in (rule, *job.requests)]
        rule = rule if isinstance(rule, TopK) else Above(rule.floor)
        for start in range(0, max(z.rows, 1), TILE):
            tile = z.tile(start) if first is None or start else first
            first = first if z.rows <= TILE else None  # the next tile takes its memory
            score = tile if job.score is None else job.score(tile, None)
            for part, each in zip(parts, (rule, *job.requests), strict=True):
                part.append(cells_of(positions(pick(each, score)), tile))
        return [below(part) for part in parts]

    return job.settled(floor, gather)


@torch.no_grad()
def rank(
    z: Float[Tensor, "batch n_q"], rule: Rule, requests: Sequence[TopK] = (), score: Score | None = None
) -> Selection:
    """The same from z of every cell; whatever is sparse in itself stays sparse."""
    ranked = z if score is None else score(z, None)
    code, *extra = (carried(pick(each, ranked), z) for each in (rule, *requests))
    return Selection(code, tuple(extra), z)


def carried(chosen: Positions | Mask, z: Tensor) -> SparseCode | Mask:
    """Cells one by one where they are few, else as a mask."""
    if isinstance(chosen, Positions):
        return chosen.mask() if crowded(chosen.nnz, z.numel(), z.device.type) else cells_of(chosen, z)
    few = not crowded(int(torch.count_nonzero(chosen)), z.numel(), z.device.type)
    return cells_of(Positions.from_mask(chosen), z) if few else chosen

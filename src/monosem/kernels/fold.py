"""Selection as a fold: init, update with some latents' z, merge with what was selected of other latents, finish.

`merge` is exact: merged selections of disjoint sets of latents are the selection of all of them, ties included (the
lower latent in a row; for the largest of a batch, row by row). A tile, a row that was computed again and another
process's latents all enter by that door.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import check
from monosem.base.selection import Above, Custom, Rule, TopK
from monosem.base.sparse import Positions, SparseCode
from monosem.kernels.density import room
from monosem.kernels.native.calls import usable
from monosem.kernels.native.select import AboveFloor, Tops, above, kth_largest
from monosem.kernels.ranking import top_index

Score = Callable[[Tensor, Positions | None], Tensor]
"""What is ranked, of z at some cells (None: at every cell)."""

Mask = Bool[Tensor, "batch n_q"]


Mergeable = TopK | Above
"""Rules whose selections from disjoint sets of latents merge."""


class Undecided(Exception):
    """A row holds fewer numbers than are asked for (NaN), or bfloat16 cannot tell: a plainer way must select."""


class Fold:
    """The cells that one rule selects of z, which comes latents by latents; `bias` is added to what comes."""

    def __init__(self, rule: Mergeable, rows: int, n_q: int, bias: Float[Tensor, " n_q"] | None = None) -> None:
        assert isinstance(rule, Above) or rule.groups == 1, "a group's latents would be torn apart"
        self.rule, self.rows, self.n_q, self.bias = rule, rows, n_q, bias
        self._stream: Tops | AboveFloor | None = None
        self._parts: list[SparseCode] = []

    def update(self, z: Float[Tensor, "rows some"], first: int = 0) -> None:
        """Take the next latents: z[:, i] is latent first + i, of every row."""
        if usable(z):
            self._stream = self._stream or _stream(self.rule, self.rows, self.n_q, self.bias)
            self._stream.see(z, first)
            return
        here = slice(first, first + z.shape[1])
        z = z if self.bias is None else z + self.bias[here]
        at = positions(pick(_inside(self.rule, here), z))
        cells = cells_of(at, z)
        self._parts.append(SparseCode(Positions(at.crow, at.col + first, self.n_q), cells.values))

    def merge(self, other: "Fold") -> None:
        """Take what another fold has of the same rows and other latents. Raises: Undecided."""
        self._parts.append(other.finish())

    def finish(self) -> SparseCode:
        """The selected cells of all latents, row by row, with their z. Raises: Undecided."""
        if self._stream is not None:
            cells, self._stream = self._stream.found(), None
            if cells is None:
                raise Undecided
            self._parts.append(SparseCode(positions_of(cells, self.n_q), cells[-1].reshape(-1)))
        self._parts = [merge(self.rule, self._parts)]
        return self._parts[0]


def _stream(rule: Mergeable, rows: int, n_q: int, bias: Tensor | None) -> Tops | AboveFloor:
    if isinstance(rule, Above):
        return AboveFloor(floors_of(rule), bias, rule.most)
    latents = None if rule.among is None else _mask(rule).nonzero().squeeze(1)
    return Tops(rows, min(rule.k, n_q if latents is None else latents.numel()), latents, bias)


def _inside(rule: Mergeable, here: slice) -> Mergeable:
    """A rule for some neighbouring latents."""
    if isinstance(rule, TopK):
        return TopK(rule.k, None if rule.among is None else _mask(rule)[here])
    floor = rule.floor
    several = isinstance(floor, Tensor) and floor.numel() > 1
    return Above(floor.reshape(-1)[here]) if several and isinstance(floor, Tensor) else rule


def merge(rule: Mergeable, parts: Sequence[SparseCode], score: Score | None = None) -> SparseCode:
    """The selection from all latents, out of the selections from disjoint sets of them.

    `parts` hold z at the cells that the same rule selects of the same rows and their own latents, numbered as in the
    whole; the rule ranks z, or its `score`.
    """
    every = parts[0] if len(parts) == 1 else _side_by_side(parts)
    if len(parts) == 1 and (isinstance(rule, TopK) or rule.most is None):
        return every
    ranked = every.values if score is None else score(every.values, every.at)
    if isinstance(rule, TopK):
        return subset(every, _among_largest(every.at, ranked, rule))
    return every if rule.most is None else largest(every, rule.most, ranked)


def largest(cells: SparseCode, most: int, score: Float[Tensor, " nnz"]) -> SparseCode:
    """The `most` cells of largest score, ties in the order of the cells; all of them where they are fewer."""
    if score.numel() <= most:
        return cells
    if most == 0:
        return subset(cells, torch.zeros_like(score, dtype=torch.bool))
    least = kth(score, most)
    chosen, tied = score > least, score == least
    return subset(cells, chosen | (tied & (tied.cumsum(0) <= most - int(chosen.sum()))))


def kth(score: Float[Tensor, " n"], k: int) -> float:
    """The k-th largest of some numbers, 1 <= k <= n."""
    return kth_largest(score, k) if usable(score) else float(score.topk(k, sorted=False).values.amin())


def pick(rule: Rule, score: Float[Tensor, "batch n_q"]) -> Positions | Mask:
    """The cells that a rule selects of scores that are all there; a mask where those above a floor may be crowded."""
    if isinstance(rule, Custom):
        chosen = rule.select(score)
        if isinstance(chosen, Positions):
            chosen.verify()
        return chosen
    if isinstance(rule, TopK):
        return _top(score, rule)
    return _above(score, rule) if rule.most is None else _top_of_batch(score, rule)


def _top(score: Tensor, rule: TopK) -> Positions:
    batch, n_q = score.shape
    if rule.among is not None:
        latents = _mask(rule).nonzero().squeeze(1)
        return Positions.from_rows(top_index(score, min(rule.k, latents.numel()), latents), n_q)
    if rule.groups == 1:
        return Positions.from_rows(top_index(score, min(rule.k, n_q)), n_q)
    size, rest = divmod(n_q, rule.groups)
    check(rest == 0, f"n_q={n_q} latents do not split into k={rule.groups} equal groups; make n_q a multiple of k")
    most = min(rule.k, size)
    index = top_index(score.reshape(batch * rule.groups, size), most).view(batch, rule.groups, most)
    first = torch.arange(rule.groups, device=score.device)[:, None] * size
    return Positions.from_rows((index + first).reshape(batch, rule.groups * most), n_q)


def _above(score: Tensor, rule: Above, all_of_them: bool = False) -> Positions | Mask:
    if usable(score) and score.shape[0]:
        cells = above(score, floors_of(rule), None if all_of_them else room(score.numel(), score.device.type))
        if cells is not None:
            return positions_of(cells, score.shape[1])
    mask = score > rule.floor
    return Positions.from_mask(mask) if all_of_them else mask


class BatchFloor:
    """A floor under the largest of a batch, so that only what lies above it need be kept.

    It is guessed from a sample of the cells, with slack. Where fewer than `most` cells lie above it, it was too high:
    it falls by half, in the end to the rule's own floor, and the batch comes again.
    """

    def __init__(self, rule: Above, rows: int) -> None:
        assert rule.most is not None
        assert isinstance(rule.floor, float)
        self.most, self.rows, self._base, self.floor = rule.most, rows, rule.floor, rule.floor

    @property
    def rule(self) -> Above:
        """What a pass over the batch selects by."""
        return Above(self.floor, self.most)

    def look(self, sample: Float[Tensor, " some"], rows: int, cells: int, slack: float = 1.3) -> None:
        """Guess from a sample of the cells of some rows, so that `slack` times too many are above the floor."""
        share = self.most * rows / max(self.rows, 1) * sample.numel() / max(cells, 1)
        expected = min(sample.numel(), int(slack * share) + 32)
        guess = kth(sample, expected) if expected else self._base
        self.floor = max(self._base, guess) if math.isfinite(guess) else self._base  # half of infinity is infinite

    def was_too_high(self, kept: int) -> bool:
        """Whether a pass kept too few cells; the floor is lower then."""
        if kept >= self.most or self.floor <= self._base:
            return False
        height = self.floor - self._base
        self.floor = self._base + 0.5 * height if height > 1e-6 else self._base
        return True


SAMPLE = 65536
"""Cells of a tile that a floor is guessed from."""


def strided(score: Float[Tensor, "rows n_q"]) -> Float[Tensor, " some"]:
    """About SAMPLE of the cells, evenly spaced."""
    flat = score.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE)]


def _top_of_batch(score: Tensor, rule: Above) -> Positions:
    if not rule.most or not score.numel():
        return Positions.from_mask(torch.zeros_like(score, dtype=torch.bool))
    floor = BatchFloor(rule, score.shape[0])
    floor.look(strided(score), score.shape[0], score.numel())
    while True:
        cells = cells_of(positions(_above(score, Above(floor.floor), all_of_them=True)), score)
        if not floor.was_too_high(cells.at.nnz):
            return largest(cells, floor.most, cells.values).at


def positions(chosen: Positions | Mask) -> Positions:
    """The cells one by one."""
    return chosen if isinstance(chosen, Positions) else Positions.from_mask(chosen)


def floors_of(rule: Above) -> Tensor | float:
    """One floor for all latents, or one each."""
    if not isinstance(rule.floor, Tensor):
        return rule.floor
    return float(rule.floor) if rule.floor.numel() == 1 else rule.floor.reshape(-1).contiguous()


def cells_of(at: Positions, z: Float[Tensor, "rows n_q"]) -> SparseCode:
    """z at some cells."""
    return SparseCode(at, z.reshape(-1)[at.row * z.shape[1] + at.col])


def subset(cells: SparseCode, chosen: Bool[Tensor, " nnz"]) -> SparseCode:
    """Some of the cells."""
    return SparseCode(cells.at.subset(chosen), cells.values[chosen])


def below(parts: Sequence[SparseCode]) -> SparseCode:
    """Tiles of rows, one below the other."""
    if len(parts) == 1:
        return parts[0]
    return SparseCode(Positions.below([part.at for part in parts]), torch.cat([part.values for part in parts]))


def _mask(rule: TopK) -> Tensor:
    assert isinstance(rule.among, Tensor), "which latents are dead is known by now"
    return rule.among


def positions_of(cells: tuple[Tensor, ...], n_q: int) -> Positions:
    """Of (columns, z), as many in each row, or of (cells per row, columns, z)."""
    if len(cells) == 2:
        return Positions.from_rows(cells[0], n_q)
    crow = torch.zeros(cells[0].numel() + 1, dtype=torch.int64, device=cells[0].device)
    torch.cumsum(cells[0], 0, out=crow[1:])
    return Positions(crow, cells[1], n_q)


def _side_by_side(parts: Sequence[SparseCode]) -> SparseCode:
    """The cells of disjoint sets of latents, row by row, latents ascending."""
    n_q = parts[0].n_q
    cell = torch.cat([part.at.row * n_q + part.at.col for part in parts])
    order = torch.argsort(cell)
    crow = torch.stack([part.at.crow for part in parts]).sum(0)
    at = Positions(crow, cell[order] % max(n_q, 1), n_q)
    return SparseCode(at, torch.cat([part.values for part in parts])[order])


def _among_largest(at: Positions, score: Tensor, rule: TopK) -> Bool[Tensor, " nnz"]:
    """Which cells are among the k largest of their row (of their group in it); cells lie row by row."""
    run = at.row * rule.groups + torch.div(at.col * rule.groups, max(at.n_q, 1), rounding_mode="floor")
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(run[order], stable=True)]
    counts = torch.bincount(run, minlength=at.batch * rule.groups)
    place = torch.arange(run.numel(), device=run.device) - (counts.cumsum(0) - counts)[run[order]]
    chosen = torch.zeros_like(run, dtype=torch.bool)
    chosen[order] = place < rule.k
    return chosen

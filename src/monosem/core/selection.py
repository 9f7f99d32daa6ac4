"""What is selected of a batch's pre-activations: requests of loss terms, and the rankings they share."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.kernels.native.calls import usable
from monosem.kernels.native.select import above, kth_largest
from monosem.kernels.ranking import top_index

DENSE_ABOVE = 1 / 16
"""Share of cells above which a code is dense: matrix products then cost no more than gathered rows (docs/adr/0003)."""


@dataclass(frozen=True)
class Top:
    """The k largest scores of each row; among the dead latents only, if `dead`."""

    k: int
    dead: bool = False


@dataclass(frozen=True)
class Every:
    """Every cell (dense)."""


Request = Top | Every


@dataclass(frozen=True)
class Largest:
    """The k largest of each row."""

    k: int


@dataclass(frozen=True, eq=False)
class Above:
    """Everything above a floor: one for all cells, or one per latent; with `most`, only so many of a batch matter."""

    floor: float | Tensor
    most: int | None = None


Rule = Largest | Above


def top_of_row(score: Float[Tensor, "batch n_q"], k: int, among: Bool[Tensor, " n_q"] | None = None) -> Positions:
    """The min(k, available) largest scores of each row, among the latents of a mask; in no order within a row."""
    n_q = score.shape[1]
    if among is None:
        return Positions.from_rows(top_index(score, min(k, n_q)), n_q)
    latents = among.nonzero().squeeze(1)
    return Positions.from_rows(top_index(score, min(k, latents.numel()), latents), n_q)


def cells_above(
    score: Float[Tensor, "batch n_q"], floor: float | Float[Tensor, "..."], all_of_them: bool = False
) -> Positions | Bool[Tensor, "batch n_q"]:
    """The cells whose score is above a floor (one for all, or one per latent); a mask where they are many."""
    n_q = score.shape[1]
    if usable(score):
        floors = floor.reshape(-1).contiguous() if isinstance(floor, Tensor) else floor
        floors = float(floors) if isinstance(floors, Tensor) and floors.numel() == 1 else floors
        room = score.numel() if all_of_them else int(DENSE_ABOVE * score.numel()) + 1
        found = above(score, floors, room)
        if found is not None:
            crow = torch.zeros(score.shape[0] + 1, dtype=torch.int64)
            torch.cumsum(found[0], 0, out=crow[1:])
            return Positions(crow, found[1], n_q)
    mask = score > floor
    return Positions.from_mask(mask) if all_of_them else mask


def _least(score: Float[Tensor, " n"], k: int) -> float:
    """The k-th largest."""
    if usable(score):
        return kth_largest(score, k)
    return float(score.topk(k, sorted=False).values.amin())


SAMPLE = 65536
"""Cells of a tile that a floor is guessed from."""


class BatchFloor:
    """The `count` largest positive scores of a batch that comes in tiles of rows, exactly.

    A floor is guessed from a strided sample of the first tile, with slack; only scores above it are kept, and the
    largest of those are the batch's if they are at least `count`. If they are not, the floor was too high: it is
    halved, in the end to 0, and the batch comes again.
    """

    def __init__(self, count: int, batch: int) -> None:
        self.count, self.batch, self.floor = count, batch, 0.0
        self.guessed = False

    def update(self, score: Float[Tensor, "rows n_q"]) -> Positions:
        """The cells of a tile that may be among the largest."""
        if not self.guessed:
            flat = score.reshape(-1)
            self.look(flat[:: max(1, flat.numel() // SAMPLE)], score.shape[0], score.numel())
        kept = cells_above(score, self.floor, all_of_them=True)
        assert isinstance(kept, Positions)
        return kept

    def look(self, sample: Float[Tensor, " some"], rows: int, cells: int, slack: float = 1.3) -> None:
        """Guess the floor from a sample of the cells of some rows, so that `slack` times too many are above it."""
        share = self.count * rows / max(self.batch, 1) * sample.numel() / max(cells, 1)
        expected = min(sample.numel(), int(slack * share) + 32)
        self.floor = max(0.0, _least(sample, expected)) if expected else 0.0
        self.guessed = True

    def finish(self, score: Float[Tensor, " nnz"]) -> Tensor | Literal["all", "again"]:
        """Which of the kept cells are selected."""
        if score.numel() < self.count and self.floor > 0:
            self.floor = 0.5 * self.floor if self.floor > 1e-6 else 0.0
            return "again"
        if score.numel() <= self.count:
            return "all"
        least = _least(score, self.count)
        chosen, tied = score > least, score == least
        return chosen | (tied & (tied.cumsum(0) <= self.count - int(chosen.sum())))


def top_of_batch(score: Float[Tensor, "batch n_q"], count: int) -> Positions:
    """The `count` largest positive scores of the whole batch, exactly."""
    if min(count, score.numel()) == 0:
        return Positions.from_mask(torch.zeros_like(score, dtype=torch.bool))
    fold = BatchFloor(count, score.shape[0])
    kept = fold.update(score)
    chosen = fold.finish(score[kept.row, kept.col])
    while isinstance(chosen, str) and chosen == "again":
        kept = fold.update(score)
        chosen = fold.finish(score[kept.row, kept.col])
    return kept.subset(chosen) if isinstance(chosen, Tensor) else kept

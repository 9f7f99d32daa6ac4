"""Ranking by a floor: only entries that may be among a row's k largest are kept, in one pass over the scores.

The floor is an entry of a sample of the row's columns, so ranked that about a few k entries reach it. Whether it
was low enough (at least k entries reached it) and high enough (no more than there is room for) is counted, so a
misleading sample costs time and never a wrong result.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.kernels.gpu.cells import power_of_two
from monosem.kernels.gpu.launch import interpreted, launch

COLUMNS = 128
"""Columns of a tile of a fused product."""

_STRIDE = 16


@dataclass(frozen=True)
class Plan:
    """The sample is every `stride`-th column, the floor its `rank`-th largest entry; a row has room for `capacity`.

    Equation: rank r with r stride - 4 stride sqrt(r) >= k: four deviations of the count of entries above the
        floor, were the columns in random order; capacity: six deviations above its mean, as many times more as normal
        entries above a floor that lies 2 `reach` deviations lower.
    """

    stride: int
    rank: int
    capacity: int

    @staticmethod
    def of(n: int, k: int, reach: float = 0.0) -> "Plan | None":
        """The plan for the k largest of n, known to within `reach` deviations; None where a floor saves nothing."""
        rank, normal = math.ceil((2 + math.sqrt(4 + k / _STRIDE)) ** 2), NormalDist()
        mean = _STRIDE * rank
        if k == 0 or 2 * mean > n:
            return None
        more = n / mean * normal.cdf(normal.inv_cdf(mean / n) + 2 * reach)
        capacity = 128 * math.ceil(more * (mean + 6 * _STRIDE * math.sqrt(rank)) / 128)
        return Plan(_STRIDE, rank, capacity) if 2 * capacity <= n else None


@dataclass(frozen=True, eq=False)
class Reach:
    """How far an entry may lie from what is meant, given how it was computed.

    Equation: last (|entry| + |bias|) + x[row, 0] w[column, 0] + x[row, 1] w[column, 1].
    """

    x: Float[Tensor, "batch 2"]
    w: Float[Tensor, "n 2"]
    last: float

    def of(self, entry: Float[Tensor, "batch m"], bias: Tensor, column: Tensor | slice) -> Float[Tensor, "batch m"]:
        """The reach of entries at some columns, [m] or one list per row."""
        w = self.w[column]
        return self.last * (entry.abs() + bias.abs()) + self.x[:, :1] * w[..., 0] + self.x[:, 1:] * w[..., 1]


@dataclass(frozen=True, eq=False)
class Kept:
    """Entries that may reach their row's floor: value, column, and how many there were, by split of the columns.

    Shapes: value and column [batch, splits * capacity], count [batch, splits]; of a split only the first
        min(count, capacity) places hold anything.
    """

    floor: Float[Tensor, " batch"]
    value: Float[Tensor, "batch room"]
    column: Int[Tensor, "batch room"]
    count: Int[Tensor, "batch splits"]

    @staticmethod
    def start(floor: Float[Tensor, " batch"], capacity: int, splits: int = 1) -> "Kept":
        """Nothing kept yet."""
        shape = (floor.numel(), capacity * splits)
        column = torch.zeros(shape, dtype=torch.int32, device=floor.device)
        count = torch.zeros(shape[0], splits, dtype=torch.int32, device=floor.device)
        return Kept(floor.contiguous(), floor.new_empty(shape), column, count)

    @property
    def capacity(self) -> int:
        """Places of one row in one split."""
        return self.value.shape[1] // self.count.shape[1]

    def take(self, score: Tensor, first: int, bias: Tensor | None = None, reach: Reach | None = None) -> None:
        """Look through neighbouring columns of scores (neighbours in memory, without bias), from column `first` on."""
        batch, columns = score.shape
        none = self.floor  # stands for an argument that the program does not read
        launch(
            "keep", (batch,), score, score.stride(0), none if bias is None else bias, self.floor,
            none if reach is None else reach.x, none if reach is None else reach.w,
            self.value, self.column, self.count, columns, first, self.capacity,
            WIDTH=power_of_two(columns, 2048), BIAS=bias is not None, ERROR=reach is not None,
            LAST=reach.last if reach else 0.0,
        )  # fmt: skip

    def take_product(self, x: Tensor, weight: Tensor, bias: Tensor, reach: Reach | None = None) -> None:
        """Look through x W^T + bias of all columns, tile by tile, without storing it (float32 or fp16)."""
        (batch, width), n_q = x.shape, weight.shape[0]
        low = x.dtype == torch.float16
        rows, depth = (128, 64) if low else (64, 32)
        none = self.floor
        tiles = -(-n_q // (COLUMNS * self.count.shape[1]))
        launch(
            "keep_product", (-(-batch // rows), self.count.shape[1]), x, x.stride(0), weight, weight.stride(0), bias,
            self.floor, none if reach is None else reach.x, none if reach is None else reach.w,
            self.value, self.column, self.count, batch, n_q, width, tiles, self.capacity,
            ROWS=rows, COLUMNS=COLUMNS, DEPTH=depth, ERROR=reach is not None, LAST=reach.last if reach else 0.0,
            UPCAST=low and interpreted(), warps=8,
        )  # fmt: skip

    @property
    def held(self) -> Bool[Tensor, "batch room"]:
        """Which places hold an entry."""
        place = torch.arange(self.capacity, device=self.count.device)
        return (place < self.count[..., None]).flatten(1)

    def enough(self, k: int) -> Bool[Tensor, " batch"]:
        """Rows of which at least k entries reached the floor, and all that did found room."""
        return (self.count.sum(1) >= k) & (self.count <= self.capacity).all(1)

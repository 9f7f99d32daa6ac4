"""Select from a product latents by latents: W goes through it once, and its z is used while it lies in the caches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.core.selection import DENSE_ABOVE, Above, Largest, Rule
from monosem.kernels.native.select import AboveFloor, Tops
from monosem.kernels.workspace import workspace

ROWS, COLUMNS = 1024, 2048
"""Rows and latents of a tile."""

SAMPLE_ROWS, _SAMPLE_LATENTS = 32, 2048


@dataclass(frozen=True, eq=False)
class Ranked:
    """The min(k, available) largest of each row, among the latents of a mask (None: all)."""

    k: int
    among: Bool[Tensor, " n_q"] | None


def step_of_sample(n_q: int) -> int:
    """Of how many latents a sample takes one."""
    return max(1, n_q // _SAMPLE_LATENTS)


def floors_of(rule: Above) -> Tensor | float:
    """One floor for all latents, or one each."""
    if not isinstance(rule.floor, Tensor):
        return rule.floor
    return float(rule.floor) if rule.floor.numel() == 1 else rule.floor.reshape(-1).contiguous()


def crowded(rule: Above, sample: Float[Tensor, "rows latents"]) -> bool:
    """Whether a rule carries more than DENSE_ABOVE of a sample's cells."""
    floors = floors_of(rule)
    if isinstance(floors, Tensor):
        floors = floors[:: step_of_sample(floors.numel())]
    return int(torch.count_nonzero(sample > floors)) > DENSE_ABOVE * sample.numel()


def _stream(wish: Rule | Ranked, rows: int, bias: Tensor) -> Tops | AboveFloor:
    if isinstance(wish, Above):
        return AboveFloor(floors_of(wish), bias, wish.most)
    latents = None if isinstance(wish, Largest) or wish.among is None else wish.among.nonzero().squeeze(1)
    return Tops(rows, min(wish.k, bias.numel() if latents is None else latents.numel()), latents, bias)


def select_by_columns(
    x: Float[Tensor, "batch n_p"],
    weight: Float[Tensor, "n_q n_p"],
    bias: Float[Tensor, " n_q"],
    wishes: Sequence[Rule | Ranked],
) -> list[tuple[Positions, Float[Tensor, " nnz"]]] | None:
    """The cells of z = x W^T + bias that each wish selects, and z there; None where a row has too few numbers (NaN)."""
    n_q = bias.numel()
    parts: list[list[tuple[Positions, Tensor]]] = [[] for _ in wishes]
    for start in range(0, x.shape[0], ROWS):
        rows = x[start : start + ROWS]
        streams = [_stream(wish, rows.shape[0], bias) for wish in wishes]
        for first in range(0, n_q, COLUMNS):
            some = weight[first : first + COLUMNS]
            z = torch.mm(rows, some.T, out=workspace("z", (rows.shape[0], some.shape[0]), x.dtype, x.device))
            for stream in streams:
                stream.see(z, first)
        for part, stream in zip(parts, streams, strict=True):
            found = stream.found()
            if found is None:
                return None
            part.append((positions(found, n_q), found[-1].reshape(-1)))
    return [(Positions.below([at for at, _ in part]), torch.cat([z for _, z in part])) for part in parts]


def positions(found: tuple[Tensor, ...], n_q: int) -> Positions:
    """Of (columns, z) as many in each row, or of (cells per row, columns, z)."""
    if len(found) == 2:
        return Positions.from_rows(found[0], n_q)
    crow = torch.zeros(found[0].numel() + 1, dtype=torch.int64)
    torch.cumsum(found[0], 0, out=crow[1:])
    return Positions(crow, found[1], n_q)

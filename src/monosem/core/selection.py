"""What is selected of a batch's pre-activations: requests of loss terms, and the rankings they share."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.kernels.ranking import top_index

__all__ = ["Every", "Request", "Top", "top_of_batch", "top_of_row"]


@dataclass(frozen=True)
class Top:
    """The k largest scores of each row; among the dead latents only, if `dead`."""

    k: int
    dead: bool = False


@dataclass(frozen=True)
class Every:
    """Every cell (dense)."""


Request = Top | Every


def top_of_row(score: Float[Tensor, "batch n_q"], k: int, among: Bool[Tensor, " n_q"] | None = None) -> Positions:
    """The min(k, available) largest scores of each row, among the latents of a mask; in no order within a row."""
    n_q = score.shape[1]
    if among is None:
        return Positions.from_rows(top_index(score, min(k, n_q)), n_q)
    latents = among.nonzero().squeeze(1)
    index = top_index(score.index_select(1, latents), min(k, latents.numel()))
    return Positions.from_rows(latents[index], n_q)


def top_of_batch(score: Float[Tensor, "batch n_q"], count: int) -> Positions:
    """The `count` largest positive scores of the whole batch, exactly.

    A floor that at least `count` scores exceed is found from a strided sample; only what lies above
    it is ranked. When the sample misleads, everything positive is ranked: same result, more work.
    """
    flat = score.reshape(-1)
    count = min(count, flat.numel())
    if count == 0:
        return Positions.from_mask(torch.zeros_like(score, dtype=torch.bool))
    stride = max(1, flat.numel() // 65536)
    sample = flat[::stride]
    expected = min(sample.numel(), int(1.3 * count / stride) + 32)
    floor = sample.topk(expected, sorted=False).values.amin().clamp(min=0.0)
    mask = score > floor
    candidates = Positions.from_mask(mask)
    if candidates.nnz < count and floor > 0:
        candidates = Positions.from_mask(score > 0)
    if candidates.nnz <= count:
        return candidates
    values = score[candidates.row, candidates.col]
    chosen = torch.zeros(candidates.nnz, dtype=torch.bool, device=score.device)
    chosen[values.topk(count, sorted=False).indices] = True
    return candidates.subset(chosen)

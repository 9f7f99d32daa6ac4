"""The k largest of each row, by whichever exact way is cheapest for the shape."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.kernels.gpu import select
from monosem.kernels.gpu.launch import serves
from monosem.kernels.native.calls import usable
from monosem.kernels.native.select import top

STRIDE = 16
"""Columns per group in the two-stage ranking."""


def top_index(
    score: Float[Tensor, "batch n"], k: int, among: Int[Tensor, " m"] | None = None
) -> Int[Tensor, "batch k"]:
    """Columns of the k largest entries of each row, ties to the lower column; their order within a row is not defined.

    `among`: only these columns are ranked. Compiled where the kernels are at hand; else three exact ways on the CPU,
    chosen by shape alone. Small k: the k groups of largest maximum hold the k largest entries, so only those are
    ranked. Large k: the k-th value by partition, then everything at or above it (rows with ties there go the plain
    way). Else, and on other devices, torch.topk. (On a GPU it is not defined which of equal entries are taken.)
    """
    if k and usable(score):
        chosen = top(score, k, among)
        if chosen is not None:
            return chosen[0]
    if among is not None:
        return among[top_index(score.index_select(1, among), k)]
    if serves(score):
        return select.top_index(score, k)
    return _plainly(score, k)


def _plainly(score: Tensor, k: int) -> Tensor:
    n = score.shape[1]
    if score.is_cuda or k == 0 or k == n or score.shape[0] == 0:
        return score.topk(k, dim=1, sorted=False).indices
    if 128 * k >= n and score.dtype in (torch.float32, torch.float64):
        return _lower_of_ties(score, _by_partition(score, k))
    if n % STRIDE == 0 and k * STRIDE * 4 <= n:
        return _lower_of_ties(score, _by_groups(score, k))
    return _lower_of_ties(score, score.topk(k, dim=1, sorted=False).indices)


def _lower_of_ties(score: Tensor, index: Tensor) -> Tensor:
    """The same, where entries equal to a row's k-th were left out: then by a stable sort."""
    best = score.gather(1, index)
    least = best.amin(1, keepdim=True)
    cut = ((score == least).sum(1) > (best == least).sum(1)).nonzero().squeeze(1)
    if cut.numel():
        index[cut] = score[cut].sort(dim=1, descending=True, stable=True).indices[:, : index.shape[1]]
    return index


def _by_groups(score: Tensor, k: int) -> Tensor:
    batch, n = score.shape
    groups = n // STRIDE
    table = score.reshape(batch, STRIDE, groups)
    best = table.amax(1).topk(k, dim=1, sorted=False).indices
    candidates = table.gather(2, best[:, None, :].expand(-1, STRIDE, -1)).reshape(batch, -1)
    inside = candidates.topk(k, dim=1, sorted=False).indices
    return torch.div(inside, k, rounding_mode="floor") * groups + best.gather(1, inside % k)


def _by_partition(score: Tensor, k: int) -> Tensor:
    batch, n = score.shape
    values = score.numpy()
    least = np.partition(values, n - k, axis=1)[:, n - k]
    flat = np.flatnonzero(values >= least[:, None])
    if flat.size != batch * k:  # ties at the k-th value, or NaN
        return score.topk(k, dim=1, sorted=False).indices
    return torch.from_numpy(flat.reshape(batch, k) % n)

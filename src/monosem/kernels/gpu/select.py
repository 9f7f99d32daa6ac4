"""The k largest of each row on a GPU: of given scores, or of an encoder product that is never whole in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check
from monosem.base.sparse import Positions
from monosem.kernels.gpu.cells import inner_full, rows_in_order
from monosem.kernels.gpu.kept import COLUMNS, Kept, Plan, Reach
from monosem.kernels.gpu.rows import narrowed

_TILE = 2**26
"""Cells of the encoder product that exist at once."""

_PROGRAMS = 2**15
"""Rows times splits of a fused product: tiles of 128 rows then make some 256 programs, two per processor."""


@dataclass(frozen=True, eq=False)
class TopCells:
    """The k largest pre-activations of each row, in no order; `redone` counts the rows whose every cell was ranked."""

    index: Int[Tensor, "batch k"]
    value: Float[Tensor, "batch k"]
    redone: Int[Tensor, ""]


def top_index(score: Float[Tensor, "batch n"], k: int) -> Int[Tensor, "batch k"]:
    """Columns of the k largest entries of each row; their order within a row, and between ties, is not defined.

    Reads the scores once, after a sample of them; kernels.ranking.top_index has the same signature and meaning.
    """
    plan = Plan.of(score.shape[1], k)
    if plan is None or score.shape[0] == 0:
        return score.topk(k, dim=1, sorted=False).indices
    return _top_index(rows_in_order(score), k, plan)


def _top_index(score: Tensor, k: int, plan: Plan) -> Tensor:
    sample = score[:, :: plan.stride]
    kept = Kept.start(sample.topk(plan.rank, dim=1, sorted=False).values.amin(1), plan.capacity)
    kept.take(score, 0)
    best = kept.value.masked_fill(~kept.held, -torch.inf).topk(k, dim=1, sorted=False).indices
    index = kept.column.gather(1, best).long()
    again = (~kept.enough(k)).nonzero().squeeze(1)
    if again.numel():
        index[again] = score[again].topk(k, dim=1, sorted=False).indices
    return index


def encode_top(
    x: Float[Tensor, "batch n_p"],
    weight: Float[Tensor, "n_q n_p"],
    bias: Float[Tensor, " n_q"],
    k: int,
    *,
    low: bool = False,
    fused: bool = False,
) -> TopCells:
    """The k largest of x W^T + bias in each row: encode_tops with one request."""
    return encode_tops(x, weight, [(bias, k)], low=low, fused=fused)[0]


@torch.no_grad()
def encode_tops(
    x: Float[Tensor, "batch n_p"],
    weight: Float[Tensor, "n_q n_p"],
    requests: Sequence[tuple[Float[Tensor, " n_q"], int]],
    *,
    low: bool = False,
    fused: bool = False,
    plan: Plan | None = None,
) -> list[TopCells]:
    """For each request (bias, k): the k largest of x W^T + bias in each row, from one product for all of them.

    A bias of -inf takes a latent out of a request. [batch, n_q] never exists: column tiles of the library's product
    are looked through one by one, or, `fused`, tiles that no memory ever holds. Nothing here has a gradient.

    Without `low`, the product is in the dtype of x and W, without tf32. With `low` it is in bf16, and every cell that
    a bound on its error leaves able to be among the k is computed again by `inner_full` in float32 from x and W (which
    may itself be bf16: then W is what the bf16 says); the result is the top k of those values, proven, not assumed.
    A row whose sample misled (in many ties, say) is ranked over all its cells: slow, the same result, counted.

    Equation: with x~, w~ in bf16, |<x, w> - s~| <= |x - x~| |w| + |x~| |w - w~| + g |x| |w| + 2^-8 |s~|,
        g = 2^-21 (n_p + 8): both sums' roundings, truncating adders included.
    Source: Cauchy-Schwarz, and the usual bound of a floating-point inner product (Higham 2002, 3.1).
    Raises: ShapeError, DataError.
    """
    _check(x, weight, requests, low, fused)
    x, weight, n_q = rows_in_order(x.detach()), rows_in_order(weight.detach()), weight.shape[0]
    asked = [(bias.detach().contiguous(), k, plan or Plan.of(n_q, k)) for bias, k in requests]
    a, w, reach = _narrowed(x, weight, fused) if low else (x, weight, None)
    with _full_precision():
        lists = [_started(a, w, bias, k, how, reach, fused) for bias, k, how in asked]
        pairs = [(kept, bias) for kept, (bias, _, _) in zip(lists, asked, strict=True) if kept is not None]
        for kept, bias in pairs if fused else ():
            kept.take_product(a, w, bias, reach)
        if pairs and not fused:
            _take_tiles(a, w, pairs, reach)
        return [_answer(kept, x, weight, bias, k, reach, low) for kept, (bias, k, _) in zip(lists, asked, strict=True)]


def _started(
    a: Tensor, w: Tensor, bias: Tensor, k: int, plan: Plan | None, reach: Reach | None, fused: bool
) -> Kept | None:
    """An empty list of what may be among the k largest; None where all cells are to be ranked."""
    rows, n_q = a.shape[0], w.shape[0]
    if plan is None or rows == 0:
        return None
    splits = max(1, min(-(-n_q // COLUMNS), _PROGRAMS // rows, 32)) if fused else 1
    return Kept.start(_floor(a, w, bias, plan, reach), max(k, plan.capacity * min(4, splits) // splits), splits)


def _take_tiles(a: Tensor, w: Tensor, pairs: Sequence[tuple[Kept, Tensor]], reach: Reach | None) -> None:
    """Column tiles of one product, looked through for every list."""
    rows, n_q = a.shape[0], w.shape[0]
    columns = min(n_q, max(16, _TILE // rows))
    room = a.new_empty(rows, columns)
    for first in range(0, n_q, columns):
        part = room[:, : min(columns, n_q - first)]
        torch.mm(a, w[first : first + columns].T, out=part)
        for kept, bias in pairs:
            kept.take(part, first, bias, reach)


def _answer(
    kept: Kept | None, x: Tensor, weight: Tensor, bias: Tensor, k: int, reach: Reach | None, low: bool
) -> TopCells:
    if kept is None:
        index, value = _every_cell(x, weight, bias, k, low)
        return TopCells(index, value, torch.tensor(x.shape[0] if k else 0, device=x.device))
    good, table = kept.enough(k), kept.value.masked_fill(~kept.held, -torch.inf)
    if reach is not None:
        wide = reach.of(kept.value, bias[kept.column], kept.column)
        bar = (kept.value - wide).masked_fill(~kept.held, -torch.inf).topk(k, dim=1, sorted=False).values.amin(1)
        good &= bar >= kept.floor
        may = Positions.from_mask(kept.held & ~(kept.value + wide < bar[:, None]) & good[:, None])
        column = kept.column[may.row, may.col].long()
        exact = inner_full(Positions(may.crow, column, bias.numel()), x, weight) + bias[column]
        table = torch.full_like(table, -torch.inf).index_put_((may.row, may.col), exact)
    top = table.topk(k, dim=1, sorted=False)
    index, value = kept.column.gather(1, top.indices).long(), top.values
    again = (~good).nonzero().squeeze(1)
    if again.numel():
        index[again], value[again] = _every_cell(x[again], weight, bias, k, low)
    return TopCells(index, value, torch.tensor(again.numel(), device=x.device))


def _every_cell(x: Tensor, weight: Tensor, bias: Tensor, k: int, low: bool) -> tuple[Tensor, Tensor]:
    """The k largest by ranking all cells, some rows at a time; with `low`, of the values of `inner_full`."""
    batch, n_q = x.shape[0] if k else 0, weight.shape[0]
    index = torch.empty(x.shape[0], k, dtype=torch.int64, device=x.device)
    value = torch.empty(x.shape[0], k, dtype=x.dtype, device=x.device)
    rows = max(1, _TILE // max(1, n_q))
    for first in range(0, batch, rows):
        part = slice(first, first + rows)
        if low:
            every = torch.arange(n_q, device=x.device).expand(x[part].shape[0], -1)
            z = inner_full(Positions.from_rows(every, n_q), x[part], weight).view(-1, n_q) + bias
        else:
            z = x[part] @ weight.T + bias
        top = z.topk(k, dim=1, sorted=False)
        index[part], value[part] = top.indices, top.values
    return index, value


def _floor(a: Tensor, w: Tensor, bias: Tensor, plan: Plan, reach: Reach | None) -> Tensor:
    every = slice(None, None, plan.stride)
    sample = (a @ w[every].T).to(bias.dtype) + bias[every]
    if reach is not None:
        sample -= reach.of(sample, bias[every], every)
    return sample.topk(plan.rank, dim=1, sorted=False).values.amin(1)


def _narrowed(x: Tensor, weight: Tensor, fused: bool) -> tuple[Tensor, Tensor, Reach]:
    """(x in bf16, W in bf16, the bound of encode_tops), each norm rounded up by more than its own error."""
    n_p = x.shape[1]
    up, g, tiny = 1 + (n_p + 8) * 2.0**-22, (n_p + 8) * 2.0**-21, 2.0**-100  # tiny: products below normal numbers
    (a, size_x, off_x), (w, size_w, off_w) = narrowed(x), narrowed(weight)
    size_x, off_x, size_w, off_w = size_x * up, off_x * up, size_w * up, off_w * up
    in_x = torch.stack([size_x + off_x + tiny, off_x], 1)
    in_w = torch.stack([off_w + g * (size_w + off_w) + tiny, size_w + tiny], 1)
    return a, w, Reach(in_x, in_w, 2.0**-20 if fused else 1.05 * 2.0**-8)


@contextmanager
def _full_precision() -> Iterator[None]:
    """float32 products without tf32, bf16 products summed in float32, whatever the user has set."""
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        matmul.allow_bf16_reduced_precision_reduction = before[1]


def _check(x: Tensor, weight: Tensor, requests: Sequence[tuple[Tensor, int]], low: bool, fused: bool) -> None:
    n_q = weight.shape[0]
    fits = x.ndim == weight.ndim == 2 and x.shape[1] == weight.shape[1]
    check(fits, f"x {tuple(x.shape)} and W {tuple(weight.shape)} do not share n_p; give [., n_p] both", ShapeError)
    for bias, k in requests:
        check(bias.shape == (n_q,), f"bias has shape {tuple(bias.shape)}, W has n_q={n_q} rows", ShapeError)
        check(0 <= k <= n_q, f"k={k} is not between 0 and n_q={n_q}; choose one that is")
    if low:
        right = x.dtype == torch.float32 and weight.dtype in (torch.float32, torch.bfloat16)
        remedy = "low=True takes float32 x, and W in float32 or bfloat16"
    else:
        right = x.dtype == weight.dtype and (x.dtype == torch.float32 or (x.dtype == torch.float64 and not fused))
        remedy = "give both in float32 (or float64 where not fused), or set low=True for a bfloat16 W"
    check(right, f"x is {x.dtype} and W is {weight.dtype}; {remedy}", DataError)

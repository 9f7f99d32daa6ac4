"""The k largest of each row on a GPU: of given scores, or of an encoder product that is never whole in memory."""

import math
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
from monosem.kernels.gpu.rows import Narrowed, narrowed

_TILE = 2**26
"""Cells of the encoder product that exist at once."""

_SAMPLE_ROWS = 64

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

    Without `low`, the product is in the dtype of x and W, without tf32. With `low` it is in fp16, and every cell that
    a bound on its error leaves able to be among the k is computed again by `inner_full` in float32 from x and W (which
    may itself be bf16: then W is what the bf16 says); the result is the top k of those values, proven, not assumed.
    A row whose sample misled (in many ties, say) is ranked over all its cells: slow, the same result, counted.

    Equation: with x~, w~ in fp16, |<x, w> - s~| <= |x - x~| |w| + |x~| |w - w~| + g |x| |w| + 2^-11 |s~|,
        g = 2^-22 (n_p + 8): a product of two fp16 is exact in float32, an adder that truncates loses 2^-23 of a term,
        and `inner_full` 2^-24 (n_p / 256 + 9) in all.
    Source: Cauchy-Schwarz, and the usual bound of a floating-point inner product (Higham 2002, 3.1).
    Raises: ShapeError, DataError.
    """
    _check(x, weight, requests, low, fused)
    x, weight = rows_in_order(x.detach()), rows_in_order(weight.detach())
    made = _made(x, weight, low, fused)
    return _tops(x, weight, made, requests, low, fused, plan)


@dataclass(frozen=True, eq=False)
class _Made:
    """The operands of a product of rows and latents that is `scale` times the one meant, to within `reach`."""

    a: Tensor
    w: Tensor
    scale: Float[Tensor, ""]
    reach: Reach | None


def _made(x: Tensor, weight: Tensor | Narrowed, low: bool, fused: bool = False) -> _Made:
    """As they are, or, with `low`, in fp16; each norm of the bound of encode_tops rounded up by more than its error."""
    if not low:
        assert isinstance(weight, Tensor)
        return _Made(x, weight, x.new_ones(()), None)
    rows, latents = narrowed(x), weight if isinstance(weight, Narrowed) else narrowed(weight)
    up, g = 1 + (x.shape[1] + 8) * 2.0**-22, (x.shape[1] + 8) * 2.0**-22
    (size_x, off_x), (size_w, off_w) = ((side.size * up, side.off * up) for side in (rows, latents))
    in_x = torch.stack([size_x + off_x + 2.0**-4, off_x], 1)  # 2^-4 2^-21: the smallest fp16 on the way out
    in_w = torch.stack([off_w + g * (size_w + off_w) + 2.0**-21, size_w], 1)
    reach = Reach(in_x, in_w, 2.0**-20 if fused else 1.05 * 2.0**-11)
    return _Made(rows.low, latents.low, rows.scale * latents.scale, reach)


def _deviations(n_p: int, low: bool) -> float:
    """How many standard deviations a score of normal rows may be off, about: that of <x, w> is |x| |w| / sqrt(n_p)."""
    return math.sqrt(n_p) * (2.0**-11 + (n_p + 8) * 2.0**-22) if low else 0.0


def _tops(
    x: Tensor, weight: Tensor, made: _Made, requests: Sequence[tuple[Tensor, int]], low: bool,
    fused: bool = False, plan: Plan | None = None,
) -> list[TopCells]:  # fmt: skip
    wide = _deviations(x.shape[1], low)
    asked = [(bias.detach(), k, plan or Plan.of(weight.shape[0], k, wide)) for bias, k in requests]
    with _full_precision():
        lists = [_started(made, bias * made.scale, k, how, fused) for bias, k, how in asked]
        pairs = [(kept, b * made.scale) for kept, (b, _, _) in zip(lists, asked, strict=True) if kept is not None]
        for kept, bias in pairs if fused else ():
            kept.take_product(made.a, made.w, bias, made.reach)
        if pairs and not fused:
            _take_tiles(made, pairs)
        return [_answer(kept, x, weight, bias, k, made, low) for kept, (bias, k, _) in zip(lists, asked, strict=True)]


def _started(made: _Made, bias: Tensor, k: int, plan: Plan | None, fused: bool) -> Kept | None:
    """An empty list of what may be among the k largest; None where all cells are to be ranked."""
    rows, n_q = made.a.shape[0], made.w.shape[0]
    if plan is None or rows == 0:
        return None
    splits = max(1, min(-(-n_q // COLUMNS), _PROGRAMS // rows, 32)) if fused else 1
    return Kept.start(_floor(made, bias, plan), max(k, plan.capacity * min(4, splits) // splits), splits)


def _take_tiles(made: _Made, pairs: Sequence[tuple[Kept, Tensor]]) -> None:
    """Column tiles of one product, looked through for every list."""
    rows, n_q = made.a.shape[0], made.w.shape[0]
    columns = min(n_q, max(16, _TILE // rows))
    room = made.a.new_empty(rows, columns)
    for first in range(0, n_q, columns):
        part = room[:, : min(columns, n_q - first)]
        torch.mm(made.a, made.w[first : first + columns].T, out=part)
        for kept, bias in pairs:
            kept.take(part, first, bias, made.reach)


def _answer(kept: Kept | None, x: Tensor, weight: Tensor, bias: Tensor, k: int, made: _Made, low: bool) -> TopCells:
    if kept is None:
        index, value = _every_cell(x, weight, bias, k, low)
        return TopCells(index, value, torch.tensor(0 if low else x.shape[0] * bool(k), device=x.device))
    good, table = kept.enough(k), kept.value.masked_fill(~kept.held, -torch.inf)
    if made.reach is not None:
        wide = made.reach.of(kept.value, (bias * made.scale)[kept.column], kept.column)
        bar, table = _exact(table, wide, kept.column.long(), good[:, None] & kept.held, x, weight, bias, k)
        good &= bar >= kept.floor
    top = table.topk(k, dim=1, sorted=False)
    index, value = kept.column.gather(1, top.indices).long(), top.values
    again = (~good).nonzero().squeeze(1)
    if again.numel():
        index[again], value[again] = _every_cell(x[again], weight, bias, k, low)
    return TopCells(index, value, torch.tensor(again.numel(), device=x.device))


def _exact(
    near: Tensor, wide: Tensor, column: Tensor, there: Tensor, x: Tensor, weight: Tensor, bias: Tensor, k: int
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows m"]]:
    """(what the k-th largest of a row reaches at least, the values of `inner_full` where they may be among the k).

    `near`: the values to within `wide`, at the columns `column`; only those that are `there` are computed.
    """
    bar = (near - wide).masked_fill(near == -torch.inf, -torch.inf).topk(k, dim=1, sorted=False).values.amin(1)
    may = Positions.from_mask(there & ~(near + wide < bar[:, None]))
    at = Positions(may.crow, column[may.row, may.col], bias.numel())
    exact = inner_full(at, x, weight) + bias[at.col]
    table = torch.full(near.shape, -torch.inf, dtype=exact.dtype, device=near.device)
    return bar, table.index_put_((may.row, may.col), exact)


def _every_cell(x: Tensor, weight: Tensor, bias: Tensor, k: int, low: bool) -> tuple[Tensor, Tensor]:
    """The k largest by ranking a product of all cells, some rows at a time; with `low`, of the values of `inner_full`.

    A float32 product proposes there: it differs from `inner_full` by 2^-22 (n_p + 8) |x| |w| at most.
    """
    batch, n_q = x.shape[0] if k else 0, weight.shape[0]
    index = torch.empty(x.shape[0], k, dtype=torch.int64, device=x.device)
    value = torch.empty(x.shape[0], k, dtype=x.dtype, device=x.device)
    rows, all_of_them = max(1, _TILE // max(1, n_q)), torch.arange(n_q, device=x.device)
    norms = weight.float().norm(dim=1) * ((x.shape[1] + 8) * 2.0**-22 * 1.01) if low else None
    for first in range(0, batch, rows):
        part = slice(first, first + rows)
        z = x[part] @ weight.T.to(x.dtype) + bias
        if norms is not None:
            wide = x[part].norm(dim=1, keepdim=True) * norms + 2.0**-20 * (z.abs() + bias.abs()) + 2.0**-100
            column = all_of_them.expand(z.shape[0], -1)
            _, z = _exact(z, wide, column, (bias != -torch.inf).expand(z.shape), x[part], weight, bias, k)
        top = z.topk(k, dim=1, sorted=False)
        index[part], value[part] = top.indices, top.values
    return index, value


def _floor(made: _Made, bias: Tensor, plan: Plan) -> Tensor:
    every = slice(None, None, plan.stride)
    sample = (made.a @ made.w[every].T).to(bias.dtype) + bias[every]
    if made.reach is not None:
        sample -= made.reach.of(sample, bias[every], every)
    return sample.topk(plan.rank, dim=1, sorted=False).values.amin(1)


class Scan:
    """An encoder for the passes over a batch; with `low`, fp16 proposes and the values of `inner_full` decide.

    `fell_back` of `rows` were ranked over all their cells.
    """

    def __init__(self, weight: Float[Tensor, "n_q n_p"], bias: Float[Tensor, " n_q"], low: bool) -> None:
        self.weight, self.bias, self.low = rows_in_order(weight.detach()), bias.detach(), low
        self._made = narrowed(self.weight) if low else self.weight
        self.fell_back: Tensor | int = 0
        self.rows = 0

    def sample(self, x: Float[Tensor, "rows n_p"], size: int) -> Float[Tensor, " some"]:
        """The values of about `size` cells of evenly spaced rows and latents."""
        some = x[:: max(1, x.shape[0] // _SAMPLE_ROWS)]
        step = max(1, some.shape[0] * self.bias.numel() // size)
        with _full_precision():
            return torch.addmm(self.bias[::step], some, self.weight[::step].T).reshape(-1)

    def top(self, x: Float[Tensor, "rows n_p"], k: int) -> tuple[Tensor, Tensor]:
        """(columns, z) of the k largest z of each row."""
        [top] = _tops(x, self.weight, _made(x, self._made, self.low), [(self.bias, k)], self.low)
        self.fell_back, self.rows = self.fell_back + top.redone, self.rows + x.shape[0]
        return top.index, top.value

    def above(self, x: Float[Tensor, "rows n_p"], floors: Tensor | float, room: int) -> tuple[Tensor, ...] | None:
        """(cells per row, columns, z) of every z above its column's floor; None if they exceed `room`, or on NaN.

        A list has room for half more than a sample says that a row has; where one overflows, all are made anew.
        """
        x, made = rows_in_order(x), _made(x, self._made, self.low)
        low_bias, bar = (self.bias - floors, 0.0) if isinstance(floors, Tensor) else (self.bias, floors)
        scaled, floor = low_bias * made.scale, made.scale * x.new_full((x.shape[0],), bar)
        some, step = x[:: max(1, x.shape[0] // _SAMPLE_ROWS)], 16
        with _full_precision():
            sample = torch.addmm(low_bias[::step], some, self.weight[::step].T) > bar
            kept, most = None, step * int(1.5 * int(sample.sum(1).max())) + 64
            while kept is None or most > kept.capacity:
                kept = Kept.start(floor, min(-(-most // 64) * 64, self.bias.numel()))
                _take_tiles(made, [(kept, scaled)])
                total, most = torch.stack([kept.count.sum(), kept.count.max()]).tolist()
                if total > room:
                    return None
        may = Positions.from_mask(kept.held)
        column = kept.column[may.row, may.col].long()
        if self.low:
            z = inner_full(Positions(may.crow, column, self.bias.numel()), x, self.weight) + self.bias[column]
        else:
            z = kept.value[may.row, may.col] + (floors[column] if isinstance(floors, Tensor) else 0.0)
        if bool(z.isnan().any()):
            return None
        chosen = z > (floors[column] if isinstance(floors, Tensor) else floors)
        counts = torch.bincount(may.row[chosen], minlength=x.shape[0])
        return counts, column[chosen], z[chosen]


@contextmanager
def _full_precision() -> Iterator[None]:
    """float32 products without tf32, fp16 products summed in float32, whatever the user has set.

    By the newer of torch's two switches: the older one raises where the newer was used.
    """
    matmul = torch.backends.cuda.matmul
    names = ("fp32_precision", "allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation")
    before = [getattr(matmul, name) for name in names]
    for name, value in zip(names, ("ieee", False, False), strict=True):
        setattr(matmul, name, value)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(matmul, name, value)


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

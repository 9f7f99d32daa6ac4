"""Both operations on active cells only, with their own gradients.

The encoder's product is the one dense product; its values are taken at the selected cells. All
gradients are sums over cells: a weight's gradient is a bag per latent (cells in latent-major
order), a value's gradient is the inner product of its row's output gradient with its decoder row.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from monosem.base.blocks import Block
from monosem.base.sparse import Positions
from monosem.kernels.gpu import cells as gpu
from monosem.kernels.gpu.launch import serves
from monosem.kernels.ledger import Ledger, the_ledger
from monosem.kernels.native import calls as native
from monosem.kernels.native.rows import CellSet, inner_alone
from monosem.kernels.precision import in_bfloat16, product
from monosem.kernels.straight_through import column_sums
from monosem.kernels.workspace import recycled


def _bag(table: Tensor, index: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """out[i] = sum over the i-th run of values * table[index]; empty runs give zero."""
    if serves(table, values):
        return gpu.bag(table, index, offsets, values)
    if index.numel() == 0:
        return table.new_zeros(offsets.numel() - 1, table.shape[1])
    return embedding_bag(index, table, offsets, mode="sum", per_sample_weights=values, include_last_offset=True)


_orders: WeakKeyDictionary[Positions, dict[int, list[native.Ordered]]] = WeakKeyDictionary()


def _ordered(at: Positions, tile: int) -> list[native.Ordered]:
    """The cells latent by latent, per tile of rows; kept as long as the positions are."""
    known = _orders.setdefault(at, {})
    if tile not in known and serves(at.col):
        order, starts = at.latent_major
        known[tile] = [native.Ordered(0, at.batch, starts, at.row[order], order)]
    elif tile not in known:
        at.verify()
        known[tile] = native.order_cells(at.crow, at.col, at.n_q, tile)
    return known[tile]


def _whole(at: Positions) -> native.Ordered:
    return _ordered(at, max(at.batch, 1))[0]


def _block_cells(at: Positions, block: Block) -> tuple[Positions, Tensor | None]:
    """The cells whose latent lies in the block, renumbered from 0, and which cells those are (None: all)."""
    if (block.first, block.last) == (0, at.n_q):
        return at, None
    chosen = (at.col >= block.first) & (at.col < block.last)
    inside = at.subset(chosen)
    return Positions(inside.crow, inside.col - block.first, block.last - block.first), chosen


def scatter(
    at: Positions, values: Float[Tensor, " nnz"], width: int, blocks: Sequence[Block], weights: Sequence[Tensor]
) -> Float[Tensor, "batch width"]:
    """out[b, columns] = sum over the row's cells of values * W_block[latent]; no gradient of its own."""
    if native.usable(values, *weights):
        whole = recycled((at.batch, width), values).zero_()
        for block, weight in zip(blocks, weights, strict=True):
            tiles = _ordered(at, native.row_tile(at.batch, width))
            native.scatter(tiles, block.first, block.last, values, weight, whole[:, block.columns])
        return whole
    out: Tensor | None = None
    for block, weight in zip(blocks, weights, strict=True):
        cells, chosen = _block_cells(at, block)
        part = _bag(weight, cells.col, cells.crow, values if chosen is None else values[chosen])
        if block.shape[1] == width and len(blocks) == 1:
            return part
        out = values.new_zeros(at.batch, width) if out is None else out
        out[:, block.columns] += part
    assert out is not None
    return out


def inner(
    at: Positions, x: Float[Tensor, "batch width"], blocks: Sequence[Block], weights: Sequence[Tensor]
) -> Float[Tensor, " nnz"]:
    """values[cell] = sum over blocks of <x[row, columns], W_block[latent]>; no gradient of its own."""
    if native.usable(x, *weights):
        products = x.new_zeros(at.nnz)
        for block, weight in zip(blocks, weights, strict=True):
            native.inner(_whole(at), block.first, block.last, x[:, block.columns], weight, products)
        return products
    values: Tensor | None = None
    for block, weight in zip(blocks, weights, strict=True):
        cells, chosen = _block_cells(at, block)
        part = _inner_full(cells, x[:, block.columns], weight)
        if chosen is None:
            values = part if values is None else values + part
        else:
            values = x.new_zeros(at.nnz) if values is None else values
            values[chosen] += part
    assert values is not None
    return values


def _inner_full(at: Positions, x: Tensor, weight: Tensor) -> Tensor:
    if serves(x, weight):
        return gpu.inner_full(at, x, weight)
    if at.nnz == 0:
        return x.new_zeros(0)
    # embedding_bag's gradient for its per-sample weights is exactly this product, without gathering rows
    values: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x.contiguous(), weight.contiguous(), at.col, at.crow[:-1].contiguous(), at.row, 0
    )
    return values


def _weight_gradients(at: Positions, values: Tensor, x: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """For each block: gradient[j] = sum over the latent's cells of values * x[row, columns]."""
    if native.usable(values, x):
        cells = _whole(at)
        return [native.bags(cells, b.first, b.last, values, x[:, b.columns]) for b in blocks]
    order, offsets = at.latent_major
    row, values = at.row[order], values[order]
    gradients = []
    for block in blocks:
        runs = offsets[block.first : block.last + 1]
        start, stop = int(runs[0]), int(runs[-1])
        gradients.append(_bag(x[:, block.columns], row[start:stop], runs - start, values[start:stop]))
    return gradients


def note(
    ledger: Ledger | None, at: Positions, values: Tensor, x: Tensor, blocks: Sequence[Block], weights: Sequence[Tensor]
) -> bool:
    """Whether an open ledger took the weights' gradients."""
    if ledger is None or not all(ledger.names(weight) for weight in weights):
        return False
    for block, weight in zip(blocks, weights, strict=True):
        ledger.note(weight, CellSet(_whole(at), values.detach(), x[:, block.columns], block.first))
    return True


def _alone(ctx: Any, values: Tensor, g_out: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether one pass over W may take the values' gradients and what W's own needs to be projected."""
    whole = len(ctx.blocks) == 1 and ctx.blocks[0].shape == (ctx.at.n_q, g_out.shape[1])
    wanted = ctx.needs_input_grad[3] and ctx.needs_input_grad[4]
    return whole and wanted and ctx.ledger.alone(weights[0]) and native.usable(values, g_out, *weights)


class _WriteCells(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, at: Positions, width: int, blocks: Sequence[Block], values: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.at, ctx.blocks, ctx.ledger = at, blocks, the_ledger()
        if ctx.ledger is not None and ctx.needs_input_grad[3]:
            ctx.ledger.expect(weights)
        ctx.save_for_backward(values, *weights)
        return scatter(at, values, width, blocks, weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, *weights = ctx.saved_tensors
        g_out = gradients[0].contiguous()
        if ctx.ledger is not None and _alone(ctx, values, g_out, weights):
            products, cells = inner_alone(CellSet(_whole(ctx.at), values.detach(), g_out, 0), weights[0])
            ctx.ledger.note(weights[0], cells)
            return None, None, None, products, None
        g_values = inner(ctx.at, g_out, ctx.blocks, weights) if ctx.needs_input_grad[3] else None
        g_weights: list[Tensor | None] = [None] * len(weights)
        needed = any(ctx.needs_input_grad[4:])
        if needed and not note(ctx.ledger, ctx.at, values, g_out, ctx.blocks, weights):
            g_weights = list(_weight_gradients(ctx.at, values, g_out, ctx.blocks))
        return None, None, None, g_values, *g_weights


class _ReadCells(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Sequence[Tensor],
        ats: Sequence[Positions],
        blocks: Sequence[Block],
        z: Tensor | None,
        x: Tensor,
        b_in: Tensor,
        bias: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.ats, ctx.blocks, ctx.dense, ctx.ledger, ctx.low = ats, blocks, z is not None, the_ledger(), in_bfloat16()
        ctx.save_for_backward(x, *weights)
        copies = tuple(v.clone() for v in values)
        if z is None:
            return copies
        ctx.mark_dirty(z)  # it becomes the output: a copy of [batch, n_q] would cost as much as ReLU
        return (*copies, z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        back = _ReadBack(ctx, x, weights, ctx.ats[0].n_q if ctx.ats else gradients[-1].shape[1])
        for at, g in zip(ctx.ats, gradients[: len(ctx.ats)], strict=True):
            back.cells(at, g)
        if ctx.dense:
            back.every(gradients[-1])
        out: list[Tensor | None] = [*back.weights] if back.weights else [None] * len(weights)
        return None, None, None, None, back.x, back.b_in() if ctx.needs_input_grad[5] else None, back.bias, *out


class _ReadBack:
    """The gradients of what a read used, summed over its sets of cells."""

    def __init__(self, ctx: Any, x: Tensor, weights: Sequence[Tensor], n_q: int) -> None:
        self._ctx, self._x, self._W, self._needs_weights = ctx, x, weights, any(ctx.needs_input_grad[7:])
        needs_x, needs_b_in, needs_bias = ctx.needs_input_grad[4:7]
        self.x = torch.zeros_like(x) if needs_x else None
        self.bias = x.new_zeros(n_q) if needs_bias or needs_b_in else None
        self.weights: list[Tensor] = []

    def cells(self, at: Positions, g: Tensor) -> None:
        """From z at some cells."""
        blocks = self._ctx.blocks
        if self.bias is not None:
            self.bias.index_add_(0, at.col, g)
        if self.x is not None:
            self.x += scatter(at, g.contiguous(), self._x.shape[1], blocks, self._W)
        if self._needs_weights and not note(self._ctx.ledger, at, g, self._x, blocks, self._W):
            self._add(_weight_gradients(at, g, self._x, blocks))

    def every(self, g: Tensor) -> None:
        """From z of every cell."""
        blocks, low = self._ctx.blocks, self._ctx.low
        if self.bias is not None:
            self.bias += column_sums(g)
        if self.x is not None:
            for block, weight in zip(blocks, self._W, strict=True):
                self.x[:, block.columns] += product(g[:, block.latents], weight, low)
        if self._needs_weights:
            self._add([product(g[:, b.latents].T, self._x[:, b.columns], low) for b in blocks])

    def _add(self, parts: list[Tensor]) -> None:
        self.weights = [a.add_(b) for a, b in zip(self.weights, parts, strict=True)] if self.weights else parts

    def b_in(self) -> Tensor | None:
        """Summed over rows first: a vector times W, not one more product."""
        if self.bias is None:
            return None
        total = torch.zeros_like(self._x[0])
        for block, weight in zip(self._ctx.blocks, self._W, strict=True):
            total[block.columns] -= self.bias[block.latents] @ weight
        return total


def write_cells(
    at: Positions, values: Float[Tensor, " nnz"], width: int, blocks: Sequence[Block], weights: Sequence[Tensor]
) -> Float[Tensor, "batch n_r"]:
    """What a sparse code writes, without bias.

    Equation: out[b, columns] = sum over blocks and the row's cells of values[cell] * W_block[latent].
    Gradient: dL/dvalues = <dL/dout[row], W[latent]>, dL/dW[j] = sum over j's cells of values * dL/dout[row].
    """
    return _WriteCells.apply(at, width, blocks, values, *weights)  # type: ignore[no-any-return, no-untyped-call]


def read_cells(
    values: Sequence[Float[Tensor, " _"]],
    ats: Sequence[Positions],
    z: Float[Tensor, "batch n_q"] | None,
    x: Float[Tensor, "batch n_p"],
    b_in: Float[Tensor, " n_p"],
    bias: Float[Tensor, " n_q"],
    blocks: Sequence[Block],
    weights: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Differentiable pre-activations at each set of cells (and, where `z` is given, of every cell, last).

    `values` and `z` are what was already computed, without gradient, from x (b_in subtracted already),
    bias and weights; `z` becomes the last output itself.

    Gradient: with g = dL/dz on the cells (summed over the sets), dL/dW[j] = sum g x[row],
    dL/dbias[j] = sum g, dL/dx[b] = sum g W[latent], dL/db_in = -sum over latents of dL/dbias[j] W[j];
    none of it needs a dense [batch, n_q] array.
    """
    return _ReadCells.apply(  # type: ignore[no-any-return, no-untyped-call]
        values, ats, blocks, z, x, b_in, bias, *weights
    )


class _RowsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, weight: Tensor) -> Tensor:
        ctx.latents, ctx.ledger = latents, the_ledger()
        ctx.save_for_backward(weight)
        return weight[latents]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), g = ctx.saved_tensors, gradients[0].contiguous()
        at = Positions.from_rows(ctx.latents[:, None], weight.shape[0])
        block = (Block(0, weight.shape[0], 0, weight.shape[1]),)
        if note(ctx.ledger, at, g.new_ones(at.nnz), g, block, [weight]):
            return None, None
        return None, torch.zeros_like(weight).index_add_(0, ctx.latents, g)


class _RowNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(weight, dim=1)
        ctx.ledger = the_ledger()
        ctx.save_for_backward(weight, norms)
        return norms

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor | None:
        weight, norms = ctx.saved_tensors
        dropped = ctx.ledger is not None and ctx.ledger.drops(weight)
        return None if dropped else torch.mul(weight, (gradients[0] / norms.clamp(min=1e-15))[:, None])


def row_norms(weight: Float[Tensor, "n width"]) -> Float[Tensor, " n"]:
    """||weight[j]||, with gradient g_j weight[j] / ||weight[j]||, 0 at a row of zeros.

    That gradient lies along the row: where the optimiser will project it out, it is not made.
    """
    return _RowNorms.apply(weight)  # type: ignore[no-untyped-call, no-any-return]


def rows_of(weight: Float[Tensor, "n width"], latents: Int[Tensor, " k"]) -> Float[Tensor, "k width"]:
    """weight[latents], differentiable; the gradient is k rows, not a matrix of zeros around them."""
    return _RowsOf.apply(latents, weight)  # type: ignore[no-any-return, no-untyped-call]

"""Functions of a weight's rows whose gradients are not matrices where they need not be."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.sparse import Positions
from monosem.kernels.ledger import the_ledger
from monosem.kernels.sparse import note


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

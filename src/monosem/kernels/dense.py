"""Dense codes in few passes: thresholds with their sums over rows, and what a code writes."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from monosem.kernels import reference
from monosem.kernels.blocks import Block
from monosem.kernels.native import dense as native
from monosem.kernels.precision import multiply_again

_known = WeakTensorKeyDictionary()
"""Sums over rows of gradients on their way, and the version of the tensor that they belong to."""


def column_sums(g: Float[Tensor, "batch n_q"]) -> Float[Tensor, " n_q"]:
    """g.sum(0), from the pass that made g where that took it along."""
    if g not in _known:
        return g.sum(0)
    sums, version = _known[g]
    return sums if version == g._version else g.sum(0)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor | None, bandwidth: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.bandwidth = bandwidth
        value, sums = native.jump(z, theta)
        ctx.save_for_backward(value if theta is None else z, theta)
        return value, sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (z, theta), (g, of_sums) = ctx.saved_tensors, gradients
        g = torch.zeros_like(z) if g is None else g.contiguous()
        of_z, total, pull = native.jump_back(z, theta, g, of_sums, ctx.bandwidth)
        _known[of_z] = (total, of_z._version)
        return of_z, None if theta is None else (pull * theta).mul_(-1 / ctx.bandwidth), None


def jump(
    z: Float[Tensor, "batch n_q"], theta: Float[Tensor, "1 n_q"] | None, bandwidth: float = 1.0
) -> tuple[Float[Tensor, "batch n_q"], Float[Tensor, " n_q"]] | None:
    """z where z > theta (None: 0), else 0, and its sums over rows; None where the compiled kernels do not take z.

    Gradient: with h = dL/dvalue + dL/dsums: d/dz = h where z > theta, else 0;
        d/dtheta = -(theta / bandwidth) sum over rows of h K((z - theta) / bandwidth), as `straight_through.jump`.
    """
    return _Jump.apply(z, theta, bandwidth) if native.fits(z, theta) else None  # type: ignore[no-untyped-call]


def write(
    code: Float[Tensor, "batch n_q"], width: int, blocks: Sequence[Block], weights: Sequence[Tensor]
) -> Float[Tensor, "batch n_r"]:
    """`reference.write`, its large arrays in recycled memory."""
    if len(blocks) == 1 and blocks[0].shape == (code.shape[1], width):
        return multiply_again(code, weights[0])
    return reference.write(code, width, blocks, weights)

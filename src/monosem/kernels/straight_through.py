"""Thresholds and their straight-through gradients: steps whose gradient is a rectangle kernel, in few passes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from monosem.kernels.native import dense

_known = WeakTensorKeyDictionary()
"""Sums over rows of gradients on their way, and the version of the tensor that they belong to."""


def column_sums(g: Float[Tensor, "batch n_q"]) -> Float[Tensor, " n_q"]:
    """g.sum(0); taken over from the pass that made g where that added them up."""
    if g not in _known:
        return g.sum(0)
    sums, version = _known[g]
    return sums if version == g._version else g.sum(0)


def _above(z: Tensor, theta: Tensor) -> Tensor:
    """H(z - theta) as floats; written as such, since converting a mask costs as much as comparing."""
    return torch.gt(z, theta, out=torch.empty_like(z))


def _inside(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """K((z - theta) / bandwidth), K(u) = 1 for |u| < 1/2, as floats."""
    return (z - theta).abs_().lt_(bandwidth / 2)


class _Jump(torch.autograd.Function):
    """z H(z - theta), with its sums over rows where the compiled kernels make both in one pass; theta None: 0."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor | None, bandwidth: float, compiled: bool) -> Any:
        ctx.set_materialize_grads(False)
        ctx.bandwidth, ctx.compiled = bandwidth, compiled
        if compiled:
            value, sums = dense.jump(z, theta)
            ctx.save_for_backward(value if theta is None else z, theta)
            return value, sums
        assert theta is not None
        ctx.save_for_backward(z, theta)
        return _above(z, theta).mul_(z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        z, theta = ctx.saved_tensors
        g = torch.zeros_like(z) if gradients[0] is None else gradients[0]
        if ctx.compiled:
            of_z, total, pull = dense.jump_back(z, theta, g.contiguous(), gradients[1], ctx.bandwidth)
            _known[of_z] = (total, of_z._version)
        else:
            of_z = g * _above(z, theta)
            pull = (g * _inside(z, theta, ctx.bandwidth)).sum_to_size(theta.shape)
        return of_z, (pull * theta).mul_(-1 / ctx.bandwidth) if ctx.needs_input_grad[1] else None, None, None


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.bandwidth = bandwidth
        ctx.save_for_backward(z, theta)
        return _above(z, theta)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (z, theta), (g,) = ctx.saved_tensors, gradients
        pull = g * _inside(z, theta, ctx.bandwidth).mul_(1 / ctx.bandwidth)
        g_theta = -pull.sum_to_size(theta.shape) if ctx.needs_input_grad[1] else None
        return pull if ctx.needs_input_grad[0] else None, g_theta, None


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        above, near = dense.steps(z, theta, bandwidth)
        ctx.save_for_backward(near.mul_(-1 / bandwidth)[None, :])
        return above.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, gradients[0] * ctx.saved_tensors[0], None


def jump(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """z H(z - theta); theta broadcasts.

    Gradient: d/dz = H(z - theta), d/dtheta = -(theta / bandwidth) K((z - theta) / bandwidth).
    Source: Rajamanoharan et al. 2024b, eq 11.
    """
    return _Jump.apply(z, theta, bandwidth, False)  # type: ignore[no-any-return, no-untyped-call]


def jump_and_sums(
    z: Float[Tensor, "batch n_q"], theta: Float[Tensor, "1 n_q"] | None, bandwidth: float = 1.0
) -> tuple[Float[Tensor, "batch n_q"], Float[Tensor, " n_q"] | None]:
    """`jump` (theta None: at 0) and, where that costs no further pass, its sums over rows."""
    if dense.fits(z, theta):
        return _Jump.apply(z, theta, bandwidth, True)  # type: ignore[no-any-return, no-untyped-call]
    return z.relu() if theta is None else jump(z, theta, bandwidth), None


def heaviside(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """H(z - theta); theta broadcasts.

    Gradient: d/dtheta = -(1 / bandwidth) K((z - theta) / bandwidth), d/dz = +(1 / bandwidth) K.
    Source: Rajamanoharan et al. 2024b, eq 12; the gradient to z is common practice, absent from it.
    """
    return _Heaviside.apply(z, theta, bandwidth)  # type: ignore[no-any-return, no-untyped-call]


def heaviside_sum(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """The sum of H(z - theta) over all cells; the gradient is `heaviside`'s."""
    if not z.requires_grad and dense.fits(z, theta):
        return _Steps.apply(z, theta, bandwidth)  # type: ignore[no-any-return, no-untyped-call]
    return heaviside(z, theta, bandwidth).sum()

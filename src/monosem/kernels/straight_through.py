"""Straight-through estimators: steps whose gradient is a rectangle kernel, in as few passes as it takes."""

from typing import Any

import torch
from torch import Tensor

from monosem.kernels.native import dense


def _above(z: Tensor, theta: Tensor) -> Tensor:
    """H(z - theta) as floats; written as such, since converting a mask costs as much as comparing."""
    return torch.gt(z, theta, out=torch.empty_like(z))


def _inside(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """K((z - theta) / bandwidth), K(u) = 1 for |u| < 1/2, as floats."""
    return (z - theta).abs_().lt_(bandwidth / 2)


def _aligned(z: Tensor, of_z: int | None, theta: Tensor, of_theta: int | None, runs: int) -> tuple[Tensor, Tensor]:
    """z and theta of several runs (vmap's axes), the runs first and the rest laid along each other."""
    z = z.expand(runs, *z.shape) if of_z is None else z.movedim(of_z, 0)
    if of_theta is None:
        return z, theta
    theta = theta.movedim(of_theta, 0)
    return z, theta.reshape(runs, *(1,) * (z.ndim - theta.ndim), *theta.shape[1:])


class _OfThresholds(torch.autograd.Function):
    """What both estimators keep: z, theta and the bandwidth."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        z, theta, ctx.bandwidth = inputs
        ctx.save_for_backward(z, theta)


class _Jump(_OfThresholds):
    @staticmethod
    def forward(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        return _above(z, theta).mul_(z)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], z: Tensor, theta: Tensor, bandwidth: float) -> tuple[Tensor, int]:
        return jump(*_aligned(z, dims[0], theta, dims[1], info.batch_size), bandwidth), 0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (z, theta), (g,) = ctx.saved_tensors, gradients
        g_z = g * _above(z, theta) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return g_z, None, None
        pull = g * _inside(z, theta, ctx.bandwidth)  # out of place: g may carry a vmap axis
        if theta.shape == z.shape:  # one theta per cell: nothing to sum
            return g_z, pull.mul_(theta).mul_(-1 / ctx.bandwidth), None
        return g_z, pull.sum_to_size(theta.shape) * theta * (-1 / ctx.bandwidth), None


class _Heaviside(_OfThresholds):
    @staticmethod
    def forward(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        return _above(z, theta)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], z: Tensor, theta: Tensor, bandwidth: float) -> tuple[Tensor, int]:
        return heaviside(*_aligned(z, dims[0], theta, dims[1], info.batch_size), bandwidth), 0

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
    return _Jump.apply(z, theta, bandwidth)  # type: ignore[no-any-return, no-untyped-call]


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

"""Passes over dense codes by the compiled kernels, several things at once; see dense.c."""

import ctypes
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.kernels.native.build import library
from monosem.kernels.native.calls import pointer, runs_of, spread, usable

__all__ = ["fits", "jump", "jump_back", "steps", "used"]

_I, _F = ctypes.c_int64, ctypes.c_float


def fits(z: Tensor, theta: Tensor, *others: Tensor) -> bool:
    """Whether z and the others are dense codes, theta one number per latent, and the kernels take them."""
    shaped = z.ndim == 2 and theta.shape == (1, z.shape[1]) and all(t.shape == z.shape for t in others)
    return shaped and usable(z, theta, *others) and all(t.is_contiguous() for t in (z, *others))


def _over_columns(n: int, call: Any) -> None:
    runs = runs_of(n, max(1, -(-n // 2048)))
    spread(lambda unit: call(*map(_I, runs[unit])), len(runs))


def jump(z: Float[Tensor, "batch n_q"], theta: Float[Tensor, "1 n_q"]) -> Float[Tensor, "batch n_q"]:
    """z where z > theta, else 0."""
    lib, out, (rows, n) = library(), torch.empty_like(z), z.shape
    assert lib is not None
    _over_columns(n, lambda a, b: lib.monosem_jump(pointer(z), pointer(theta), _I(rows), _I(n), a, b, pointer(out)))
    return out


def jump_back(
    z: Float[Tensor, "batch n_q"], theta: Float[Tensor, "1 n_q"], g: Float[Tensor, "batch n_q"], bandwidth: float
) -> tuple[Float[Tensor, "batch n_q"], Float[Tensor, "1 n_q"]]:
    """(g where z > theta, else 0; the sum over rows of g where |z - theta| < bandwidth / 2)."""
    lib, of_z, pull, (rows, n) = library(), torch.empty_like(z), torch.zeros_like(theta), z.shape
    assert lib is not None
    _over_columns(
        n,
        lambda a, b: lib.monosem_jump_back(
            pointer(z), pointer(theta), pointer(g), _F(bandwidth / 2), _I(rows), _I(n), a, b, pointer(of_z),
            pointer(pull),
        ),
    )  # fmt: skip
    return of_z, pull


def steps(
    z: Float[Tensor, "batch n_q"], theta: Float[Tensor, "1 n_q"], bandwidth: float
) -> tuple[Float[Tensor, "1 n_q"], Float[Tensor, "1 n_q"]]:
    """How many rows of each latent have z > theta, and how many |z - theta| < bandwidth / 2."""
    lib, above, near, (rows, n) = library(), torch.zeros_like(theta), torch.zeros_like(theta), z.shape
    assert lib is not None
    _over_columns(
        n,
        lambda a, b: lib.monosem_steps(
            pointer(z), pointer(theta), _F(bandwidth / 2), _I(rows), _I(n), a, b, pointer(above), pointer(near)
        ),
    )
    return above, near


def used(values: Float[Tensor, "batch n_q"]) -> Bool[Tensor, " n_q"]:
    """Which latents are not zero (or NaN) everywhere."""
    if not (usable(values) and values.is_contiguous()):
        return (values.amax(0) > 0) | (values.amin(0) < 0)  # two reductions are four times as fast as one aminmax
    lib, (rows, n) = library(), values.shape
    assert lib is not None
    found = torch.zeros(n)
    _over_columns(n, lambda a, b: lib.monosem_used(pointer(values), _I(rows), _I(n), a, b, pointer(found)))
    return found > 0

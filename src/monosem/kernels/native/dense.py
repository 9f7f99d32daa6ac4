"""Passes over dense codes by the compiled kernels, several things at once; see dense.c."""

import ctypes

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.kernels.native.calls import usable
from monosem.kernels.native.team import address, each, runs_of
from monosem.kernels.workspace import recycled

_UNIT = 128
"""Rows of a unit of work: fixed, so that sums over rows do not depend on the number of threads."""


def fits(z: Tensor, theta: Tensor | None = None, *others: Tensor) -> bool:
    """Whether z and the others are dense codes, theta one number per latent, and the kernels take them."""
    if z.ndim != 2 or any(t.shape != z.shape for t in others) or (theta is not None and theta.shape != (1, z.shape[1])):
        return False
    given = (z, *others) if theta is None else (z, theta, *others)
    return usable(*given) and all(t.is_contiguous() for t in given)


def _over_rows(kernel: str, like: Tensor, sums: int, *given: int) -> list[Tensor]:
    """A kernel(*given, n, first row, last row, *sums of its own) for runs of rows; those sums [n], added up."""
    rows, n = like.shape
    runs = runs_of(rows, max(1, -(-rows // _UNIT)))
    parts = like.new_zeros(sums, len(runs), n)
    own = [[address(parts[s, unit]) for s in range(sums)] for unit in range(len(runs))]
    each(kernel, [(*given, n, *run, *mine) for run, mine in zip(runs, own, strict=True)])
    return list(parts.sum(1))


def jump(
    z: Float[Tensor, "batch n_q"], theta: Float[Tensor, "1 n_q"] | None
) -> tuple[Float[Tensor, "batch n_q"], Float[Tensor, " n_q"]]:
    """(z where z > theta, else 0; its sums over rows); theta None: 0."""
    value = recycled(tuple(z.shape), z)
    (sums,) = _over_rows("jump", z, 1, *map(address, (z, theta, value)))
    return value, sums


def jump_back(
    z: Float[Tensor, "batch n_q"],
    theta: Float[Tensor, "1 n_q"] | None,
    g: Float[Tensor, "batch n_q"],
    of_sums: Float[Tensor, " n_q"] | None,
    bandwidth: float,
) -> tuple[Float[Tensor, "batch n_q"], Float[Tensor, " n_q"], Float[Tensor, " n_q"]]:
    """With h = g + of_sums: (h where z > theta, else 0; its sums; the sums of h where |z - theta| < bandwidth / 2)."""
    of_z, half = recycled(tuple(z.shape), z), ctypes.c_float(bandwidth / 2)
    added = z.new_zeros(z.shape[1]) if of_sums is None else of_sums.contiguous()
    total, pull = _over_rows("jump_back", z, 2, *map(address, (z, theta, g, added, half, of_z)))
    return of_z, total, pull


def steps(
    z: Float[Tensor, "batch n_q"], theta: Float[Tensor, "1 n_q"], bandwidth: float
) -> tuple[Float[Tensor, " n_q"], Float[Tensor, " n_q"]]:
    """How many rows of each latent have z > theta, and how many |z - theta| < bandwidth / 2."""
    half = ctypes.c_float(bandwidth / 2)
    above, near = _over_rows("steps", z, 2, address(z), address(theta), address(half))
    return above, near


def used(values: Float[Tensor, "batch n_q"]) -> Bool[Tensor, " n_q"]:
    """Which latents are not zero (or NaN) everywhere."""
    if not fits(values):
        return (values.amax(0) > 0) | (values.amin(0) < 0)  # two reductions are four times as fast as one aminmax
    (nonzero,) = _over_rows("used", values, 1, address(values))
    return nonzero > 0


def count(values: Float[Tensor, "batch n_q"]) -> int:
    """How many are not zero (NaN counts)."""
    if not fits(values):
        return int(torch.count_nonzero(values))
    return sum(each("count", [(address(values), *run) for run in runs_of(values.numel(), 64)]))

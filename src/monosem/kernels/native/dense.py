"""Passes over dense codes by the compiled kernels, several things at once; see dense.c."""

import ctypes
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.kernels.native.build import library
from monosem.kernels.native.calls import pointer, runs_of, spread, usable
from monosem.kernels.workspace import recycled

__all__ = ["count", "fits", "jump", "jump_back", "steps", "used"]

_I, _F = ctypes.c_int64, ctypes.c_float
_UNIT = 128
"""Rows of a unit of work: fixed, so that sums over rows do not depend on the number of threads."""


def fits(z: Tensor, theta: Tensor | None = None, *others: Tensor) -> bool:
    """Whether z and the others are dense codes, theta one number per latent, and the kernels take them."""
    if z.ndim != 2 or any(t.shape != z.shape for t in others) or (theta is not None and theta.shape != (1, z.shape[1])):
        return False
    given = (z, *others) if theta is None else (z, theta, *others)
    return usable(*given) and all(t.is_contiguous() for t in given)


def _over_rows(like: Tensor, sums: int, call: Callable[..., None]) -> list[Tensor]:
    """call(n, first row, last row, *pointers to sums of its own) for runs of rows; those sums [n], added up."""
    rows, n = like.shape
    runs = runs_of(rows, max(1, -(-rows // _UNIT)))
    parts = like.new_zeros(sums, len(runs), n)

    def work(unit: int) -> None:
        a, b = runs[unit]
        call(_I(n), _I(a), _I(b), *(pointer(parts[s, unit]) for s in range(sums)))

    spread(work, len(runs))
    return list(parts.sum(1))


def jump(
    z: Float[Tensor, "batch n_q"], theta: Float[Tensor, "1 n_q"] | None
) -> tuple[Float[Tensor, "batch n_q"], Float[Tensor, " n_q"]]:
    """(z where z > theta, else 0; its sums over rows); theta None: 0."""
    lib, value = library(), recycled(tuple(z.shape), z)
    assert lib is not None
    (sums,) = _over_rows(
        z, 1, lambda n, a, b, sums: lib.monosem_jump(pointer(z), pointer(theta), n, a, b, pointer(value), sums)
    )
    return value, sums


def jump_back(
    z: Float[Tensor, "batch n_q"],
    theta: Float[Tensor, "1 n_q"] | None,
    g: Float[Tensor, "batch n_q"],
    of_sums: Float[Tensor, " n_q"] | None,
    bandwidth: float,
) -> tuple[Float[Tensor, "batch n_q"], Float[Tensor, " n_q"], Float[Tensor, " n_q"]]:
    """With h = g + of_sums: (h where z > theta, else 0; its sums; the sums of h where |z - theta| < bandwidth / 2)."""
    lib, of_z = library(), recycled(tuple(z.shape), z)
    assert lib is not None
    added = z.new_zeros(z.shape[1]) if of_sums is None else of_sums.contiguous()
    total, pull = _over_rows(
        z,
        2,
        lambda n, a, b, total, pull: lib.monosem_jump_back(
            pointer(z), pointer(theta), pointer(g), pointer(added), _F(bandwidth / 2), n, a, b, pointer(of_z), total,
            pull,
        ),
    )  # fmt: skip
    return of_z, total, pull


def steps(
    z: Float[Tensor, "batch n_q"], theta: Float[Tensor, "1 n_q"], bandwidth: float
) -> tuple[Float[Tensor, " n_q"], Float[Tensor, " n_q"]]:
    """How many rows of each latent have z > theta, and how many |z - theta| < bandwidth / 2."""
    lib = library()
    assert lib is not None
    above, near = _over_rows(
        z, 2, lambda n, a, b, *sums: lib.monosem_steps(pointer(z), pointer(theta), _F(bandwidth / 2), n, a, b, *sums)
    )
    return above, near


def used(values: Float[Tensor, "batch n_q"]) -> Bool[Tensor, " n_q"]:
    """Which latents are not zero (or NaN) everywhere."""
    if not fits(values):
        return (values.amax(0) > 0) | (values.amin(0) < 0)  # two reductions are four times as fast as one aminmax
    lib = library()
    assert lib is not None
    (found,) = _over_rows(values, 1, lambda n, a, b, found: lib.monosem_used(pointer(values), n, a, b, found))
    return found > 0


def count(values: Float[Tensor, "batch n_q"]) -> int:
    """How many are not zero (NaN counts)."""
    if not fits(values):
        return int(torch.count_nonzero(values))
    lib = library()
    assert lib is not None
    runs = runs_of(values.numel(), 64)
    found = [0] * len(runs)

    def work(unit: int) -> None:
        found[unit] = lib.monosem_count(pointer(values), *map(_I, runs[unit]))

    spread(work, len(runs))
    return sum(found)

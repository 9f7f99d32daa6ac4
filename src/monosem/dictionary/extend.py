"""Directions found in one representation, in other representations of the same inputs."""

from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import ShapeError, check
from monosem.dictionary.stagewise import stagewise_pursuit
from monosem.dictionary.steps import fit, reconstruct


def extend(
    D: Float[Tensor, "d m"], x: Float[Tensor, "rows d"], *others: Float[Tensor, "rows _"], tol: float = 0.05
) -> tuple[Tensor, ...]:
    """Unit columns, one for each direction of D, in every other representation of the same rows.

    Equation:
        z = nonnegative sparse code of x - b on D;  each D' = argmin over D', b' of sum over rows |x' - D' z - b'|^2
    Here b, which every row shares, is what a first code without it leaves on average. `tol` as in stagewise_pursuit.
    Shapes: D [d, m], x [rows, d], each other one [rows, d'], giving [d', m].
    Raises: ShapeError when rows differ in number.
    """
    for other in others:
        rows, have = x.shape[0], other.shape[0]
        check(have == rows, f"a representation has {have} rows and x {rows}; pair the rows", ShapeError)
    first, _ = stagewise_pursuit(x, D, tol=tol)
    offset = (x - reconstruct(first, D)).mean(0)
    code, _ = stagewise_pursuit(x - offset, D, tol=tol)
    return tuple(fit(code, other)[0] for other in others)

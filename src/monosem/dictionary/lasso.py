"""Nonnegative lasso codes by FISTA, with a duality gap that says how far they are from optimal."""

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check


def nonnegative_lasso(
    x: Float[Tensor, "rows d"],
    D: Float[Tensor, "_ n"],
    l1: float,
    iterations: int = 500,
    tol: float = 1e-4,
    *,
    start: Float[Tensor, "_ _"] | None = None,
    every: int = 10,
    chunk: int = 4096,
) -> Float[Tensor, "rows n"]:
    """Sparse nonnegative codes of rows by accelerated proximal gradient, restarted where momentum points uphill.

    A row stops as soon as its duality gap is at most `tol` times |x|^2 / 2 (looked at every `every` steps), or
    after `iterations` steps; `duality_gap` of the result says which. The columns of D may have any norm; the
    penalty is on z as it is. `start`: codes to start from (None: zero).

    Shapes: x [rows, d], D [d, n].
    Equation:
        min over z >= 0 of |x - D z|^2 / 2 + l1 sum_j z_j
    Source:
        Beck and Teboulle (2009), A fast iterative shrinkage-thresholding algorithm; O'Donoghue and Candes (2015),
        Adaptive restart for accelerated gradient schemes.
    Raises:
        ShapeError: x and D have different widths, or `start` another shape than the codes.

    Example:
        >>> nonnegative_lasso(torch.tensor([[3.0, -1.0, 0.5]]), torch.eye(3), l1=1.0)
        tensor([[2., 0., 0.]])
    """
    check(x.shape[1] == D.shape[0], f"d = {x.shape[1]} in x but {D.shape[0]} in D; make them agree", ShapeError)
    check(l1 >= 0.0, f"l1 = {l1} must not be negative; it is a penalty")
    check(iterations >= 1, f"iterations = {iterations} change nothing; ask for at least 1")
    check(bool(x.isfinite().all() and D.isfinite().all()), "x or D holds NaN or infinity; clean it first", DataError)
    z = x.new_zeros(x.shape[0], D.shape[1]) if start is None else start.clamp(min=0.0).to(x.dtype)
    wanted = (x.shape[0], D.shape[1])
    check(z.shape == wanted, f"start has shape {tuple(z.shape)}, codes {wanted}; give one code per row", ShapeError)
    D = D.to(x.dtype)
    curvature = float(torch.linalg.matrix_norm(D.double(), ord=2)) ** 2
    if curvature == 0.0:
        return torch.zeros_like(z)
    step = 1.0 / (curvature * (1 + 1e-5))
    for at in range(0, x.shape[0], chunk):
        part = slice(at, at + chunk)
        z[part] = _descend(x[part], D, l1, step, iterations, tol, z[part], every)
    return z


def duality_gap(
    x: Float[Tensor, "rows d"], D: Float[Tensor, "_ n"], z: Float[Tensor, "rows n"], l1: float
) -> Float[Tensor, " rows"]:
    """Objective of nonnegative codes less a lower bound of its minimum; 0 only at an optimum.

    Equation:
        gap = |r|^2 / 2 + l1 sum z - (|x|^2 - |x - t|^2) / 2,  r = x - D z,  t = r min(1, l1 / max_j <d_j, r>)
        t is feasible for the dual: max over t of (|x|^2 - |x - t|^2) / 2 subject to D^T t <= l1
    """
    x, D, z = x.double(), D.double(), z.double()
    return _gap(x, x - z @ D.T, z.sum(1), D, l1)


def _gap(x: Tensor, r: Tensor, total: Tensor, D: Tensor, l1: float) -> Tensor:
    most = (r @ D).amax(1).clamp(min=1e-300 if x.dtype == torch.float64 else 1e-30)
    t = r * (l1 / most).clamp(max=1.0)[:, None]
    dual = (x.square().sum(1) - (x - t).square().sum(1)) / 2
    return r.square().sum(1) / 2 + l1 * total - dual


def _descend(
    x: Tensor, D: Tensor, l1: float, step: float, iterations: int, tol: float, z: Tensor, every: int
) -> Tensor:
    """FISTA on a chunk; rows leave as they converge."""
    result, live, goal = z.clone(), torch.arange(x.shape[0], device=x.device), tol * x.square().sum(1) / 2
    y, t = z, x.new_ones(x.shape[0], 1)
    for i in range(iterations + 1):
        if i % every == 0 or i == iterations:
            result[live] = z
            go = _gap(x, x - z @ D.T, z.sum(1), D, l1) > goal
            live, x, z, y, t, goal = live[go], x[go], z[go], y[go], t[go], goal[go]
            if live.numel() == 0:
                break
        new = (y + step * ((x - y @ D.T) @ D - l1)).clamp_(min=0.0)
        uphill = ((y - new) * (new - z)).sum(1, keepdim=True) > 0
        t = torch.where(uphill, 1.0, t)
        faster = (1 + (1 + 4 * t.square()).sqrt()) / 2
        y = torch.where(uphill, new, new + (t - 1) / faster * (new - z))
        z, t = new, faster
    return result

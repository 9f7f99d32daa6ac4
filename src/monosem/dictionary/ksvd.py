"""K-SVD with nonnegative codes: sparse coding in turn with one update per atom."""

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.dictionary.atoms import Progress, first_atoms, gram_omp, refreshed, settled, tell, used_rows


def ksvd(
    x: Float[Tensor, "rows n_p"],
    n_atoms: int,
    *,
    k: int | None = None,
    l1: float | None = None,
    iterations: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Float[Tensor, "n_p n_atoms"]:
    """Unit atoms, each in turn with its coefficients the best rank-one fit to what the others leave of its rows.

    Codes are nonnegative OMP with k atoms. Unused and coherent atoms are replaced until the last quarter of the passes.

    Equation:
        min over d_j, z_j >= 0 of |E - z_j d_j^T|_F^2,  E = X - sum_{i != j} z_i d_i^T  on the rows where z_j > 0
    Source:
        Aharon, Elad and Bruckstein (2006), K-SVD; nonnegative: the same (2005), K-SVD and its non-negative variant.
    Raises:
        ArgumentError: `k` is missing, or `l1` is given: the small values of a lasso's code would steer its updates.
    """
    if k is None or l1 is not None:
        raise ArgumentError(f"k = {k} and l1 = {l1}; K-SVD codes with k atoms, so give k alone")
    x = used_rows(x, n_atoms)
    D = first_atoms(x, n_atoms, seed)
    for step in range(iterations):
        codes = gram_omp(x, D, k)
        used, residual = (codes > 0).sum(0), x - codes @ D.T
        for j in used.nonzero()[:, 0].tolist():
            rows = codes[:, j].nonzero()[:, 0]
            own = residual[rows] + torch.outer(codes[rows, j], D[:, j])
            z, D[:, j] = leading_pair(own, D[:, j])
            residual[rows] = own - torch.outer(z, D[:, j])
        if not settled(step, iterations):
            D = refreshed(D, used, residual, seed, step)
        tell(progress, step, iterations, x, residual)
    return D


def leading_pair(
    E: Float[Tensor, "rows d"], start: Float[Tensor, " d"], sweeps: int = 5
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " d"]]:
    """z >= 0 and a unit d with least |E - z d^T|, by power iteration in turns; where E has no such pair, z = 0.

    Without the bound on z this is the leading singular pair, and it is the same pair where that one's z has one sign.

    Example:
        >>> z, d = leading_pair(torch.tensor([[3.0, 4.0], [6.0, 8.0]]), torch.tensor([1.0, 0.0]))
        >>> [round(value, 4) for value in (*z.tolist(), *d.tolist())]
        [5.0, 10.0, 0.6, 0.8]
    """
    d = start
    for _ in range(sweeps):
        z = (E @ d).clamp(min=0.0)
        pull = E.T @ z
        norm = pull.norm()
        if norm == 0:
            return torch.zeros_like(z), start
        d = pull / norm
    return (E @ d).clamp(min=0.0), d

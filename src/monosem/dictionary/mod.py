"""The method of optimal directions with nonnegative codes: sparse coding in turn with least squares."""

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.dictionary.atoms import Progress, coder, first_atoms, refreshed, settled, tell, used_rows


def mod(
    x: Float[Tensor, "rows n_p"],
    n_atoms: int,
    *,
    k: int | None = None,
    l1: float | None = None,
    iterations: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Float[Tensor, "n_p n_atoms"]:
    """Unit atoms, all at once the least-squares fit to the rows given the codes.

    Codes are nonnegative OMP (`k`) or lasso (`l1`). Unused and coherent atoms are replaced until the last quarter.

    Equation:
        D <- argmin |X - Z D^T|_F^2, columns normalised
    Source:
        Engan, Aase and Husoy (1999), Method of optimal directions for frame design.
    """
    encode, x = coder(k, l1), used_rows(x, n_atoms)
    D = first_atoms(x, n_atoms, seed)
    for step in range(iterations):
        codes = encode(x, D)
        used, fitted = (codes > 0).sum(0), least_squares_atoms(x, codes, D)
        norms = fitted.norm(dim=0)
        D, codes = fitted / norms, codes * norms
        residual = x - codes @ D.T
        if not settled(step, iterations):
            D = refreshed(D, used, residual, seed, step)
        tell(progress, step, iterations, x, residual)
    return D


def least_squares_atoms(
    x: Float[Tensor, "rows d"], codes: Float[Tensor, "rows n"], D: Float[Tensor, "d n"], ridge: float = 1e-6
) -> Float[Tensor, "d n"]:
    """argmin over D' of |X - Z D'^T|^2 + ridge sum_j |z_j|^2 |d'_j - d_j|^2; an atom that no row uses stays."""
    gram, right = (codes.T @ codes).double(), (codes.T @ x).double()
    weight = gram.diagonal() * ridge
    weight = torch.where(weight > 0, weight, 1.0)
    fitted = torch.linalg.solve(gram + torch.diag(weight), right + weight[:, None] * D.T.double()).T.to(x.dtype)
    return torch.where(fitted.norm(dim=0) > 0, fitted, D)

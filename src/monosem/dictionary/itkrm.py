"""Iterative thresholding and K residual means, with replacement of coherent and unused atoms."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.base.seeds import torch_generator
from monosem.dictionary.atoms import Progress, first_atoms, settled, tell, used_rows


def itkrm(
    x: Float[Tensor, "rows n_p"],
    n_atoms: int,
    *,
    k: int | None = None,
    l1: float | None = None,
    iterations: int = 50,
    seed: int = 0,
    progress: Progress | None = None,
    coherent: float = 0.7,
) -> Float[Tensor, "n_p n_atoms"]:
    """Unit atoms, each the mean over the rows that choose it of what the row's other atoms leave of it.

    A row chooses the k atoms of the largest positive inner product. Of two atoms closer than `coherent` the less used
    one, and every atom that fewer than two rows choose, becomes a candidate: a one-sparse mean of the residuals,
    learned on them from rows drawn by their energy. Replacing ends with the last quarter of the passes.

    Equation:
        d_j <- normalised sum over rows with j in I of (x - P_I x + <d_j, x> d_j),  I = top k of D^T x
    Source:
        Schnass (2018), Convergence radius and sample complexity of ITKM algorithms; Pali and Schnass (2023),
        Dictionary learning: from local towards global and adaptive (arXiv 1804.07101).
    Raises:
        ArgumentError: `k` is missing, or `l1` is given: thresholding needs a number of atoms.
    """
    if k is None or l1 is not None:
        raise ArgumentError(f"k = {k} and l1 = {l1}; ITKrM thresholds to k atoms, so give k alone")
    x = used_rows(x, n_atoms)
    D = first_atoms(x, n_atoms, seed)
    for step in range(iterations):
        chosen, own = _threshold(x, D, min(k, *D.shape))
        means, residual = residual_means(x, D, chosen, own)
        used = torch.bincount(chosen[own > 0], minlength=n_atoms)
        norms = means.norm(dim=0)
        D = torch.where((used > 0) & (norms > 0), means / norms, D)
        if not settled(step, iterations):
            D = _replaced(D, used, residual, coherent, torch_generator(seed, "itkrm/new", step))
        tell(progress, step, iterations, x, residual)
    return D


def _threshold(x: Tensor, D: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(atoms, inner products) [rows, k]; a product that is not positive counts as none: it is 0."""
    own, chosen = (x @ D).topk(k, 1)
    return chosen, own.clamp(min=0.0)


def residual_means(
    x: Float[Tensor, "rows d"], D: Float[Tensor, "d n"], chosen: Int[Tensor, "rows k"], own: Float[Tensor, "rows k"]
) -> tuple[Float[Tensor, "d n"], Float[Tensor, "rows d"]]:
    """(sums of the equation of `itkrm` before normalising, residuals x - P_I x). Atoms with `own` = 0 are not in I."""
    n = D.shape[1]
    gram, active = D.T @ D, own > 0
    both = active[:, :, None] & active[:, None, :]
    system = torch.where(both, gram[chosen[:, :, None], chosen[:, None, :]], 0.0)
    system = system + torch.diag_embed(torch.where(active, 1e-6, 1.0).to(x.dtype))
    z = torch.linalg.solve_ex(system, own[:, :, None])[0][:, :, 0] * active
    codes = x.new_zeros(x.shape[0], n).scatter_(1, chosen, z)
    residual = x - codes @ D.T
    shown = x.new_zeros(x.shape[0], n).scatter_(1, chosen, active.to(x.dtype))
    return residual.T @ shown + D * x.new_zeros(n).scatter_add_(0, chosen.flatten(), own.flatten()), residual


def _replaced(D: Tensor, used: Tensor, residual: Tensor, coherent: float, generator: torch.Generator) -> Tensor:
    rank = used.argsort(descending=True)
    bad = used < 2
    bad[rank] |= ((D.T @ D)[rank][:, rank].tril(-1) > coherent).any(1)
    energy = residual.square().sum(1).double()
    count = min(int(bad.sum()), int((energy > 0).sum()))
    if count == 0:
        return D
    drawn = torch.multinomial(energy, count, generator=generator)
    new = torch.nn.functional.normalize(residual[drawn], dim=1)
    for _ in range(3):  # one-sparse means of the residuals, as ITKrM with k = 1
        size, nearest = (residual @ new.T).max(1)
        mass = torch.zeros_like(new).index_add_(0, nearest, residual * (size > 0)[:, None])
        new = torch.nn.functional.normalize(torch.where(mass.norm(dim=1, keepdim=True) > 0, mass, new), dim=1)
    D = D.clone()
    D[:, bad.nonzero()[:count, 0]] = new.T
    return D

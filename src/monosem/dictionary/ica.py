"""Independent component analysis: directions for at most as many features as dimensions."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.base.seeds import key
from monosem.dictionary.atoms import Progress, used_rows


def fast_ica(
    x: Float[Tensor, "rows n_p"],
    n_atoms: int,
    *,
    k: int | None = None,
    l1: float | None = None,
    iterations: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Float[Tensor, "n_p n_atoms"]:
    """Unit mixing directions of scikit-learn's `FastICA`, each turned so that its source is skewed to the right.

    Independent features with n <= n_p are what it is made for; it needs no sparsity. Rows that are zero count.

    Equation:
        x - mean(x) = D s,  s independent, found as the extremes of E log cosh on whitened rows
    Source:
        Hyvärinen and Oja (2000), Independent component analysis: algorithms and applications.
    Raises:
        ArgumentError: n_atoms > n_p, or `k` or `l1` is given: it has no sparse code.
    """
    from sklearn.decomposition import FastICA

    if n_atoms > x.shape[1]:
        raise ArgumentError(f"n_atoms = {n_atoms} > n_p = {x.shape[1]}; ICA finds at most as many as dimensions")
    if k is not None or l1 is not None:
        raise ArgumentError(f"k = {k} and l1 = {l1}; ICA has no sparse code, so give neither")
    used_rows(x, n_atoms)
    learner = FastICA(n_atoms, whiten="unit-variance", max_iter=iterations, random_state=key(seed, "ica") % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a budget of passes is meant, not convergence
        sources = torch.from_numpy(learner.fit_transform(x.double().numpy()))
    skew = (sources - sources.mean(0)).pow(3).mean(0)
    D = torch.from_numpy(learner.mixing_) * torch.where(skew < 0, -1.0, 1.0)
    if progress:
        progress(1.0, "done")
    return torch.nn.functional.normalize(D, dim=0).to(x.dtype)

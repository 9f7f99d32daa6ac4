"""scikit-learn's dictionary learning with nonnegative codes, online and on all rows at once."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.base.seeds import key
from monosem.dictionary.atoms import Progress, first_atoms, used_rows


def online(
    x: Float[Tensor, "rows n_p"],
    n_atoms: int,
    *,
    k: int | None = None,
    l1: float | None = None,
    iterations: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
    batch_size: int = 256,
) -> Float[Tensor, "n_p n_atoms"]:
    """Online dictionary learning: `MiniBatchDictionaryLearning` with positive codes, `iterations` passes at most.

    It starts at rows, as the learners of this package do, and reports nothing before its end.

    Equation:
        min over D, Z >= 0 of |X - Z D^T|^2 / 2 + l1 sum Z,  |d_j| <= 1
    Source:
        Mairal, Bach, Ponce and Sapiro (2010), Online learning for matrix factorization and sparse coding.
    Raises:
        ArgumentError: `l1` is missing, or `k` is given: scikit-learn has no positive OMP.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning

    alpha, x = _penalty(k, l1), used_rows(x, n_atoms)
    start = first_atoms(x, n_atoms, seed).T.double().numpy()
    learner = MiniBatchDictionaryLearning(
        n_atoms,
        alpha=alpha,
        max_iter=iterations,
        fit_algorithm="cd",
        batch_size=batch_size,
        positive_code=True,
        dict_init=start,
        random_state=key(seed, "classical/online") % 2**32,
        tol=0.0,
        max_no_improvement=None,
    )
    return _fitted(learner, x, progress)


def batch_lasso(
    x: Float[Tensor, "rows n_p"],
    n_atoms: int,
    *,
    k: int | None = None,
    l1: float | None = None,
    iterations: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Float[Tensor, "n_p n_atoms"]:
    """`DictionaryLearning` with positive codes: the objective of `online`, all rows coded in every pass.

    Source:
        Mairal, Bach, Ponce and Sapiro (2010), Online learning for matrix factorization and sparse coding.
    Raises:
        ArgumentError: as `online`.
    """
    from sklearn.decomposition import DictionaryLearning

    alpha, x = _penalty(k, l1), used_rows(x, n_atoms)
    start = first_atoms(x, n_atoms, seed).T.double().numpy()
    learner = DictionaryLearning(
        n_atoms,
        alpha=alpha,
        max_iter=iterations,
        tol=0.0,
        fit_algorithm="cd",
        positive_code=True,
        dict_init=start,
        code_init=torch.zeros(x.shape[0], n_atoms, dtype=torch.float64).numpy(),
        random_state=key(seed, "classical/batch") % 2**32,
    )
    return _fitted(learner, x, progress)


def _penalty(k: int | None, l1: float | None) -> float:
    if l1 is None or k is not None:
        raise ArgumentError(
            f"k = {k} and l1 = {l1}; scikit-learn's positive codes come from the lasso, so give l1 alone"
        )
    return l1


def _fitted(learner: object, x: Tensor, progress: Progress | None) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a budget of passes is meant, not convergence
        atoms = learner.fit(x.double().numpy()).components_  # type: ignore[attr-defined]
    if progress:
        progress(1.0, "done")
    return torch.nn.functional.normalize(torch.from_numpy(atoms).to(x.dtype), dim=1).T.contiguous()

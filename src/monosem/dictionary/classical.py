"""Classical dictionary learners: K-SVD, MOD, ITKrM, scikit-learn's learners and ICA, by name in CLASSICAL."""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.base.registry import Registry
from monosem.base.seeds import key, torch_generator
from monosem.dictionary.atoms import (
    Learner,
    Progress,
    coder,
    first_atoms,
    gram_omp,
    refreshed,
    settled,
    tell,
    used_rows,
)


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


CLASSICAL: Registry[Learner] = Registry("classical learner")
CLASSICAL.add("ksvd", ksvd)
CLASSICAL.add("mod", mod)
CLASSICAL.add("itkrm", itkrm)
CLASSICAL.add("online", online)
CLASSICAL.add("batch_lasso", batch_lasso)
CLASSICAL.add("fast_ica", fast_ica)

"""What classical dictionary learners share: the code they use, where they start, atoms that are replaced."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check
from monosem.base.seeds import torch_generator
from monosem.dictionary.coding import nonnegative_lasso, nonnegative_least_squares

Coder = Callable[[Tensor, Tensor], Tensor]
"""(x [rows, d], D [d, n]) -> nonnegative codes [rows, n]."""
Progress = Callable[[float, str], None]
"""Hears the share that is done and a line for people."""


class Learner(Protocol):
    """A classical dictionary learner: rows in, unit atoms out.

    One of `k` (atoms per row) and `l1` (penalty on the code) says how sparse the codes are; a learner that cannot
    use one of them says so. `iterations` are passes over the rows.
    """

    def __call__(
        self,
        x: Float[Tensor, "rows n_p"],
        n_atoms: int,
        *,
        k: int | None = None,
        l1: float | None = None,
        iterations: int = ...,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n_p n_atoms"]:
        """The dictionary D of x ~ D z."""


def coder(k: int | None, l1: float | None) -> Coder:
    """Nonnegative OMP with k atoms, or the nonnegative lasso with penalty l1: exactly one of the two.

    Example:
        >>> coder(k=1, l1=None)(torch.tensor([[3.0, 2.0]]), torch.eye(2))
        tensor([[3., 0.]])
    """
    check((k is None) != (l1 is None), f"k = {k} and l1 = {l1}; give one of the two, it says how sparse codes are")
    if k is not None:
        return partial(gram_omp, k=k)
    assert l1 is not None
    return partial(nonnegative_lasso, l1=l1, iterations=200, tol=1e-3)


def gram_omp(
    x: Float[Tensor, "rows d"], D: Float[Tensor, "_ n"], k: int, tol: float = 1e-3, *, chunk: int = 4096
) -> Float[Tensor, "rows n"]:
    """The codes of `nonnegative_omp` at the speed that learners need: only D^T x and D^T D are ever looked at.

    Residuals are differences of squares here, so a `tol` below 1e-3 of the norm is lost in float32 rounding.

    Source:
        Rubinstein, Zibulevsky and Elad (2008), Efficient implementation of the K-SVD algorithm using batch OMP.
    """
    n = D.shape[1]
    norms: Tensor = D.norm(dim=0)
    norms.masked_fill_(norms == 0, 1.0)
    unit = D / norms
    gram = x.new_zeros(n + 1, n + 1)  # atom n is an empty slot
    gram[:n, :n] = unit.T @ unit
    codes = [_pursue(x[at : at + chunk], unit, gram, min(k, *D.shape), tol) for at in range(0, x.shape[0], chunk)]
    return torch.cat(codes).div_(norms)


def _pursue(x: Tensor, unit: Tensor, gram: Tensor, k: int, tol: float) -> Tensor:
    rows, n = x.shape[0], unit.shape[1]
    first, energy = torch.nn.functional.pad(x @ unit, (0, 1)), x.square().sum(1)
    exact, coef = gram.double(), torch.zeros(rows, k, dtype=torch.float64)
    index, error, live = torch.full((rows, k), n), energy.clone(), torch.arange(rows)
    for step in range(3 * k):
        live = live[(error[live] > tol**2 * energy[live]) & (index[live] == n).any(1)]
        at, z = index[live], coef[live].to(x.dtype)
        bag = torch.nn.functional.embedding_bag(at, gram, mode="sum", per_sample_weights=z)
        best, atom = (first[live] - bag).scatter_(1, at, -1.0)[:, :n].max(1)
        some = best > 1e-6 * energy[live].sqrt()
        live, at, atom = live[some], at[some], atom[some]
        if live.numel() == 0:
            break
        at[torch.arange(live.numel()), (at == n).int().argmax(1)] = atom
        part = at[:, : step + 1]  # slots beyond are free in every row
        system, right = exact[part[:, :, None], part[:, None, :]], first[live].gather(1, part).double()
        new, used = nonnegative_least_squares(system, right, coef[live][:, : step + 1], part < n)
        part = torch.where(used, part, n)
        index[live, : part.shape[1]], coef[live, : part.shape[1]] = part, new
        error[live] = energy[live] - (new * right).sum(1).to(x.dtype)
    z = torch.zeros(rows, n + 1, dtype=x.dtype)
    z.scatter_(1, index, coef.to(x.dtype))
    return z[:, :n]


def used_rows(x: Float[Tensor, "rows d"], n_atoms: int) -> Float[Tensor, "_ d"]:
    """The rows that are not zero. Raises: DataError: they are fewer than the atoms, or not finite."""
    check(x.ndim == 2, f"x has shape {tuple(x.shape)}; give a matrix of rows", ShapeError)
    check(bool(x.isfinite().all()), "x holds NaN or infinity; remove those rows", DataError)
    check(n_atoms >= 1, f"n_atoms = {n_atoms} is no dictionary; ask for at least 1")
    rows = x[x.norm(dim=1) > 0]
    have = rows.shape[0]
    check(have >= n_atoms, f"{have} rows that are not zero for n_atoms = {n_atoms}; give at least as many", DataError)
    return rows


def first_atoms(x: Float[Tensor, "rows d"], n_atoms: int, seed: int) -> Float[Tensor, "d n_atoms"]:
    """Distinct rows, normalised: where all learners of this package start."""
    chosen = torch.randperm(x.shape[0], generator=torch_generator(seed, "classical/start"))[:n_atoms]
    return torch.nn.functional.normalize(x[chosen], dim=1).T.contiguous()


def settled(step: int, iterations: int) -> bool:
    """Whether replacing is over: the last quarter of the passes lets every atom settle."""
    return step >= iterations - max(1, iterations // 4)


def tell(progress: Progress | None, step: int, iterations: int, x: Tensor, residual: Tensor) -> None:
    """Report a pass that has ended, with the fraction of variance that it leaves."""
    if progress:
        left = residual.square().sum() / (x - x.mean(0)).square().sum()
        progress((step + 1) / iterations, f"FVU {float(left):.4f}")


def refreshed(
    D: Float[Tensor, "d n"],
    used: Int[Tensor, " n"],
    residual: Float[Tensor, "rows d"],
    seed: int,
    step: int,
    *,
    coherent: float = 0.9,
    least: int = 2,
) -> Float[Tensor, "d n"]:
    """Atoms that fire on fewer than `least` rows, and the less used of two closer than `coherent`, become new ones.

    A new atom is what the dictionary leaves of a row, normalised; rows are drawn in proportion to what is left.

    Source:
        Aharon, Elad and Bruckstein (2006), K-SVD, section IV-D.
    """
    rank = used.argsort(descending=True)
    close = (D.T @ D)[rank][:, rank].tril(-1) > coherent  # row i: atoms that are used more than atom i
    bad = torch.zeros_like(used, dtype=torch.bool)
    bad[rank] = close.any(1)
    bad |= used < least
    energy = residual.square().sum(1)
    count = min(int(bad.sum()), int((energy > 0).sum()))
    if count == 0:
        return D
    drawn = torch.multinomial(energy.double(), count, generator=torch_generator(seed, "classical/new", step))
    D = D.clone()
    D[:, bad.nonzero()[:count, 0]] = torch.nn.functional.normalize(residual[drawn], dim=1).T
    return D

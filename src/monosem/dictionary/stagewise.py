"""Stagewise nonnegative pursuit: sparse codes of many rows whose numbers of atoms are not known."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.base.errors import ShapeError, check
from monosem.base.sparse import Positions, SparseCode


def stagewise_pursuit(
    x: Float[Tensor, "rows d"],
    D: Float[Tensor, "_ m"],
    *,
    tol: float = 1e-3,
    among: float = 0.6,
    limit: int | None = None,
    chunk: int = 512,
) -> tuple[SparseCode, Float[Tensor, " rows"]]:
    """Nonnegative codes of rows on unit atoms, and the squared residual norms.

    Every stage adds the atoms (up to four a row) whose correlation with the residual is within a factor `among` of the
    largest one and above what chance gives, then solves least squares on the support and drops atoms that are not
    positive. A row ends where no atom is above chance, at a relative residual of `tol`, or at `limit` atoms
    (None: a quarter of d, at least 8). All correlations come from D^T x and D^T D, each formed once.

    Shapes: x [rows, d]; D [d, m], unit columns.
    Equation:
        add j where <d_j, r> >= max(among max_i <d_i, r>, |r| sqrt(2 log m / d)),  r = x - D z,  z >= 0
    Source:
        Donoho, Tsaig, Drori and Starck (2012), Sparse solution by stagewise orthogonal matching pursuit.
    Raises:
        ShapeError: x and D have different widths.

    Example:
        >>> code, residual = stagewise_pursuit(torch.tensor([[3.0, 0.0, 1.0]]), torch.eye(3))
        >>> code.to_dense().round(decimals=3), residual.round(decimals=3)
        (tensor([[3., 0., 1.]]), tensor([0.]))
    """
    check(x.shape[1] == D.shape[0], f"d = {x.shape[1]} in x but {D.shape[0]} in D; make them agree", ShapeError)
    d, m = D.shape
    limit = min(limit or max(8, d // 4), m)
    gram = torch.zeros(m + 1, m + 1, dtype=x.dtype)  # atom m is an empty slot
    gram[:m, :m] = D.T @ D
    chance = math.sqrt(2.0 * math.log(max(m, 2)) / d)
    parts, errors = [], []
    for start in range(0, x.shape[0], chunk):
        index, value, error = _pursue(x[start : start + chunk], D, gram, chance, tol, among, limit)
        parts.append(_ragged(index, value, m))
        errors.append(error)
    at = Positions.below([part[0] for part in parts])
    return SparseCode(at, torch.cat([part[1] for part in parts])), torch.cat(errors)


def _ragged(index: Tensor, value: Tensor, m: int) -> tuple[Positions, Tensor]:
    """Slots as cells in row order; columns ascend within a row."""
    index, order = index.sort(1)
    used = index < m
    crow = torch.zeros(index.shape[0] + 1, dtype=torch.int64)
    torch.cumsum(used.sum(1), 0, out=crow[1:])
    return Positions(crow, index[used], m), value.gather(1, order)[used]


def _pursue(
    x: Tensor, D: Tensor, gram: Tensor, chance: float, tol: float, among: float, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Slots (index, value) of a chunk, with index m where empty, and squared residuals."""
    rows, m = x.shape[0], D.shape[1]
    first = torch.cat([x @ D, x.new_zeros(rows, 1)], 1)
    energy = x.square().sum(1)
    goal, error = tol**2 * energy, energy.clone()
    index = torch.full((rows, 4), m)
    value = x.new_zeros(rows, 4)
    live = torch.arange(rows)
    for _ in range(limit):
        live = live[error[live] > goal[live]]
        at, z = index[live], value[live]
        correlation = first[live] - torch.nn.functional.embedding_bag(at, gram, mode="sum", per_sample_weights=z)
        correlation.scatter_(1, at, -1.0)
        correlation[:, m] = -1.0
        best, atom = correlation.topk(min(4, m), 1)
        wanted = torch.maximum(among * best[:, 0], chance * error[live].sqrt())
        atom = torch.where(best > wanted[:, None].clamp(min=1e-12), atom, m)
        some = (atom[:, 0] < m) & ((at < m).sum(1) < limit)
        live, at, atom, before = live[some], at[some], atom[some], error[live[some]]
        if live.numel() == 0:
            break
        at, z = _solve(torch.cat([at, atom], 1), first[live], gram)
        if at.shape[1] > index.shape[1]:
            grow = at.shape[1] - index.shape[1]
            index = torch.nn.functional.pad(index, (0, grow), value=m)
            value = torch.nn.functional.pad(value, (0, grow))
        index[live], value[live] = m, 0.0
        index[live, : at.shape[1]], value[live, : at.shape[1]] = at, z
        error[live] = (energy[live] - (z * first[live].gather(1, at)).sum(1)).clamp(min=0.0)
        live = live[error[live] < before * (1 - 1e-4)]
    return index, value, error


def _solve(
    at: Int[Tensor, "rows slots"], first: Float[Tensor, "rows atoms"], gram: Float[Tensor, "atoms atoms"]
) -> tuple[Int[Tensor, "rows kept"], Float[Tensor, "rows kept"]]:
    """Least squares on the slots in use; atoms that are not positive leave, and the rest is solved again."""
    m = gram.shape[0] - 1
    at = at.sort(1).values
    at = at[:, : max(1, int((at < m).sum(1).max()))]
    for _ in range(4):
        used = at < m
        system = gram[at[:, :, None], at[:, None, :]] + torch.diag_embed(torch.where(used, 1e-7, 1.0).to(gram.dtype))
        z = torch.linalg.solve_ex(system, first.gather(1, at)[:, :, None])[0][:, :, 0]
        wrong = used & ~(z > 0)
        if not bool(wrong.any()):
            break
        at = torch.where(wrong, m, at)
    return torch.where(z > 0, at, m), torch.where((at < m) & (z > 0), z, 0.0)

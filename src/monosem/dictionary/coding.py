"""Nonnegative sparse codes of rows: orthogonal and stagewise matching pursuit, and the lasso with its duality gap."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import DataError, ShapeError, check
from monosem.base.sparse import Positions, SparseCode


def nonnegative_omp(
    x: Float[Tensor, "rows d"], D: Float[Tensor, "_ n"], k: int, tol: float = 1e-6, *, chunk: int = 512
) -> Float[Tensor, "rows n"]:
    """Sparse nonnegative codes of rows: greedily one atom more, then least squares on the atoms kept nonnegative.

    Each step adds the atom of the largest positive correlation with the residual (columns of D normalised), then solves
    least squares on the support; while a coefficient would not be positive, it moves toward that solution up to
    the boundary and drops the atoms that reach zero. A row stops at k atoms, at a relative residual of
    `tol`, or when no atom correlates positively. Without a limit on k this is Lawson and Hanson's active-set method.
    float64 inside; the result has the dtype of x.

    Shapes: x [rows, d], D [d, n]; any column norms, a zero column is never chosen.
    Equation:
        x ~ D z,  z >= 0,  |z|_0 <= k
    Source:
        Bruckstein, Elad and Zibulevsky (2008), On the uniqueness of nonnegative sparse solutions;
        Lawson and Hanson (1974), Solving least squares problems, chapter 23.
    Raises:
        ShapeError: x and D have different widths.

    Example:
        >>> nonnegative_omp(torch.tensor([[3.0, 0.0, 1.0]]), torch.eye(3), k=2)
        tensor([[3., 0., 1.]])
    """
    check(x.shape[1] == D.shape[0], f"d = {x.shape[1]} in x but {D.shape[0]} in D; make them agree", ShapeError)
    check(k >= 1, f"k = {k} atoms cannot code anything; ask for at least 1")
    check(bool(x.isfinite().all() and D.isfinite().all()), "x or D holds NaN or infinity; clean it first", DataError)
    norms = D.double().norm(dim=0)
    unit = D.double() / norms.masked_fill(norms == 0, 1.0)
    codes = torch.zeros(x.shape[0], D.shape[1], dtype=x.dtype)
    for start in range(0, x.shape[0], chunk):
        z = _pursue(x[start : start + chunk].double(), unit, min(k, *D.shape), tol)
        codes[start : start + chunk] = (z / norms.masked_fill(norms == 0, 1.0)).to(x.dtype)
    return codes


def _pursue(x: Tensor, D: Tensor, k: int, tol: float) -> Tensor:
    """Codes of a chunk. Slot s of row r holds atom `index[r, s]` where `used`; `gram` are the atoms' inner products."""
    rows, width = x.shape
    index = torch.zeros(rows, k, dtype=torch.int64)
    used = torch.zeros(rows, k, dtype=torch.bool)
    coef = torch.zeros(rows, k, dtype=torch.float64)
    atoms = torch.zeros(rows, k, width, dtype=torch.float64)
    gram = torch.zeros(rows, k, k, dtype=torch.float64)
    residual, error, goal = x.clone(), x.square().sum(1), tol**2 * x.square().sum(1)
    live = torch.arange(rows)
    for step in range(3 * k):
        live = live[(error[live] > goal[live]) & ~used[live].all(1)]
        correlation = residual[live] @ D
        row, slot = used[live].nonzero(as_tuple=True)
        correlation[row, index[live[row], slot]] = -1.0
        best, atom = correlation.max(1)
        some = best > 1e-12 * x[live].norm(dim=1)
        live, atom = live[some], atom[some]
        if live.numel() == 0:
            break
        slot = used[live].int().argmin(1)
        new = D[:, atom].T
        index[live, slot], atoms[live, slot] = atom, new
        against = torch.einsum("rsd,rd->rs", atoms[live], new)
        gram[live, slot], gram[live, :, slot] = against, against
        keep = used[live]
        keep[torch.arange(live.numel()), slot] = True
        part = slice(0, min(step + 1, k))  # slots beyond are free in every row
        local = atoms[live][:, part]
        z, keep_part = nonnegative_least_squares(
            gram[live][:, part, part], torch.einsum("rsd,rd->rs", local, x[live]), coef[live][:, part], keep[:, part]
        )
        residual[live] = x[live] - torch.einsum("rs,rsd->rd", z, local)
        error[live] = residual[live].square().sum(1)
        coef[live, part], used[live, part] = z, keep_part
    return torch.zeros(rows, D.shape[1], dtype=torch.float64).scatter_add_(1, index, coef * used)


def nonnegative_least_squares(
    gram: Float[Tensor, "rows s s"],
    rhs: Float[Tensor, "rows s"],
    coef: Float[Tensor, "rows s"],
    used: Bool[Tensor, "rows s"],
) -> tuple[Tensor, Tensor]:
    """(solution, atoms kept): Lawson and Hanson's inner loop from a feasible `coef`, dropping atoms that reach zero."""
    identity = torch.eye(gram.shape[1], dtype=gram.dtype)
    for _ in range(gram.shape[1] + 1):
        both = used[:, :, None] & used[:, None, :]
        system = torch.where(both, gram, 0.0) + identity * torch.where(used, 1e-13, 1.0)[:, None, :]
        target = torch.linalg.solve_ex(system, torch.where(used, rhs, 0.0)[:, :, None])[0][:, :, 0]
        blocked = used & (target <= 0)
        if not bool(blocked.any()):
            break
        ratio = torch.where(blocked, coef / (coef - target).clamp(min=1e-300), torch.inf)
        stride = ratio.amin(1, keepdim=True).clamp(max=1.0)
        dropped = blocked & (ratio <= stride)
        coef = torch.where(dropped, 0.0, coef + stride * (target - coef))
        used = used & ~dropped
    return torch.where(used, target, 0.0), used


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
        index, value, error = _pursue_stagewise(x[start : start + chunk], D, gram, chance, tol, among, limit)
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


def _pursue_stagewise(
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
        at, z = _solve_positive(torch.cat([at, atom], 1), first[live], gram)
        if at.shape[1] > index.shape[1]:
            grow = at.shape[1] - index.shape[1]
            index = torch.nn.functional.pad(index, (0, grow), value=m)
            value = torch.nn.functional.pad(value, (0, grow))
        index[live], value[live] = m, 0.0
        index[live, : at.shape[1]], value[live, : at.shape[1]] = at, z
        error[live] = (energy[live] - (z * first[live].gather(1, at)).sum(1)).clamp(min=0.0)
        live = live[error[live] < before * (1 - 1e-4)]
    return index, value, error


def _solve_positive(
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

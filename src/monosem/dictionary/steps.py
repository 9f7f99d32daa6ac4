"""Steps on a dictionary that is given codes: least squares, what is left of the rows, what each atom is worth."""

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.sparse import SparseCode


def reconstruct(code: SparseCode, D: Float[Tensor, "d m"]) -> Float[Tensor, "rows d"]:
    """D z of every row."""
    return torch.nn.functional.embedding_bag(
        code.at.col,
        D.T.contiguous(),
        code.at.crow,
        mode="sum",
        per_sample_weights=code.values,
        include_last_offset=True,
    )


def code_moment(code: SparseCode, x: Float[Tensor, "rows d"]) -> Float[Tensor, "m d"]:
    """Z^T X."""
    order, offsets = code.at.latent_major
    return torch.nn.functional.embedding_bag(
        code.at.row[order], x, offsets, mode="sum", per_sample_weights=code.values[order], include_last_offset=True
    )


def code_gram(code: SparseCode) -> Float[Tensor, "m m"]:
    """Z^T Z, from the pairs of atoms that share a row."""
    m, counts, start = code.n_q, code.at.crow.diff(), code.at.crow[:-1]
    gram = torch.zeros(m * m, dtype=torch.float64)
    cell = torch.arange(code.at.nnz)
    row = code.at.row
    for shift in range(int(counts.max()) if counts.numel() else 0):
        other = start[row] + shift
        here = shift < counts[row]
        i, j = cell[here], other[here]
        gram += torch.bincount(
            code.at.col[i] * m + code.at.col[j], weights=(code.values[i] * code.values[j]).double(), minlength=m * m
        )
    return gram.view(m, m)


def fit(
    code: SparseCode, x: Float[Tensor, "rows d"], ridge: float = 1e-4
) -> tuple[Float[Tensor, "d m"], Float[Tensor, " d"]]:
    """Unit atoms and the offset that fit the rows best by least squares, given the codes (MOD with an intercept).

    Equation:
        min over D, b of sum over rows |x - D z - b|^2 + ridge |D diag(Z^T Z)^(1/2)|^2
    Source:
        Engan, Aase and Husoy (1999), Method of optimal directions for frame design.
    """
    mean_z = code.latent_sum(code.values).double() / code.batch
    mean_x = x.mean(0, dtype=torch.float64)
    gram = code_gram(code) - code.batch * torch.outer(mean_z, mean_z)
    right = code_moment(code, x).double() - code.batch * torch.outer(mean_z, mean_x)
    power = gram.diagonal().clamp(min=1e-12)
    gram = gram + torch.diag(ridge * power + 1e-9 * power.max())
    D = torch.linalg.solve(gram, right).T
    offset = mean_x - D @ mean_z
    return torch.nn.functional.normalize(D, dim=0).float(), offset.float()


def company(code: SparseCode) -> Float[Tensor, " m"]:
    """How much more often than by chance another atom fires along with each atom, the most faithful companion.

    Two atoms that span the plane of two features without pointing at them fire together; features fire alone.

    Equation:
        max over i of (Pr(i | j) - Pr(i)) / (1 - Pr(i))
    """
    both = code_gram(code.with_values(torch.ones_like(code.values)))
    fires = both.diagonal().clone()
    rate = fires / code.batch
    given = both / fires.clamp(min=1.0)  # [i, j] = Pr(i | j)
    excess = (given - rate[:, None]) / (1.0 - rate[:, None]).clamp(min=1e-3)
    return excess.fill_diagonal_(0.0).amax(0).clamp(min=0.0).float()


def strain(code: SparseCode, x: Float[Tensor, "rows d"], residual: Float[Tensor, "rows d"]) -> Float[Tensor, " m"]:
    """The share of a row that is left over where an atom carries it, each row weighted by what the atom carries.

    An atom between two features leaves half of both over; one that is right leaves what every atom leaves.

    Equation:
        sum over rows of z_j^2 |r|^2 / |x|^2, over sum of z_j^2
    """
    left = (residual.square().sum(1) / x.square().sum(1).clamp(min=1e-12)).clamp(max=1.0)
    power = code.values.square()
    return code.latent_sum(power * left[code.at.row]) / code.latent_sum(power).clamp(min=1e-12)


def agreement(code: SparseCode, residual: Float[Tensor, "rows d"], D: Float[Tensor, "d m"]) -> Float[Tensor, " m"]:
    """The cosine between what even and odd rows would make of each atom.

    Equation:
        a_half = d_j + sum over half the rows of z_j r / sum over these of z_j^2;  cos(a_even, a_odd)
    """
    halves = []
    for half in (0, 1):
        mine = code.with_values(code.values * (code.at.row % 2 == half))
        power = mine.latent_sum(mine.values.square()).clamp(min=1e-12)
        halves.append(torch.nn.functional.normalize(D.T + code_moment(mine, residual) / power[:, None], dim=1))
    return (halves[0] * halves[1]).sum(1)

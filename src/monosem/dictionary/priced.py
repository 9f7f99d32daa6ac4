"""Nonnegative codes in which every atom has its price: the coder of discovery."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Priced:
    """Codes of rows by slots: the atom of each (m: empty), its coefficient, and what it is worth above its price.

    `error` is |y - A z|^2 and `price` the sum of the prices; `loss` = error / 2 + price is what coding minimises.

    Shapes: atom, value, worth [rows, slots]; error, price [rows].
    """

    atom: Int[Tensor, "rows slots"]
    value: Float[Tensor, "rows slots"]
    worth: Float[Tensor, "rows slots"]
    error: Float[Tensor, " rows"]
    price: Float[Tensor, " rows"]

    @property
    def loss(self) -> Float[Tensor, " rows"]:
        """error / 2 + price."""
        return self.error / 2 + self.price

    def dense(self, m: int) -> Float[Tensor, "rows m"]:
        """Codes as a matrix."""
        z = self.value.new_zeros(self.atom.shape[0], m + 1)
        return z.scatter_(1, self.atom, self.value)[:, :m]

    def sum_of(self, values: Float[Tensor, "rows slots"], m: int) -> Float[Tensor, " m"]:
        """A number per slot, summed atom by atom."""
        return values.new_zeros(m + 1).index_add_(0, self.atom.flatten(), values.flatten())[:m]


def priced_pursuit(
    first: Float[Tensor, "rows m"],
    energy: Float[Tensor, " rows"],
    gram: Float[Tensor, "m m"],
    price: Float[Tensor, " m"],
    *,
    barred: Int[Tensor, "rows b"] | None = None,
    limit: int = 12,
    chunk: int = 4096,
) -> Priced:
    """Greedy nonnegative codes: an atom enters a row where it explains more than its price, else it leaves.

    Each step adds the atom of the largest gain, solves least squares on the support, and drops atoms, the worst first,
    that are not positive or no longer worth their price. A row ends when its loss stops falling, or at `limit` atoms.
    `first` = y A, `energy` = |y|^2 and `gram` = A^T A are all that is read; `barred` atoms do not enter a row.

    Equation:
        min over S, z >= 0 of |y - A_S z|^2 / 2 + sum of price over S
        gain_j = <a_j, r>_+^2 / (2 |a_j|^2) - price_j,  worth_j = z_j^2 / (2 (G_S^-1)_jj) - price_j
    """
    m = gram.shape[0]
    padded = gram.new_zeros(m + 1, m + 1)
    padded[:m, :m] = gram
    prices = torch.cat([price, price.new_zeros(1)])
    limit = min(limit, m)
    parts = []
    for start in range(0, first.shape[0], chunk):
        part = slice(start, start + chunk)
        bars = None if barred is None else barred[part]
        parts.append(_pursue(first[part], energy[part], padded, prices, bars, limit))
    if not parts:
        empty = first.new_zeros(0, 1)
        return Priced(empty.long(), empty, empty, empty[:, 0], empty[:, 0])
    slots = max(part.atom.shape[1] for part in parts)
    return Priced(
        torch.cat([_wider(part.atom, slots, m) for part in parts]),
        torch.cat([_wider(part.value, slots, 0.0) for part in parts]),
        torch.cat([_wider(part.worth, slots, 0.0) for part in parts]),
        torch.cat([part.error for part in parts]),
        torch.cat([part.price for part in parts]),
    )


def _wider(x: Tensor, slots: int, empty: float) -> Tensor:
    return torch.nn.functional.pad(x, (0, slots - x.shape[1]), value=empty)


def _pursue(first: Tensor, energy: Tensor, gram: Tensor, prices: Tensor, barred: Tensor | None, limit: int) -> Priced:
    rows, m = first.shape
    half = gram.diagonal()[:m].clamp(min=1e-12) * 2
    atom, live = torch.full((rows, 1), m), torch.arange(rows)
    value, worth = first.new_zeros(rows, 1), first.new_zeros(rows, 1)
    error, paid = energy.clone(), first.new_zeros(rows)
    wide = torch.nn.functional.pad(first, (0, 1))
    for _ in range(2 * limit):
        at, z = atom[live], value[live]
        left = wide[live] - torch.nn.functional.embedding_bag(at, gram, mode="sum", per_sample_weights=z)
        gain = left[:, :m].clamp(min=0.0).square() / half - prices[:m]
        gain = torch.nn.functional.pad(gain, (0, 1)).scatter_(1, at, -1.0)
        if barred is not None:
            gain.scatter_(1, barred[live], -1.0)
        best, new = gain[:, :m].max(1)
        some = (best > 0) & ((at < m).sum(1) < limit)
        live, at, new = live[some], at[some], new[some]
        if live.numel() == 0:
            break
        at, z, w, fitted = _solve_priced(torch.cat([at, new[:, None]], 1), wide[live], gram, prices)
        cost = prices[at].sum(1)
        after = (energy[live] - fitted).clamp(min=0.0)
        better = after / 2 + cost < (error[live] / 2 + paid[live]) * (1 - 1e-6) - 1e-6
        live, at, z, w, after, cost = live[better], at[better], z[better], w[better], after[better], cost[better]
        if at.shape[1] > atom.shape[1]:
            atom, value, worth = (_wider(t, at.shape[1], e) for t, e in ((atom, m), (value, 0.0), (worth, 0.0)))
        atom[live], value[live], worth[live] = m, 0.0, 0.0
        atom[live, : at.shape[1]], value[live, : at.shape[1]], worth[live, : at.shape[1]] = at, z, w
        error[live], paid[live] = after, cost
        if live.numel() == 0:
            break
    return Priced(atom, value, worth, error, paid)


def _solve_priced(
    at: Int[Tensor, "rows slots"],
    first: Float[Tensor, "rows atoms"],
    gram: Float[Tensor, "atoms atoms"],
    prices: Tensor,
) -> tuple[Int[Tensor, "rows kept"], Float[Tensor, "rows kept"], Float[Tensor, "rows kept"], Float[Tensor, " rows"]]:
    """(atoms, coefficients, worths, fitted energy) on given supports; the worst atom leaves until all are worth it."""
    m = gram.shape[0] - 1
    at = at.sort(1).values
    at = at[:, : max(1, int((at < m).sum(1).max()))].contiguous()
    z, w = first.new_zeros(at.shape), first.new_zeros(at.shape)
    todo = torch.arange(at.shape[0])
    for _ in range(at.shape[1]):
        here = at[todo]
        used = here < m
        system = gram[here[:, :, None], here[:, None, :]]
        scale = torch.where(used, 1e-6 * system.diagonal(dim1=1, dim2=2), 1.0)
        inverse = torch.linalg.inv_ex(system + torch.diag_embed(scale))[0]
        right = first[todo].gather(1, here) * used
        solution = (inverse @ right[:, :, None])[:, :, 0]
        value = solution * solution.abs() / (2 * inverse.diagonal(dim1=1, dim2=2).clamp(min=1e-12)) - prices[here]
        value = torch.where(used, value, 0.0)
        z[todo], w[todo] = torch.where(used, solution, 0.0), value
        lowest, which = torch.where(used, value, torch.inf).min(1)
        wrong: Bool[Tensor, " rows"] = (lowest < 0) & used.any(1)
        if not bool(wrong.any()):
            break
        todo = todo[wrong]
        at[todo, which[wrong]] = m
    gone = at == m
    z, w = z.masked_fill(gone, 0.0), w.masked_fill(gone, 0.0)
    order = at.argsort(1)
    at, z, w = at.gather(1, order), z.gather(1, order), w.gather(1, order)
    return at, z, w, (z * first.gather(1, at)).sum(1)

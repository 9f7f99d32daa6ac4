"""The search for a sparse model of rows: passes of coding and fitting, births, deaths, merging, and exact pruning."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.seeds import philox
from monosem.dictionary.climb import unexplained
from monosem.dictionary.priced import Priced
from monosem.dictionary.sparse_model import (
    FLOOR,
    UNEXPLAINED,
    SparseModel,
    fit_background,
    refreshed_numbers,
    typical_length,
)

MERGE = 0.97
"""Two atoms of a larger cosine become one."""
MIRROR = 0.9
"""Two atoms of a smaller cosine than minus this are both signs of one direction."""
QUANTILES = (0.5, 0.1)
"""Of the ratio of two atoms that fire together, for the direction that both may stand for."""
MOST = 6
"""No more atoms than this many times d are tried."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to be explained, with their background density, and the keyed numbers that a search draws from."""

    x: Float[Tensor, "rows d"]
    seed: int
    name: str = "search"

    @cached_property
    def background(self) -> Float[Tensor, " rows"]:
        """log B of every row."""
        return fit_background(self.x).log_density(self.x)

    def rng(self, *counters: int) -> np.random.Generator:
        """Numbers of a step."""
        return philox(self.seed, f"discover/{self.name}", *counters)


@dataclass(frozen=True, eq=False)
class State:
    """A model, the codes of the rows under it, and how good it is."""

    model: SparseModel
    code: Priced
    score: float
    """F = sum of the rows' scores less what the atoms cost: (d / 2) log(4 uses) each."""


def scored(rows: Rows, model: SparseModel, thorough: bool = True) -> State:
    """The rows coded under a model. `thorough`: rows left unexplained are coded again in two other ways."""
    code = model.code(rows.x)
    if thorough and model.m > 1:
        code = _second_chances(rows.x, model, code)
    total = float(model.scores(code.loss, rows.background).double().sum())
    uses = code.sum_of((code.value > 0).float(), model.m).clamp(min=1.0).double()
    return State(model, code, total - float((rows.x.shape[1] / 2 * (4 * uses).log()).sum()))


def _second_chances(x: Tensor, model: SparseModel, code: Priced) -> Priced:
    """Rows with much left over, coded again without the largest, then without the least worthy of their atoms."""
    d, m = x.shape[1], model.m
    for largest in (True, False):
        pick = code.value if largest else -code.worth
        bad = ((code.error > UNEXPLAINED * d) & (code.atom[:, 0] < m)).nonzero().flatten()
        if bad.numel() == 0:
            return code
        ranked = torch.where(code.atom[bad] < m, pick[bad], -torch.inf)
        barred = code.atom[bad].gather(1, ranked.argmax(1, keepdim=True))
        code = _better(code, bad, model.code(x[bad], barred), m)
    return code


def _better(code: Priced, at: Tensor, other: Priced, m: int) -> Priced:
    """Codes with those of some rows replaced where the loss is lower."""
    wins = other.loss < code.loss[at]
    slots = max(code.atom.shape[1], other.atom.shape[1])
    pad = torch.nn.functional.pad
    parts = []
    for mine, theirs, empty in (
        (code.atom, other.atom, m),
        (code.value, other.value, 0.0),
        (code.worth, other.worth, 0.0),
    ):
        whole = pad(mine, (0, slots - mine.shape[1]), value=empty)
        whole[at[wins]] = pad(theirs, (0, slots - theirs.shape[1]), value=empty)[wins]
        parts.append(whole)
    error, price = code.error.clone(), code.price.clone()
    error[at[wins]], price[at[wins]] = other.error[wins], other.price[wins]
    return Priced(parts[0], parts[1], parts[2], error, price)


def _refitted(x: Tensor, model: SparseModel, code: Priced, shift: bool) -> SparseModel:
    """Atoms by least squares on their codes, rows weighted by 1 / (1 + |r|^2 / 4d); with `shift` the offset too."""
    d, m = x.shape[1], model.m
    weight = 1.0 / (1.0 + code.error / (4 * d))
    z = code.dense(m)
    if shift:
        z = torch.cat([z, z.new_ones(z.shape[0], 1)], 1)
        target = x
    else:
        target = x - model.offset
    zw = z * weight[:, None]
    gram = (zw.T @ z).double()
    right = (zw.T @ target).double()
    power = gram.diagonal().clone()
    gram += torch.diag(1e-5 * power + 1e-9 * power.max().clamp(min=1e-30))
    solution = torch.linalg.solve(gram, right)
    unused = power[:m] <= 0
    D = torch.where(unused, model.D, solution[:m].T.float())
    D = torch.nn.functional.normalize(D, dim=0)
    D = torch.where(D.isfinite().all(0) & (D.norm(dim=0) > 0.5), D, model.D)
    offset = solution[m].float() if shift else model.offset
    return replace(model, D=D, offset=offset)


def _with_factors(x: Tensor, model: SparseModel, code: Priced) -> SparseModel:
    """The factors again: the top directions of what the codes leave over, beyond the noise."""
    q = model.factors.shape[1]
    residual = x - model.offset - code.dense(model.m) @ model.D.T
    weight = 1.0 / (1.0 + code.error / (4 * x.shape[1]))
    covariance = ((residual * weight[:, None]).T @ residual).double() / weight.sum()
    values, vectors = torch.linalg.eigh(covariance)
    strength = (values[-q:] - values[: len(values) - q].median()).clamp(min=0.0).sqrt()
    return replace(model, factors=(vectors[:, -q:] * strength).float())


def without(model: SparseModel, keep: Bool[Tensor, " m"]) -> SparseModel:
    """A model of some of its atoms."""
    return replace(model, D=model.D[:, keep], rates=model.rates[keep], sizes=model.sizes[keep])


def extended(model: SparseModel, D: Float[Tensor, "d new"], size: float, rows: int) -> SparseModel:
    """A model with new atoms, each as rare as it is to be sure of."""
    new = D.shape[1]
    return _joined(model, D, model.rates.new_full((new,), 8.0 / rows), model.sizes.new_full((new,), size))


def _joined(model: SparseModel, D: Tensor, rates: Tensor, sizes: Tensor) -> SparseModel:
    return replace(
        model,
        D=torch.cat([model.D, D], 1),
        rates=torch.cat([model.rates, rates]),
        sizes=torch.cat([model.sizes, sizes]),
    )


def _culled(rows: Rows, model: SparseModel, code: Priced) -> SparseModel:
    """Without atoms that fire in fewer than four rows or are not worth their description; near twins become one."""
    count, m = rows.x.shape[0], model.m
    uses = code.sum_of((code.value > 0).float(), m)
    keep = (uses >= 4) & (code.sum_of(code.worth, m) > rows.x.shape[1] / 2 * math.log(count))
    order = uses.argsort(descending=True)
    close = (model.D.T @ model.D)[order][:, order].tril(-1) > MERGE
    twin = torch.zeros(m, dtype=torch.bool)
    twin[order] = (close & keep[order][None, :]).any(1)
    keep &= ~twin
    return without(model, keep) if bool(keep.any()) else model


def _newborn(rows: Rows, model: SparseModel, code: Priced, step: int) -> Float[Tensor, "d new"]:
    """Directions of rows that are not explained, and of what is left of them, half and half."""
    d, m = rows.x.shape[1], model.m
    bad = (code.error > UNEXPLAINED * d).nonzero().flatten()
    room = min(MOST * d - m, d, bad.numel())
    if room <= 0:
        return rows.x.new_zeros(d, 0)
    chosen = bad[torch.from_numpy(rows.rng(1, step).permutation(bad.numel())[:room])]
    residual = rows.x[chosen] - model.offset
    half = chosen.numel() // 2
    residual[half:] -= code.dense(m)[chosen[half:]] @ model.D.T
    return torch.nn.functional.normalize(residual, dim=1).T


@dataclass(frozen=True)
class Plan:
    """How long a fit is: `passes`; births up to the share `breeding` of them; whether the offset may shift."""

    passes: int = 26
    breeding: float = 0.7
    shift: bool = False
    prune: bool = True


def fitted(rows: Rows, model: SparseModel, plan: Plan, stream: int = 0) -> State:
    """Passes of coding and fitting from a model, while the noise cools; exact pruning twice near the end."""
    floor = FLOOR * typical_length(rows.x - model.offset)
    prunes = {plan.passes - 12, plan.passes - 6, plan.passes - 2} if plan.prune else set()
    for step in range(plan.passes):
        state = scored(rows, model, thorough=step >= plan.passes // 3)
        model = _refitted(rows.x, model, state.code, plan.shift)
        if model.factors.shape[1] and step >= 2:
            model = _with_factors(rows.x, model, state.code)
        model = refreshed_numbers(model, rows.x, state.code, rows.background, floor)
        model = _culled(rows, model, state.code)
        if step % 2 == 0 and step < plan.breeding * plan.passes:
            again = scored(rows, model, thorough=False)
            born = _newborn(rows, model, again.code, 1000 * stream + step)
            model = extended(model, born, float(model.sizes.median()), rows.x.shape[0])
        if step in prunes:
            model = pruned(rows, model, 1000 * stream + step)
    return scored(rows, model)


def pruned(rows: Rows, model: SparseModel, step: int, sample: int = 120) -> SparseModel:
    """Without atoms whose rows are coded as well by the others: first one at a time, then many at once.

    Wrong atoms prop each other up: barred alone, each is replaced by another wrong one. So the atoms that would be
    missed least leave together, as many of them as lower the cost of the rows and the atoms most.
    """
    state = scored(rows, model)
    rise, price, heirs = _missed(rows, state, step, sample)
    keep, protected = torch.ones(model.m, dtype=torch.bool), torch.zeros(model.m, dtype=torch.bool)
    for j in (rise - price).argsort().tolist():
        if float(rise[j]) < float(price[j]) and not bool(protected[j]):
            keep[j] = False
            protected |= heirs[j]
    if not bool(keep.any()):
        return model
    best, least = keep, float(price[~keep].sum())
    order = rise.argsort()
    size = 2
    while size <= model.m // 2:
        some = keep.clone()
        some[order[:size]] = False
        gained = float(price[~some].sum()) - _joint_rise(rows, state, some)
        if gained > least and bool(some.any()):
            best, least = some, gained
        size = max(size + 1, size * 3 // 2)
    return without(model, best)


def _joint_rise(rows: Rows, state: State, keep: Bool[Tensor, " m"]) -> float:
    """What the rows lose when some atoms leave together."""
    gone = torch.cat([~keep, torch.zeros(1, dtype=torch.bool)])
    row = gone[state.code.atom].any(1).nonzero().flatten()
    rest = without(state.model, keep)
    before = state.model.scores(state.code.loss[row], rows.background[row])
    after = rest.scores(rest.code(rows.x[row]).loss, rows.background[row])
    return float((before - after).double().sum())


def _missed(rows: Rows, state: State, step: int, sample: int) -> tuple[Tensor, Tensor, Tensor]:
    """(what the rows lose when an atom is barred, what it costs, which atoms take its place), each barred alone.

    Up to `sample` rows of an atom are coded again. An atom takes the place of another on over 30 % of those rows.
    """
    code, model, m, d = state.code, state.model, state.model.m, rows.x.shape[1]
    row, slot = (code.atom < m).nonzero(as_tuple=True)
    atom = code.atom[row, slot]
    shuffle = torch.from_numpy(rows.rng(2, step).permutation(row.numel()))
    order = shuffle[atom[shuffle].argsort(stable=True)]
    row, atom = row[order], atom[order]
    uses = torch.bincount(atom, minlength=m)
    place = torch.arange(atom.numel()) - (uses.cumsum(0) - uses)[atom]
    row, atom = row[place < sample], atom[place < sample]
    other = model.code(rows.x[row], atom[:, None])
    before = model.scores(code.loss[row], rows.background[row])
    lost = before - model.scores(other.loss, rows.background[row])
    drawn = uses.clamp(max=sample)
    rise = torch.zeros(m).index_add_(0, atom, lost) * (uses / drawn.clamp(min=1))
    price = d / 2 * (4 * uses.clamp(min=1).float()).log() + 3
    taken = torch.zeros(m * (m + 1))
    for slots, sign in ((other.atom, 1.0), (code.atom[row], -1.0)):
        index = (atom[:, None] * (m + 1) + slots).flatten()
        taken.index_add_(0, index, taken.new_full((index.numel(),), sign))
    return rise, price, taken.view(m, m + 1)[:, :m] > 0.3 * drawn[:, None]


Move = Callable[[Rows, State, int], SparseModel | None]
"""(rows, state, number of the try) -> another model to go on from; None where the move does not apply."""


def composite(rows: Rows, state: State, step: int) -> SparseModel | None:
    """Without atoms that nonnegative sums of up to three others come close to: mixtures of features."""
    keep = unexplained(state.model.D, 0.8 if step % 2 == 0 else 0.65)
    return None if bool(keep.all()) else without(state.model, keep)


def _reheat(rows: Rows, state: State, step: int) -> SparseModel | None:
    """Eight times the noise, to cool again, once: atoms that were frozen too early may still move."""
    return None if step else replace(state.model, noise=8 * state.model.noise)


def _costly(rows: Rows, state: State, step: int) -> SparseModel | None:
    """New atoms from rows whose codes are dear: the row, without none, one or two of its largest terms."""
    code, model = state.code, state.model
    dear = (code.loss > 1.3 * code.loss[code.atom[:, 0] < model.m].median()).nonzero().flatten()
    room = min(MOST * rows.x.shape[1] - model.m, rows.x.shape[1], dear.numel())
    few = dear.numel() < 0.02 * rows.x.shape[0]
    if room <= 0 or few:
        return None
    chosen = dear[torch.from_numpy(rows.rng(3, step).permutation(dear.numel())[:room])]
    terms = torch.zeros(room, model.m + 1).scatter_(1, code.atom[chosen], code.value[chosen])[:, : model.m]
    largest = terms.topk(min(2, model.m), 1)
    drop = torch.arange(largest.values.shape[1])[None, :] < (torch.arange(room) % 3)[:, None]
    part = torch.zeros_like(terms).scatter_(1, largest.indices, largest.values * drop)
    left = rows.x[chosen] - model.offset - part @ model.D.T
    born = torch.nn.functional.normalize(left, dim=1).T
    return extended(model, born, float(model.sizes.median()), rows.x.shape[0])


def mirrored(rows: Rows, state: State, step: int) -> SparseModel | None:
    """Both signs of every direction, where a quarter of the atoms have their opposite: features have signs here."""
    model = state.model
    cosine = model.D.T @ model.D
    paired = cosine.amin(1) < -MIRROR
    kept = list[int]()
    for j in state.code.sum_of((state.code.value > 0).float(), model.m).argsort(descending=True).tolist():
        if not kept or float(cosine[kept, j].min()) >= -MIRROR:
            kept.append(j)
    done = bool(paired.all()) and 2 * len(kept) == model.m
    if done or float(paired.float().mean()) < 0.25 or 2 * len(kept) > MOST * model.D.shape[0]:
        return None
    both = torch.tensor(kept).repeat(2)
    D = model.D[:, both] * torch.tensor([1.0, -1.0]).repeat_interleave(len(kept))
    return replace(model, D=D, rates=model.rates[both], sizes=model.sizes[both], noise=4 * model.noise)


def straightened(rows: Rows, state: State, step: int) -> SparseModel | None:
    """New atoms from pairs of which the rarer fires in most of its rows with the other.

    A feature d may be held as a skew atom w that another atom sets right: w = d - c d_j fits every row as well, at the
    price of one atom more. Where feature j is silent, z_j / z_w is c: the median, or nearly the least where features
    fire together. Both are tried.

    Equation: w + sum over such j of quantile_q(z_j / z_w) d_j, normalised, over the rows in which both fire
    """
    model, z = state.model, state.code.dense(state.model.m)
    on = (z > 0).float()
    given = (on.T @ on) / on.sum(0).clamp(min=1.0)[:, None]
    skew = ((given > 0.5) & (given >= given.T)).fill_diagonal_(False)
    who = skew.any(1).nonzero().flatten()
    if who.numel() == 0:
        return None
    by = who.repeat(len(QUANTILES))[: max(0, MOST * model.D.shape[0] - model.m)]
    born = model.D[:, by].clone()
    for column, w in enumerate(by.tolist()):
        for j in skew[w].nonzero().flatten().tolist():
            both = (z[:, w] > 0) & (z[:, j] > 0)
            ratio = (z[both, j] / z[both, w]).quantile(QUANTILES[column // who.numel()])
            born[:, column] += ratio * model.D[:, j]
    born = torch.nn.functional.normalize(born, dim=0)
    return replace(_joined(model, born, model.rates[by], model.sizes[by]), noise=2 * model.noise)


MOVES: tuple[Move, ...] = (composite, _costly, _reheat)
SKEW_MOVES: tuple[Move, ...] = (mirrored, straightened)
"""Moves for atoms that others set right; they come once all features are held, if only in company."""


def polished(
    rows: Rows,
    state: State,
    tries: int,
    shift: bool,
    tell: Callable[[State], None] | None = None,
    moves: tuple[Move, ...] = MOVES,
) -> State:
    """Moves in turn, `tries` in all; ends early when a whole round of them brings nothing."""
    idle = 0
    for step in range(tries):
        move = moves[step % len(moves)]
        other = move(rows, state, step // len(moves))
        if other is not None:
            stream = step + (10 if moves is MOVES else 30)
            breeding = 0.3 if move is _costly else 0.0
            there = fitted(rows, other, Plan(passes=13, breeding=breeding, shift=shift), stream=stream)
            idle = 0 if there.score > state.score + 3 else idle + 1
            state = there if there.score > state.score else state
        else:
            idle += 1
        if tell is not None:
            tell(state)
        if idle >= len(moves):
            break
    return state

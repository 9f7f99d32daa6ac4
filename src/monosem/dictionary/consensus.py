"""Consensus of several discoveries: the directions that enough of the runs found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.base.errors import DataError, ShapeError, check
from monosem.dictionary.climb import Settings
from monosem.dictionary.coded import CodedRows
from monosem.dictionary.discover import Discovery, discover

LEVELS = (1.0, 1.5, 2.0 / 3.0)
"""Factors on the residuals to which runs code rows, in turn: fewer and more active atoms than one run has."""

_Group = dict[int, int]  # run -> the atom of it


def consensus(runs: Sequence[Discovery], *, share: float = 0.6, same: float = 0.9) -> Discovery:
    """The atoms that at least a share of the runs found, each the mean of what the runs made of it.

    Atoms of two runs are one when each is the other's nearest and |cos| is at least `same`; they are joined in falling
    |cos|, never two of one run. The order of the runs does not matter. A pair (p, r) stays a pair: both sides are
    averaged over the same atoms with the same signs, which are those of the most confident one. One run is itself.

    Equation:
        p = normalise(sum over its runs i of s_i p_i),  r = normalise(sum of s_i r_i),  s_i = sign <p_i, p_top>
        confidence = (runs that found it / runs) mean of confidence_i,  rate = mean of rate_i,  l0 = sum of rates
    Shapes: every run has the same n_p and n_r.
    Raises:
        DataError: no run is given, or no atom is in enough of them.
        ShapeError: runs differ in n_p or n_r.
        ArgumentError: share or same is not in [0, 1].

    Example:
        >>> x = torch.eye(4).repeat(100, 1) * (1.0 + torch.arange(400)[:, None] % 7)
        >>> consensus([discover(x, seed=seed) for seed in range(2)]).anchors.k
        4
    """
    _check_runs(runs, share, same)
    if len(runs) == 1:
        return runs[0]
    runs = sorted(runs, key=lambda run: (run.anchors.k, run.confidence.tolist(), run.rates.tolist()))
    groups = [group for group in _groups(runs, same) if len(group) >= share * len(runs) - 1e-9]
    check(
        bool(groups), f"no direction is in a share {share} of {len(runs)} runs; ask for less, or give rows", DataError
    )
    confidence = torch.tensor([len(g) / len(runs) * _mean(runs, g, "confidence") for g in groups])
    by = confidence.argsort(descending=True, stable=True)
    rates = torch.tensor([_mean(runs, group, "rates") for group in groups])
    p, r = (torch.stack(side, 1)[:, by] for side in zip(*(_pair(runs, group) for group in groups), strict=True))
    offset = torch.stack([run.offset for run in runs]).mean(0)
    log = [entry | {"run": i} for i, run in enumerate(runs) for entry in run.log]
    gained, outside = _average(runs, "gain"), _average(runs, "outside")
    anchors = Anchors(p, r, "discovered")
    return Discovery(anchors, confidence[by], rates[by], float(rates.sum()), offset, log, None, gained, outside)


def _average(runs: Sequence[Discovery], name: str) -> float:
    return float(sum(getattr(run, name) for run in runs)) / len(runs)


def _check_runs(runs: Sequence[Discovery], share: float, same: float) -> None:
    check(len(runs) > 0, "no runs are given; give one discovery or more", DataError)
    for name, value in (("share", share), ("same", same)):
        check(0.0 <= value <= 1.0, f"{name} = {value} must lie in [0, 1]")
    widths = sorted({(run.anchors.p.shape[0], run.anchors.r.shape[0]) for run in runs})
    check(len(widths) == 1, f"runs have (n_p, n_r) of {widths}; give runs on the same representations", ShapeError)


def discover_often(
    x_p: Float[Tensor, "rows n_p"],
    x_r: Float[Tensor, "_ n_r"] | None = None,
    *,
    runs: int = 3,
    share: float = 0.6,
    seed: int = 0,
    progress: Callable[[float, str], None] | None = None,
    settings: Settings | None = None,
) -> Discovery:
    """The consensus of several discoveries of the same rows, with other starts and other levels of sparsity.

    Run i has the seed `seed` + i; where rows are climbed in, it codes them to LEVELS[i % 3] times the residuals of
    `settings`, so that they hold fewer or more atoms. The last entry of `log` says what the rows leave over.

    Raises: as discover and consensus do; ArgumentError when runs is below 1.
    """
    check(runs >= 1, f"runs = {runs} must be at least 1")
    s = settings or Settings()
    if runs == 1:
        return discover(x_p, x_r, seed=seed, progress=progress, settings=s)
    discoveries = []
    for i in range(runs):
        tell = None if progress is None else _part_of(progress, i, runs)
        discoveries.append(
            discover(x_p, x_r, seed=seed + i, progress=tell, settings=levelled(s, LEVELS[i % len(LEVELS)]))
        )
    agreed = consensus(discoveries, share=share)
    part = x_p[:: -(-x_p.shape[0] // s.stages[-1][0])].detach().float()
    return replace(agreed, log=[*agreed.log, CodedRows.of(part, agreed.anchors.p, agreed.offset, s.finest).entry()])


def levelled(settings: Settings, factor: float) -> Settings:
    """The same settings with every residual to which atoms are searched and fitted times a factor."""
    stages = tuple((rows, factor * tol) for rows, tol in settings.stages)
    return replace(settings, stages=stages, last=tuple(factor * tol for tol in settings.last))


def _part_of(progress: Callable[[float, str], None], i: int, runs: int) -> Callable[[float, str], None]:
    return lambda share, text: progress((i + share) / runs, f"run {i + 1} of {runs}: {text}")


def _groups(runs: Sequence[Discovery], same: float) -> list[_Group]:
    """Which atoms of the runs are one; every atom is in one group, at most one of a run in each."""
    pairs: list[tuple[float, tuple[int, int], tuple[int, int]]] = []
    for a, b in combinations(range(len(runs)), 2):
        cosine = (runs[a].anchors.p.T @ runs[b].anchors.p).abs()
        there, back = cosine.argmax(1), cosine.argmax(0)
        mutual = (back[there] == torch.arange(there.numel())) & (cosine.amax(1) >= same)
        which = mutual.nonzero().flatten()
        joined = zip(cosine[which, there[which]].tolist(), which.tolist(), there[which].tolist(), strict=True)
        pairs += [(value, (a, i), (b, j)) for value, i, j in joined]
    group: dict[tuple[int, int], _Group] = {(a, i): {a: i} for a in range(len(runs)) for i in range(runs[a].anchors.k)}
    for _, one, other in sorted(pairs, key=lambda pair: -pair[0]):
        into, of = group[one], group[other]
        if into.keys().isdisjoint(of):
            into |= of
            group |= dict.fromkeys(of.items(), into)
    return list({id(members): members for members in group.values()}.values())


def _mean(runs: Sequence[Discovery], group: _Group, name: str) -> float:
    values = [float(getattr(runs[run], name)[i]) for run, i in sorted(group.items())]
    return sum(values) / len(values)


def _pair(runs: Sequence[Discovery], group: _Group) -> tuple[Tensor, Tensor]:
    """Both sides of a group, summed with the signs of its most confident atom."""
    lead = max(sorted(group), key=lambda run: float(runs[run].confidence[group[run]]))
    towards = runs[lead].anchors.p[:, group[lead]]
    sums: list[Any] = [0.0, 0.0]
    for run, i in sorted(group.items()):
        anchors = runs[run].anchors
        sign = -1.0 if float(anchors.p[:, i] @ towards) < 0 else 1.0
        sums = [sums[0] + sign * anchors.p[:, i], sums[1] + sign * anchors.r[:, i]]
    return sums[0], sums[1]

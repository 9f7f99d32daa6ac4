"""A survey of one problem: all its patterns, what each holds, where searches end, and the least loss."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from monosem.base.errors import MonosemError
from monosem.theory.descent import starts
from monosem.theory.minima import Verdict36, trichotomy
from monosem.theory.patterns import pattern_of
from monosem.theory.problem import Problem, best_decoder, loss
from monosem.theory.search.acs import acs
from monosem.theory.search.atlas import partitions, pattern_key
from monosem.theory.search.certified import certified_optimum

MOST = 5000
"""Partitions of the features above which none is looked at."""


@dataclass(frozen=True)
class Entry:
    """One pattern: theorem 3.6's verdict on it ("" where it is no partition), the least loss met, share of searches."""

    pattern: str
    verdict: Verdict36 | str
    loss: float | None
    share: float


@dataclass(frozen=True)
class Survey:
    """Patterns by loss, and what else is known: `lower` bounds the loss of every dictionary where that is certified."""

    title: str
    entries: tuple[Entry, ...]
    least: float
    lower: float | None
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"least_loss": self.least, "lower_bound": self.lower, "patterns": [asdict(one) for one in self.entries]}


def _partitions_count(n: int, n_q: int) -> int:
    """The number of partitions of n features over at most n_q latents.

    Example:
        >>> _partitions_count(3, 2), _partitions_count(4, 4)
        (4, 15)
    """
    row = [1]
    for _ in range(n):
        row = [(row[j - 1] if j else 0) + (row[j] * j if j < len(row) else 0) for j in range(len(row) + 1)]
    return sum(row[: n_q + 1])


def survey(problem: Problem, searches: int = 8, seed: int = 0) -> Survey:
    """Every partition pattern with the verdict of theorem 3.6, repaired, and every pattern where a search ends.

    Searches are alternating convex ones from random encoders. The least loss is that over all of them and over the
    stationary points, with a certificate where `certified_optimum` gives one.
    """
    verdicts: dict[str, Verdict36 | str] = {}
    least: dict[str, float] = {}
    notes = []
    count = _partitions_count(problem.n, problem.n_q)
    if count <= MOST:
        try:
            for pattern in partitions(problem.n, problem.n_q):
                point, key = trichotomy(problem, pattern), pattern_key(pattern)
                verdicts[key] = point.verdict
                if point.W_E is not None:
                    least[key] = point.loss
        except MonosemError as error:
            notes.append(f"no verdicts on patterns: {error}")
    else:
        notes.append(f"{count:,} partitions of the features are too many to look at; these are where searches end")
    share: dict[str, float] = {}
    try:
        for W_E in starts(problem, searches, seed)[1]:
            ended = acs(problem, W_E, steps=150).W_E
            key, value = (
                pattern_key(pattern_of(problem, ended)),
                float(loss(problem, best_decoder(problem, ended), ended)),
            )
            least[key] = min(value, least.get(key, math.inf))
            share[key] = share.get(key, 0.0) + 1 / searches
    except MonosemError as error:
        notes.append(f"no search: {error}")
    entries = [Entry(key, verdicts.get(key, ""), least.get(key), share.get(key, 0.0)) for key in {**verdicts, **least}]
    entries.sort(key=lambda one: (one.loss is None, one.loss or 0.0, one.pattern))
    best, lower, how = _least(problem, min(least.values(), default=math.nan))
    notes.append(f"least loss {best:.6g} of {problem.zero_dictionary_loss:.6g} for an empty dictionary; {how}")
    kind = type(problem.activation).__name__
    sizes = f"n={problem.n}, n_p={problem.n_p}, n_r={problem.n_r}, n_q={problem.n_q}, {kind}"
    return Survey(f"{sizes}, interference M={problem.max_interference:.3g}", tuple(entries), best, lower, tuple(notes))


def _least(problem: Problem, met: float) -> tuple[float, float | None, str]:
    """(the least loss, a lower bound or None, how it is known)."""
    if 1 < problem.n_q < problem.n - 1:
        return met, None, "not certified: between one latent and n - 1 that takes minutes (certified_optimum)"
    try:
        certified = certified_optimum(problem)
    except MonosemError as error:
        return met, None, f"not certified: {error}"
    best = min(certified.loss, met) if math.isfinite(met) else certified.loss
    within = (
        "certified as the global minimum" if certified.complete else f"no dictionary is below {certified.lower:.6g}"
    )
    return best, certified.lower, within

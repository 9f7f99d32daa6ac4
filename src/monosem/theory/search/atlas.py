"""The atlas of a small problem: every pattern, what it holds, where random starts end, and the least loss."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from monosem.base.errors import MonosemError
from monosem.theory.descent import DescentConfig, descend, starts
from monosem.theory.minima import Stationary, Verdict36, trichotomy
from monosem.theory.patterns import ActivationPattern, pattern_of
from monosem.theory.problem import Problem, best_decoder, loss
from monosem.theory.search.acs import acs
from monosem.theory.search.certified import certified_optimum

MOST = 5000
"""Partitions of the features above which `survey` looks at none."""


@dataclass(frozen=True)
class AtlasEntry:
    """One pattern (latents sorted, as their order does not matter).

    `loss` is the least that any method met there (NaN: none), `verdict` theorem 3.6 repaired ("" for no partition),
    and the last three the shares of starts that end in it.
    """

    pattern: str
    loss: float
    verdict: Verdict36 | str
    adam: float = 0.0
    acs: float = 0.0
    anchored: float = 0.0


def partitions(n: int, n_q: int) -> list[ActivationPattern]:
    """Every partition of n features over at most n_q latents; the rest are dead."""
    parts: list[list[list[int]]] = [[]]
    for d in range(n):
        parts = [[*p[:i], [*p[i], d], *p[i + 1 :]] for p in parts for i in range(len(p))] + [
            [*p, [d]] for p in parts if len(p) < n_q
        ]
    return [ActivationPattern.of([*p, *([] for _ in range(n_q - len(p)))], n) for p in parts]


def pattern_key(pattern: ActivationPattern) -> str:
    """A pattern's latents that fire, sorted, as text."""
    return " ".join(sorted(str(ActivationPattern((s,), pattern.n)) for s in pattern.sets if s)) or "{}"


def atlas(problem: Problem, runs: int = 64, anchors: int = 1, steps: int = 1500, seed: int = 0) -> list[AtlasEntry]:
    """All partition patterns with their verdicts, and every pattern where Adam, ACS or anchored Adam ended.

    ACS runs from a quarter of the same starts. Losses are with the best decoder of the ending encoder.
    """
    begin = starts(problem, runs, seed)
    ended = {
        "adam": list(descend(problem, DescentConfig(steps=steps), runs, seed, begin=begin).W_E),
        "anchored": list(descend(problem, DescentConfig(steps=steps, anchors=anchors), runs, seed, begin=begin).W_E),
        "acs": _searched(problem, begin[1][: max(1, runs // 4)]),
    }
    return _entries(problem, _judged(problem), ended)


def _judged(problem: Problem) -> dict[str, Stationary]:
    return {pattern_key(p): trichotomy(problem, p) for p in partitions(problem.n, problem.n_q)}


def _searched(problem: Problem, encoders: Tensor) -> list[Tensor]:
    return [acs(problem, W_E, steps=150).W_E for W_E in encoders]


def _entries(
    problem: Problem, points: Mapping[str, Stationary], ended: Mapping[str, Sequence[Tensor]]
) -> list[AtlasEntry]:
    """The patterns that were judged, and those where encoders ended, the least loss first."""
    least = {key: point.loss for key, point in points.items() if point.W_E is not None}
    share: dict[str, dict[str, float]] = {}
    for way, encoders in ended.items():
        for W_E in encoders:
            key = pattern_key(pattern_of(problem, W_E))
            value = float(loss(problem, best_decoder(problem, W_E), W_E))
            least[key] = min(value, least.get(key, math.inf))
            row = share.setdefault(key, {})
            row[way] = row.get(way, 0.0) + 1 / len(encoders)
    entries = [
        AtlasEntry(key, least.get(key, math.nan), points[key].verdict if key in points else "", **share.get(key, {}))
        for key in {**points, **least}
    ]
    return sorted(entries, key=lambda entry: (entry.loss != entry.loss, entry.loss))


@dataclass(frozen=True)
class Survey:
    """Patterns by loss, and what else is known: `lower` bounds the loss of every dictionary where that is certified."""

    title: str
    entries: tuple[AtlasEntry, ...]
    least: float
    lower: float | None
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        patterns = [
            {"pattern": e.pattern, "verdict": e.verdict, "loss": None if math.isnan(e.loss) else e.loss, "share": e.acs}
            for e in self.entries
        ]
        return {"least_loss": self.least, "lower_bound": self.lower, "patterns": patterns}


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
    points: dict[str, Stationary] = {}
    ended: list[Tensor] = []
    notes = []
    count = _partitions_count(problem.n, problem.n_q)
    try:
        points = _judged(problem) if count <= MOST else {}
    except MonosemError as error:
        notes.append(f"no verdicts on patterns: {error}")
    if count > MOST:
        notes.append(f"{count:,} partitions of the features are too many to look at; these are where searches end")
    try:
        ended = _searched(problem, starts(problem, searches, seed)[1])
    except MonosemError as error:
        notes.append(f"no search: {error}")
    entries = sorted(_entries(problem, points, {"acs": ended}), key=lambda e: (math.isnan(e.loss), e.loss, e.pattern))
    met = entries[0].loss if entries else math.nan
    best, lower, how = _least(problem, met)
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

"""The atlas of a small problem: every pattern, what it holds, and where random starts end."""

from dataclasses import dataclass

from monosem.theory.descent import DescentConfig, descend, starts
from monosem.theory.minima import Verdict36, trichotomy
from monosem.theory.patterns import ActivationPattern, pattern_of
from monosem.theory.problem import Problem, best_decoder, loss
from monosem.theory.search.acs import acs


@dataclass(frozen=True)
class AtlasEntry:
    """One pattern (latents sorted, as their order does not matter).

    `loss` is the least that any method met there, `verdict` theorem 3.6 repaired ("" for no partition), and the
    last three the shares of starts that end in it.
    """

    pattern: str
    loss: float
    verdict: Verdict36 | str
    adam: float
    acs: float
    anchored: float


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
    least: dict[str, float] = {}
    verdicts: dict[str, Verdict36 | str] = {}
    for pattern in partitions(problem.n, problem.n_q):
        point = trichotomy(problem, pattern)
        verdicts[pattern_key(pattern)] = point.verdict
        if point.W_E is not None:
            least[pattern_key(pattern)] = point.loss
    begin = starts(problem, runs, seed)
    ended = {
        "adam": list(descend(problem, DescentConfig(steps=steps), runs, seed, begin=begin).W_E),
        "anchored": list(descend(problem, DescentConfig(steps=steps, anchors=anchors), runs, seed, begin=begin).W_E),
        "acs": [acs(problem, W_E, steps=150).W_E for W_E in begin[1][: max(1, runs // 4)]],
    }
    share: dict[str, dict[str, float]] = {}
    for way, encoders in ended.items():
        for W_E in encoders:
            key = pattern_key(pattern_of(problem, W_E))
            value = float(loss(problem, best_decoder(problem, W_E), W_E))
            least[key] = min(value, least.get(key, float("inf")))
            row = share.setdefault(key, {})
            row[way] = row.get(way, 0.0) + 1 / len(encoders)
    entries = [
        AtlasEntry(
            key,
            least.get(key, float("nan")),
            verdicts.get(key, ""),
            *(share.get(key, {}).get(way, 0.0) for way in ("adam", "acs", "anchored")),
        )
        for key in {**verdicts, **least}
    ]
    return sorted(entries, key=lambda e: (e.loss != e.loss, e.loss))

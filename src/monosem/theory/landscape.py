"""landscape: what the loss of a problem looks like, pattern by pattern, and where training can end."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from monosem.base.card import grid
from monosem.base.errors import check
from monosem.theory.descent import starts
from monosem.theory.minima import Stationary, Verdict36, trichotomy
from monosem.theory.patterns import ActivationPattern, realize
from monosem.theory.problem import Problem
from monosem.theory.search.acs import SearchResult, acs
from monosem.theory.search.atlas import partitions

COLOURS = {"trap": "#d95926", "saddle": "#2a78d6", "none": "#9a9a94", "not realizable": "#d0d0cc"}


@dataclass(frozen=True, eq=False)
class Place:
    """One pattern of a landscape: which features each latent fires on, and what theorem 3.6, repaired, says of it.

    `loss` is L~ at the stationary point, NaN where there is none; `encoder` realizes the pattern, None where nothing
    does.
    """

    pattern: ActivationPattern
    stationary: Stationary
    encoder: Float[Tensor, "n_q n_p"] | None

    @property
    def verdict(self) -> Verdict36:
        """A trap (a local minimum; at loss 0 a global one), a saddle, none, or not realizable."""
        return self.stationary.verdict

    @property
    def loss(self) -> float:
        """L~ at the stationary point."""
        return self.stationary.loss if self.stationary.W_E is not None else float("nan")


@dataclass(frozen=True, eq=False, repr=False)
class Landscape:
    """Every partition pattern of a problem, those with a stationary point first, the least loss foremost."""

    problem: Problem
    places: tuple[Place, ...]

    def __iter__(self) -> Iterator[Place]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def of(self, verdict: Verdict36) -> list[Place]:
        """The patterns of one verdict."""
        return [place for place in self.places if place.verdict == verdict]

    def minimum(self, runs: int = 16, seed: int = 0) -> SearchResult:
        """The least partial minimum that alternating convex search reaches from random encoders, certified."""
        check(runs >= 1, f"runs={runs}; start at least once")
        return min((acs(self.problem, W_E) for W_E in starts(self.problem, runs, seed)[1]), key=lambda end: end.loss)

    def plot(self) -> Any:
        """The loss of every pattern with a stationary point, by verdict, as a matplotlib figure."""
        import matplotlib.pyplot as plt

        shown = [place for place in self.places if place.loss == place.loss][:40]
        check(bool(shown), "no pattern of this problem has a stationary point; there is nothing to draw")
        figure, ax = plt.subplots(figsize=(5.4, 0.6 + 0.24 * len(shown)))
        labels = [str(place.pattern) for place in shown]
        ax.barh(labels, [place.loss for place in shown], color=[COLOURS[place.verdict] for place in shown])
        for verdict in dict.fromkeys(place.verdict for place in shown):
            ax.bar(0, 0, color=COLOURS[verdict], label=verdict)
        ax.invert_yaxis()
        ax.set(xlabel="L~ at the stationary point (0: every feature is reconstructed)")
        ax.legend(frameon=False, loc="lower right")
        figure.tight_layout()
        return figure

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {verdict}" for verdict, number in Counter(p.verdict for p in self).items())
        return f"Landscape({self.problem.n} features, {self.problem.n_q} latents: {counts})"

    def _repr_html_(self) -> str:
        rows = [(str(place.pattern), place.verdict, f"{place.loss:.4g}") for place in self.places[:60]]
        return f"<p>{self!r}</p>" + grid(("pattern: features of each latent", "verdict", "loss"), rows)


def landscape(problem: Problem, most: int = 2000) -> Landscape:
    """Where training can end: every way to share the features among the latents, judged.

    For each pattern that partitions the features: whether some encoder realizes it, and whether it then holds a trap, a
    saddle, or no stationary point. `most` bounds how many patterns are judged.
    Source: Tang et al. 2025, theorem 3.6, as repaired in docs/theory/spurious-minima.md.
    Raises: ArgumentError for a problem of more patterns; RefusedError for activations without convex regions.

    Example:
        >>> import torch
        >>> land = landscape(Problem(torch.eye(2), torch.eye(2), torch.ones(2), n_q=2))
        >>> [(str(place.pattern), place.verdict) for place in land]
        [('{0} {1}', 'trap'), ('{0,1} {}', 'trap')]
    """
    patterns = partitions(problem.n, problem.n_q)
    check(
        len(patterns) <= most, f"{problem.n} features have {len(patterns):,} patterns; take fewer, or raise most={most}"
    )
    places = [Place(pattern, trichotomy(problem, pattern), realize(problem, pattern).encoder) for pattern in patterns]
    return Landscape(problem, tuple(sorted(places, key=lambda place: (place.loss != place.loss, place.loss))))

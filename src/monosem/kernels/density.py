"""Whether a step computes z of every cell: one decision in one place, from counts that processes can add up."""

from collections.abc import Sequence
from dataclasses import dataclass

from monosem.base.selection import Above, Custom, Request, Rule, TopK

DENSE_ABOVE = 1 / 16
"""Share of cells above which a code is dense: matrix products then cost no more than gathered rows (docs/adr/0003)."""


@dataclass(frozen=True)
class Counts:
    """What the decision rests on.

    All but `rows` are sums over latents: processes that hold some latents each add theirs up and then decide alike.
    `available`: how many latents each TopK request ranks. `selected` of `sampled` cells are selected by the rule, where
    only a sample can tell.
    """

    rows: int
    n_q: int
    available: tuple[int, ...] = ()
    selected: int = 0
    sampled: int = 0


def crowded(selected: int, cells: int) -> bool:
    """Whether so many of some cells are too many to carry them one by one."""
    return selected > DENSE_ABOVE * cells


def room(cells: int) -> int:
    """For how many selected cells there is room before they are crowded, and one more."""
    return int(DENSE_ABOVE * cells) + 1


def goes_dense(rule: Rule, requests: Sequence[Request], counts: Counts) -> bool:
    """Whether z of every cell is computed: where all of it is asked for, or what is selected would be crowded.

    The k of a TopK rule says by itself that the code is sparse.
    """
    tops = [request.k for request in requests if isinstance(request, TopK)]
    if len(tops) < len(requests) or isinstance(rule, Custom):
        return True
    if any(crowded(min(k, ranked), counts.n_q) for k, ranked in zip(tops, counts.available, strict=True)):
        return True
    most = rule.most or 0 if isinstance(rule, Above) else 0
    return crowded(most, counts.rows * counts.n_q) or crowded(counts.selected, counts.sampled)

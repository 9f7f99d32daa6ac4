"""Whether a step computes z of every cell: one decision in one place, from counts that processes can add up."""

from collections.abc import Sequence
from dataclasses import dataclass

from monosem.base.selection import Above, Custom, Request, Rule, TopK
from monosem.kernels.precision import in_bfloat16

DENSE_ABOVE = {"cpu": 1 / 16, "cuda": 1 / 28, "cuda, bfloat16": 1 / 292}
"""Share of cells above which a code is dense: matrix products then cost no more than gathered rows (docs/adr/0003).

Equation: of a GPU that multiplies F a second and moves M bytes a second, a cell of a dense product takes 2 n / F and a
    row of float32 that is gathered 4 n / M: the share is M / (2 F). An H200 has M = 4.8e12 and F = 67e12, or 0.7e15 in
    bfloat16; by its vendor's numbers, not measured. The CPU's is measured.
"""


def dense_above(device: str) -> float:
    """The share for a kind of device, in the precision of the moment; of a kind that is not known, the CPU's."""
    exact = DENSE_ABOVE.get(device, DENSE_ABOVE["cpu"])
    return DENSE_ABOVE.get(f"{device}, bfloat16", exact) if in_bfloat16() else exact


@dataclass(frozen=True)
class Counts:
    """What the decision rests on.

    All but `rows` are sums over latents: processes that hold some latents each add theirs up and then decide alike.
    `available`: how many latents each TopK request ranks. `selected` of `sampled` cells are selected by the rule, where
    only a sample can tell. `device`: the kind that computes.
    """

    rows: int
    n_q: int
    available: tuple[int, ...] = ()
    selected: int = 0
    sampled: int = 0
    device: str = "cpu"


def crowded(selected: int, cells: int, device: str) -> bool:
    """Whether so many of some cells are too many to carry them one by one on a kind of device."""
    return selected > dense_above(device) * cells


def room(cells: int, device: str) -> int:
    """For how many selected cells there is room before they are crowded, and one more."""
    return int(dense_above(device) * cells) + 1


def goes_dense(rule: Rule, requests: Sequence[Request], counts: Counts) -> bool:
    """Whether z of every cell is computed: where all of it is asked for, or what is selected would be crowded.

    The k of a TopK rule says by itself that the code is sparse.
    """
    tops = [request.k for request in requests if isinstance(request, TopK)]
    if len(tops) < len(requests) or isinstance(rule, Custom):
        return True
    kind = counts.device
    if any(crowded(min(k, ranked), counts.n_q, kind) for k, ranked in zip(tops, counts.available, strict=True)):
        return True
    most = rule.most or 0 if isinstance(rule, Above) else 0
    return crowded(most, counts.rows * counts.n_q, kind) or crowded(counts.selected, counts.sampled, kind)

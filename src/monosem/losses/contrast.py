"""A term over neighbours: rows that follow each other, as tokens of a text do, are to be described alike."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from monosem.base.errors import check
from monosem.core.model import SDL
from monosem.losses.fidelity import prefix_level
from monosem.losses.objective import TERMS, State, Step, Term


def neighbours(step: Step) -> Int[Tensor, " pairs"]:
    """Where in the batch a row stands that the row after it follows, no row in two pairs.

    Rows follow each other where their numbers do, 2 i and 2 i + 1, and, where the source knows documents, they are
    tokens of one document side by side.
    """
    where, batch = step.rows, step.code.batch
    index = torch.arange(batch) if where is None else where.index
    pair = (index[:-1] % 2 == 0) & (index.diff() == 1)
    if where is not None and where.document is not None and where.position is not None:
        pair &= (where.document.diff() == 0) & (where.position.diff() == 1)
    return pair.nonzero()[:, 0].to(step.x_p.device)


@TERMS.register("contrast")
@dataclass(frozen=True)
class Contrast(Term):
    """Neighbouring rows have like codes on the first latents, and unlike those of other rows.

    Equation: for the n pairs of neighbours in the batch, u_i and v_i their codes on the first `share` of latents (of
        each block), S_ij = cos(u_i, v_j); value = mean over i of (log sum_j exp(S_ij - S_ii) +
        log sum_j exp(S_ji - S_ii)) / 2. Without pairs: 0. `fit` then draws rows two by two.
    Source: Bhalla et al. 2025 (T-SAE). Difference: both rows of a pair are reconstructed.
    """

    share: float = 0.2
    name: ClassVar[str] = "contrast"
    pairs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(0 < self.share <= 1, f"share={self.share}; it is a share of the latents, above 0 and at most 1")

    def init_state(self, model: SDL) -> State:
        """Which latents are compared: those of level 0."""
        last = (1.0,) if self.share < 1 else ()
        return {"level": prefix_level(model.layout, (self.share, *last)).to(model.b_E.device)}

    def apply(self, step: Step, state: State) -> Tensor:
        """Mean over pairs."""
        at = neighbours(step)
        if not at.numel():
            return torch.zeros_like(step.x_r[0, 0])
        code = step.code.keep(state["level"] == 0).to_dense()
        u, v = code[at], code[at + 1]
        squares = [step.group.sum(part.square().sum(1)) for part in (u, v)]
        one, other = (torch.where(square > 0, square, 1.0).sqrt() for square in squares)  # a silent row is like none
        cosine = step.group.sum(u @ v.T) / (one[:, None] * other)
        own = torch.arange(len(at), device=at.device)
        return (cross_entropy(cosine, own) + cross_entropy(cosine.T, own)) / 2

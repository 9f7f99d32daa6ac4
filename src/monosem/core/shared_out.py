"""Activations that share a batch's budget out: to latents that would fire seldom, or to every latent alike."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base import selection
from monosem.base.errors import check
from monosem.base.group import ALONE, Group
from monosem.base.selection import Rule
from monosem.base.sparse import Code, SparseCode
from monosem.base.spec import TACIT
from monosem.core.activation import Activation, At, Context
from monosem.core.ranked import BatchTopK, cells


@dataclass(frozen=True)
class MinFire(BatchTopK):
    """BatchTopK in which every latent first keeps its strongest row of the batch.

    Equation: of the k rows cells of a batch, up to `share` go to the largest positive score of each latent, the
        strongest latents first; the largest of all other positive scores take the rest. Inference as BatchTopK.
    Source: the MinFire gate of recipes on SynthSAEBench, 2026. Difference: what a gate of 90 per cent bounds is not
        said there; here it is the share of the budget.
    """

    share: float = field(default=0.9, metadata=TACIT)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.share <= 1, f"share={self.share}; it is a share of the budget, 0 to 1")

    def rule(self, at: At, context: Context, rows: int) -> Rule:
        """Training: the latents' own rows, then the batch's largest. Inference: above the threshold."""
        if not context.training:
            return super().rule(at, context, rows)
        budget = cells(self.k_at(context), rows)
        return selection.Custom(lambda score: _with_own(score, budget, int(self.share * budget)))


def _with_own(score: Float[Tensor, "batch n_q"], budget: int, own: int) -> Tensor:
    best, row = score.max(0)
    mask = torch.zeros_like(score, dtype=torch.bool)
    first = best.argsort(descending=True, stable=True)[:own]
    first = first[best[first] > 0]
    mask[row[first], first] = True
    rest = score.masked_fill(mask, 0.0).clamp(min=0).flatten()
    more = rest.topk(min(budget - len(first), rest.numel())).indices
    mask.view(-1)[more[rest[more] > 0]] = True
    return mask


@dataclass(frozen=True)
class FeatureChoice(Activation):
    """Every latent chooses its rows: as many of a batch as every other latent.

    Equation: value = relu(z) on the m largest positive z of each latent over the batch, m = k rows / n_q rounded down,
        at least 1. Inference: z > threshold_j, a running mean (rate `rate`, from the first batch on) of the least that
        passed.
    Source: Ayonrinde 2024 (feature choice). Difference: equal shares in place of a Zipf law; what inference reads.
    """

    k: float
    rate: float = 0.01
    homogeneous: ClassVar[bool] = False
    pattern_kind: ClassVar[str] = "cross-sample"
    vanishes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.k > 0, f"k={self.k}; it must be positive")
        check(0 < self.rate <= 1, f"rate={self.rate}; a running mean needs 0 < rate <= 1")

    def buffers(self, n_q: int) -> dict[str, Tensor]:
        """A threshold per latent; negative until it has fired in training."""
        return {"threshold": torch.full((n_q,), -1.0, dtype=torch.float64)}

    def rule(self, at: At, context: Context, rows: int) -> Rule:
        """Training: every latent's own. Inference: above its threshold."""
        if context.training:
            return selection.Custom(self._choose)
        return selection.Above(at("threshold").clamp(min=0).to(at("b_E").dtype))

    def _choose(self, score: Float[Tensor, "batch n_q"]) -> Tensor:
        rows, n_q = score.shape
        each = min(max(1, int(self.k * rows / n_q + 1e-6)), rows)
        chosen = score.argsort(dim=0, descending=True, stable=True)[:each]
        return torch.zeros_like(score, dtype=torch.bool).scatter_(0, chosen, True) & (score > 0)

    def observe_cells(self, code: Code, score: Tensor, state: dict[str, Tensor], group: Group = ALONE) -> None:
        """Move the thresholds of the latents that fired."""
        fires = code.values > 0
        latents = code.at.col[fires] if isinstance(code, SparseCode) else fires.nonzero()[:, 1]
        least = torch.full_like(state["threshold"], torch.inf)
        least.scatter_reduce_(0, latents, score[fires].double(), "amin")
        threshold = state["threshold"]
        moved = torch.where(threshold < 0, least, threshold + self.rate * (least - threshold))
        threshold.copy_(torch.where(least.isfinite(), moved, threshold))

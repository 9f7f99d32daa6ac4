"""Activations that rank latents against each other: TopK, BatchTopK, AbsTopK, GroupMax."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base import selection
from monosem.base.errors import check
from monosem.base.group import ALONE, Group
from monosem.base.guard import guard_fields
from monosem.base.selection import Rule
from monosem.base.spec import TACIT
from monosem.core.activation import Activation, At, Context


@dataclass(frozen=True)
class TopK(Activation):
    """The k largest pre-activations of each row, through ReLU: TopK of ReLU, as theorem 3.2 needs.

    Equation: value = relu(z) on the k largest z (or z ||W_D[:, j]|| with rank_by_norm), 0 elsewhere.
    `k_start` and `anneal`: k falls linearly from k_start to k over the first `anneal` of the run.
    Source: Gao et al. 2024; Tang et al. 2025, eq 7.
    """

    k: int
    rank_by_norm: bool = False
    k_start: int | None = None
    anneal: float = 0.0
    pattern_kind: ClassVar[str] = "ranked"
    vanishes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        guard_fields(self)
        check(self.k >= 1, f"k={self.k}; at least one latent must be active")
        self._check_annealing()

    def _check_annealing(self) -> None:
        check(0 <= self.anneal <= 1, f"anneal={self.anneal}; it is a share of the run, 0 to 1")
        check(
            self.k_start is None or self.k_start >= self.k, f"k_start={self.k_start} is below k={self.k}; k only falls"
        )

    def k_at(self, context: Context) -> float:
        """k at this step; the final k outside training."""
        if not context.training or self.k_start is None or self.anneal == 0:
            return float(self.k)
        done = min(1.0, context.step / (self.anneal * context.steps))
        return self.k_start + (self.k - self.k_start) * done

    def score(self, z: Tensor, at: At) -> Tensor:
        """z, or z times the decoder norm."""
        return z * at("decoder_norm") if self.rank_by_norm else z

    def rule(self, at: At, context: Context, rows: int) -> Rule:
        """The k largest scores of each row."""
        return selection.TopK(round(self.k_at(context)))

    def scores_z(self) -> bool:
        """Unless norms count."""
        return not self.rank_by_norm

    def needs_decoder_norm(self) -> bool:
        """Only with rank_by_norm."""
        return self.rank_by_norm


Threshold = Literal["quantile", "minima"]
_ROOM, _ROOM_ROWS = 4, 64
"""A quantile over batches reads so many times k scores a row of each, and as if it had so many rows."""


def cells(k: float, rows: int) -> int:
    """k * rows in whole cells, where rounding has not taken the last one."""
    return int(k * rows + 1e-6)


@dataclass(frozen=True)
class BatchTopK(TopK):
    """The k * rows largest positive scores of the whole batch; at inference, everything above a threshold.

    k may be a fraction. While training runs, the threshold is a running mean (rate `rate`, started by the first batch)
    of the smallest score that passed, never negative. `calibrate` replaces it by what the finished weights need:
    `threshold`="quantile": the value that k scores a row exceed, over all calibration rows, so that L0 at inference is
    k on them; "minima": the mean over batches of the smallest score that passes.
    Source: Bussmann et al. 2024 (BatchTopK): "minima". Differences: the quantile; an untrained threshold is 0, not
    undefined.
    """

    k: float  # type: ignore[assignment]
    rate: float = 0.01
    threshold: Threshold = field(default="quantile", metadata=TACIT)
    homogeneous: ClassVar[bool] = False
    pattern_kind: ClassVar[str] = "cross-sample"

    def __post_init__(self) -> None:
        check(self.k > 0, f"k={self.k}; it must be positive")
        self._check_annealing()
        check(0 < self.rate <= 1, f"rate={self.rate}; a running mean needs 0 < rate <= 1")
        known = self.threshold in ("quantile", "minima")
        check(known, f"threshold={self.threshold!r}; it is 'quantile' or 'minima'")

    def buffers(self, n_q: int) -> dict[str, Tensor]:
        """The threshold; negative until the first training batch."""
        return {"threshold": torch.tensor(-1.0, dtype=torch.float64)}

    def rule(self, at: At, context: Context, rows: int) -> Rule:
        """Training: the batch's largest positive scores. Inference: above the threshold."""
        if context.training:
            return selection.Above(0.0, most=cells(self.k_at(context), rows))
        return selection.Above(float(at("threshold").clamp(min=0.0)))

    def observe(self, score: Float[Tensor, " nnz"], state: dict[str, Tensor], group: Group = ALONE) -> None:
        """Move the threshold towards the smallest score that passed."""
        positive = score[score > 0]
        positive = group.gather(positive.amin().reshape(1) if positive.numel() else positive)
        if positive.numel():
            least, threshold = positive.min().double(), state["threshold"]
            threshold.copy_(torch.where(threshold < 0, least, threshold + self.rate * (least - threshold)))

    def calibration(self, rows: int) -> Rule:
        """The largest positive scores of the batch: k a row, or with room for rows that take more than their share."""
        quantile = self.threshold == "quantile"
        return selection.Above(0.0, most=cells(self.k, _ROOM * max(rows, _ROOM_ROWS) if quantile else rows))

    def calibrate(self, scores: Sequence[Tensor], rows: int, state: dict[str, Tensor]) -> None:
        """Set the threshold; 0 where the rows have fewer positive scores than k each."""
        positive = [batch[batch > 0].double() for batch in scores]
        if self.threshold == "minima":
            least = [batch.min() for batch in positive if batch.numel()]
            threshold = torch.stack(least).mean() if least else torch.zeros(())
        else:
            ranked, count = torch.cat(positive).sort(descending=True).values, max(cells(self.k, rows), 1)
            threshold = ranked[count - 1 : count + 1].mean() if count < ranked.numel() else torch.zeros(())
        state["threshold"].copy_(threshold)


@dataclass(frozen=True)
class AbsTopK(TopK):
    """The k latents of largest |z|, signs kept.

    Its pieces are not convex (|z_1| >= |z_2|), so theory.convexity refuses it.
    """

    pattern_kind: ClassVar[str] = "signed"

    def score(self, z: Tensor, at: At) -> Tensor:
        """|z|, or |z| times the decoder norm."""
        return super().score(z.abs(), at)

    def scores_z(self) -> bool:
        """It scores |z|."""
        return False

    def value(self, z: Tensor, at: At) -> Tensor:
        """z itself."""
        return z


@dataclass(frozen=True)
class GroupMax(Activation):
    """Latents in k groups of neighbours; the largest of each group passes, through ReLU.

    Source: EleutherAI sparsify.
    """

    k: int
    pattern_kind: ClassVar[str] = "ranked"
    vanishes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.k >= 1, f"k={self.k}; at least one group is needed")

    def rule(self, at: At, context: Context, rows: int) -> Rule:
        """The largest score of each group."""
        return selection.TopK(1, groups=self.k)


@dataclass(frozen=True)
class AdaptiveK(Activation):
    """The k largest pre-activations of each row, through ReLU, with a k that a linear probe gives the row.

    Equation: k = least + (most - least) share rounded, share = 1 / (1 + exp(-<probe, z> / sqrt(n_q))); z is affine in
        x_p, and so is the probe. No gradient runs through k: the term `complexity` teaches the probe.
    Source: Yao and Du 2025 (AdaptiveK).
    """

    least: int = 16
    most: int = 64
    homogeneous: ClassVar[bool] = False
    pattern_kind: ClassVar[str] = "ranked"
    vanishes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        rises = 1 <= self.least < self.most
        check(rises, f"least={self.least}, most={self.most}; a row has at least one latent, and least is below most")

    def parameters(self, n_q: int) -> dict[str, Tensor]:
        """The probe, 0 at first: every row has the k halfway."""
        return {"probe": torch.zeros(n_q)}

    def rule(self, at: At, context: Context, rows: int) -> Rule:
        """As many of each row as its k says."""
        return selection.Custom(lambda z: self._choose(z, at("probe")))

    def _choose(self, z: Float[Tensor, "batch n_q"], probe: Tensor) -> Tensor:
        share = ((z * probe).sum(1, keepdim=True) / z.shape[1] ** 0.5).sigmoid()
        k = (self.least + (self.most - self.least) * share).round()
        order = z.argsort(dim=1, descending=True, stable=True)
        place = torch.empty_like(order).scatter_(1, order, torch.arange(z.shape[1], device=z.device).expand_as(order))
        chosen: Tensor = (place < k) & (z > 0)
        return chosen

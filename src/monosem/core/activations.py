"""Sparsifying activations sigma, each a value with three steps: score, select, value.

    score   what is ranked or thresholded, one number per latent
    select  which cells pass (and, in training, which cells a straight-through gradient needs)
    value   what passes, differentiable

`at(name)` lays a per-latent parameter (theta, r_mag, b_mag, b_E, decoder_norm) along z, so that
one definition of `score` and `value` serves dense and sparse codes. Eq 10 of the paper, code in
{0, z}, holds where `eq10` says so and is tested there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import check
from monosem.base.registry import Registry
from monosem.base.sparse import Positions
from monosem.core.selection import top_of_batch, top_of_row

__all__ = [
    "ACTIVATIONS",
    "AbsTopK",
    "Activation",
    "At",
    "BatchTopK",
    "Binary",
    "Context",
    "Gated",
    "GroupMax",
    "JumpReLU",
    "ReLU",
    "TopK",
    "rectangle",
]

At = Callable[[str], Tensor]
Selected = Positions | Bool[Tensor, "batch n_q"]


@dataclass(frozen=True)
class Context:
    """Where a forward pass stands: training or not, at which step of how many."""

    training: bool = False
    step: int = 0
    steps: int = 1


def rectangle(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    """The rectangle kernel K((z - theta) / bandwidth), K(u) = 1 for |u| < 1/2, as floats."""
    return ((z - theta).abs() < bandwidth / 2).to(z.dtype)


@dataclass(frozen=True)
class Activation:
    """What every activation shares. `pattern_kind`: independent, ranked, signed or cross-sample."""

    homogeneous: ClassVar[bool] = True
    eq10: ClassVar[str] = "yes"
    pattern_kind: ClassVar[str] = "independent"

    def parameters(self, n_q: int) -> dict[str, Tensor]:
        """Learned per-latent parameters at their start."""
        return {}

    def buffers(self) -> dict[str, Tensor]:
        """State that is saved but not learned."""
        return {}

    def score(self, z: Tensor, at: At) -> Tensor:
        """What is ranked or thresholded; z itself unless said otherwise."""
        return z

    def select(self, score: Float[Tensor, "batch n_q"], at: At, context: Context) -> Selected:
        """Which cells are carried; a superset of the cells with a nonzero value."""
        return score > 0

    def value(self, z: Tensor, at: At) -> Tensor:
        """The latents at the selected cells."""
        return z.relu()

    def hard(self, z: Tensor, at: At) -> Tensor | None:
        """H(z - theta) with its straight-through gradient, where the activation has one."""
        return None

    def observe(self, score: Float[Tensor, " nnz"], state: dict[str, Tensor]) -> None:
        """Learn from the scores that passed in a training batch (in place)."""

    def project(self, parameters: dict[str, Tensor]) -> None:
        """Bring learned parameters back to where they may be, after an optimiser step (in place)."""

    def needs_decoder_norm(self) -> bool:
        """Whether `score` reads the decoder norms."""
        return False


@dataclass(frozen=True)
class ReLU(Activation):
    """z if z > 0, else 0. Source: Tang et al. 2025, eq 5; Bricken et al. 2023."""


@dataclass(frozen=True)
class JumpReLU(Activation):
    """z H(z - theta) with a learned threshold theta >= 0 per latent.

    Equation: value = z if z > theta else 0.
    Gradient: d/dz = H(z - theta); d/dtheta = -(theta / bandwidth) K((z - theta) / bandwidth), and for the
        step H itself d/dtheta = -(1 / bandwidth) K, K the rectangle kernel (plus +(1 / bandwidth) K to z
        where a term asks for it). With `log_threshold` the parameter is log theta and the chain rule
        through exp is kept.
    Source: Rajamanoharan et al. 2024b (JumpReLU SAEs), eq 11-12.
    """

    theta: float = 0.05
    bandwidth: float = 0.3
    log_threshold: bool = False
    homogeneous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.bandwidth > 0, f"bandwidth={self.bandwidth}; it must be positive")
        check(self.theta > 0 or not self.log_threshold, f"theta={self.theta} has no logarithm; start above 0")
        check(self.theta >= 0, f"theta={self.theta}; a threshold is at least 0")

    def parameters(self, n_q: int) -> dict[str, Tensor]:
        """theta [n_q], or its logarithm."""
        theta = torch.full((n_q,), self.theta)
        return {"log_theta": theta.log()} if self.log_threshold else {"theta": theta}

    def threshold(self, at: At) -> Tensor:
        """theta, whichever way it is stored."""
        return at("log_theta").exp() if self.log_threshold else at("theta")

    def select(self, score: Float[Tensor, "batch n_q"], at: At, context: Context) -> Selected:
        """z > theta; in training everything above theta - bandwidth / 2, where theta still has a gradient."""
        margin = self.bandwidth / 2 if context.training else 0.0
        return score > self.threshold(at) - margin

    def value(self, z: Tensor, at: At) -> Tensor:
        """z H(z - theta); the second summand is zero and carries theta's gradient."""
        theta = self.threshold(at)
        passed = (z > theta).to(z.dtype).detach()
        pull = (theta * rectangle(z, theta, self.bandwidth) / self.bandwidth).detach()
        return z * passed - pull * (theta - theta.detach())

    def hard(self, z: Tensor, at: At) -> Tensor:
        """H(z - theta), gradient to theta -(1 / bandwidth) K and to z +(1 / bandwidth) K (detach z to leave that out)."""
        theta = self.threshold(at)
        passed = (z > theta).to(z.dtype).detach()
        pull = (rectangle(z, theta, self.bandwidth) / self.bandwidth).detach()
        return passed + pull * ((z - z.detach()) - (theta - theta.detach()))

    def project(self, parameters: dict[str, Tensor]) -> None:
        """Keep theta >= 0."""
        if not self.log_threshold:
            parameters["theta"].clamp_(min=0.0)


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

    def __post_init__(self) -> None:
        check(self.k >= 1, f"k={self.k}; at least one latent must be active")
        check(0 <= self.anneal <= 1, f"anneal={self.anneal}; it is a share of the run, 0 to 1")
        check(
            self.k_start is None or self.k_start >= self.k, f"k_start={self.k_start} is below k={self.k}; k only falls"
        )

    def k_at(self, context: Context) -> float:
        """k at this step; the final k outside training."""
        if not context.training or self.k_start is None or self.anneal == 0:
            return self.k
        done = min(1.0, context.step / (self.anneal * context.steps))
        return self.k_start + (self.k - self.k_start) * done

    def score(self, z: Tensor, at: At) -> Tensor:
        """z, or z times the decoder norm."""
        return z * at("decoder_norm") if self.rank_by_norm else z

    def select(self, score: Float[Tensor, "batch n_q"], at: At, context: Context) -> Selected:
        """The k largest scores of each row."""
        return top_of_row(score, round(self.k_at(context)))

    def needs_decoder_norm(self) -> bool:
        """Only with rank_by_norm."""
        return self.rank_by_norm


@dataclass(frozen=True)
class BatchTopK(TopK):
    """The k * rows largest positive scores of the whole batch; at inference, everything above a threshold.

    The threshold is a running mean (rate `rate`, started by the first batch) of the smallest score
    that passed, never negative. k may be a fraction.
    Source: Bussmann et al. 2024 (BatchTopK). Difference: an untrained threshold is 0, not undefined.
    """

    k: float  # type: ignore[assignment]
    rate: float = 0.01
    homogeneous: ClassVar[bool] = False
    pattern_kind: ClassVar[str] = "cross-sample"

    def __post_init__(self) -> None:
        check(self.k > 0, f"k={self.k}; it must be positive")
        check(0 < self.rate <= 1, f"rate={self.rate}; a running mean needs 0 < rate <= 1")

    def buffers(self) -> dict[str, Tensor]:
        """The threshold; negative until the first training batch."""
        return {"threshold": torch.tensor(-1.0, dtype=torch.float64)}

    def select(self, score: Float[Tensor, "batch n_q"], at: At, context: Context) -> Selected:
        """Training: the batch's largest positive scores. Inference: above the threshold."""
        if context.training:
            return top_of_batch(score, int(self.k_at(context) * score.shape[0]))
        return score > at("threshold").clamp(min=0.0).to(score.dtype)

    def observe(self, score: Float[Tensor, " nnz"], state: dict[str, Tensor]) -> None:
        """Move the threshold towards the smallest score that passed."""
        positive = score[score > 0]
        if positive.numel():
            least, threshold = positive.min().double(), state["threshold"]
            threshold.copy_(torch.where(threshold < 0, least, threshold + self.rate * (least - threshold)))


@dataclass(frozen=True)
class AbsTopK(TopK):
    """The k latents of largest |z|, signs kept.

    Its pieces are not convex (|z_1| >= |z_2|), so theory.convexity refuses it.
    """

    pattern_kind: ClassVar[str] = "signed"

    def score(self, z: Tensor, at: At) -> Tensor:
        """|z|, or |z| times the decoder norm."""
        return super().score(z.abs(), at)

    def value(self, z: Tensor, at: At) -> Tensor:
        """z itself."""
        return z


@dataclass(frozen=True)
class GroupMax(Activation):
    """Latents in k groups of neighbours; the largest of each group passes, through ReLU. Source: EleutherAI sparsify."""

    k: int
    pattern_kind: ClassVar[str] = "ranked"

    def __post_init__(self) -> None:
        check(self.k >= 1, f"k={self.k}; at least one group is needed")

    def select(self, score: Float[Tensor, "batch n_q"], at: At, context: Context) -> Selected:
        """One latent per group."""
        batch, n_q = score.shape
        check(
            n_q % self.k == 0, f"n_q={n_q} latents do not split into k={self.k} equal groups; make n_q a multiple of k"
        )
        best = score.view(batch, self.k, -1).argmax(2)
        return Positions.from_rows(best + torch.arange(self.k, device=score.device) * (n_q // self.k), n_q)


@dataclass(frozen=True)
class Gated(Activation):
    """A Heaviside gate on z and a ReLU magnitude path that shares the encoder's directions.

    Equation: value = H(z) relu(exp(r_mag) (z - b_E) + b_mag), where z is the gate's pre-activation, so that
        W_mag = exp(r_mag) W_E. The gate learns only through the terms L1(on="gate") and GatedAux.
    Source: Rajamanoharan et al. 2024a (Gated SAEs). Eq 10 holds with respect to the value path.
    """

    homogeneous: ClassVar[bool] = False
    eq10: ClassVar[str] = "value path"

    def parameters(self, n_q: int) -> dict[str, Tensor]:
        """r_mag and b_mag, zero."""
        return {"r_mag": torch.zeros(n_q), "b_mag": torch.zeros(n_q)}

    def value(self, z: Tensor, at: At) -> Tensor:
        """The magnitude path, where the gate is open."""
        return ((z - at("b_E")) * at("r_mag").exp() + at("b_mag")).relu() * (z > 0).detach()


@dataclass(frozen=True)
class Binary(Activation):
    """H(z): a latent is on or off.

    Gradient: d/dz = (1 / bandwidth) K(z / bandwidth), K the rectangle kernel.
    Source: the binary autoencoder of Tang et al. 2025, appendix A (Cho et al. 2025). Exempt from eq 10: a value is 1.
        Difference: the rectangle kernel of JumpReLU as pseudo-derivative, not the sigmoid's.
    """

    bandwidth: float = 1.0
    homogeneous: ClassVar[bool] = False
    eq10: ClassVar[str] = "exempt"

    def __post_init__(self) -> None:
        check(self.bandwidth > 0, f"bandwidth={self.bandwidth}; it must be positive")

    def select(self, score: Float[Tensor, "batch n_q"], at: At, context: Context) -> Selected:
        """z > 0; in training everything above -bandwidth / 2, where there is still a gradient."""
        return score > (-self.bandwidth / 2 if context.training else 0.0)

    def value(self, z: Tensor, at: At) -> Tensor:
        """H(z) with its straight-through gradient."""
        pull = (rectangle(z, torch.zeros_like(z), self.bandwidth) / self.bandwidth).detach()
        return (z > 0).to(z.dtype) + pull * (z - z.detach())

    def hard(self, z: Tensor, at: At) -> Tensor:
        """The value itself."""
        return self.value(z, at)


ACTIVATIONS: Registry[type[Activation]] = Registry("activation")
ACTIVATIONS.add("relu", ReLU)
ACTIVATIONS.add("jumprelu", JumpReLU)
ACTIVATIONS.add("topk", TopK)
ACTIVATIONS.add("batch_topk", BatchTopK)
ACTIVATIONS.add("gated", Gated)
ACTIVATIONS.add("abs_topk", AbsTopK)
ACTIVATIONS.add("group_max", GroupMax)
ACTIVATIONS.add("binary", Binary)

"""Terms that bring dead latents back: AuxK, ghost gradients, the pre-activation loss."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from monosem.base import selection
from monosem.base.selection import Every, Request
from monosem.core.activations import Context, JumpReLU
from monosem.core.pairs import Layout
from monosem.losses.objective import TERMS, State, Step, Term


@TERMS.register("auxk")
@dataclass(frozen=True)
class AuxK(Term):
    """Reconstruct the residual from the k_aux largest dead latents.

    Equation: e = x_r - x_r_hat (a constant with `detach`), e_hat = W_D a (no bias), a = relu(z) (z with relu=False) on
        the k_aux largest scores among dead latents; value = D(e - e_hat) * scale, where D is a sum or a mean over
        coordinates, mean over the batch, divided by the batch variance of the residual or of the target
        with `over`, and scale = min(n_dead / (n_r // 2), 1) with `scale_by_dead`. No dead latents: 0;
        a batch of one row has no variance, so that `over` makes it 0 too.
        k_aux defaults to n_r // 2.
    Source: Gao et al. 2024, A.2. Published normalisations by name in AUXK_PUBLISHED. Eq 8 of Tang et al. 2025
        reconstructs x_p through an undefined W_D'; this is what it means.
    """

    weight: float = 1 / 32
    k_aux: int | None = None
    reduction: Literal["sum", "mean"] = "sum"
    over: Literal["none", "residual", "target"] = "residual"
    scale_by_dead: bool = False
    relu: bool = True
    detach: bool = True
    name: ClassVar[str] = "auxk"

    def requests(self, layout: Layout, context: Context) -> tuple[Request, ...]:
        """The largest scores among dead latents."""
        return (selection.TopK(self.k_aux or max(layout.n_r // 2, 1), among="dead"),)

    def apply(self, step: Step, state: State) -> Tensor:
        """Mean over the batch."""
        zero = torch.zeros_like(step.x_r[0, 0])
        dead = step.count_dead
        if dead == 0:
            return zero
        whole = step.model.whole
        (request,) = self.requests(whole, step.context)
        cells = step.extra[request]
        signed = step.model.activation.pattern_kind == "signed"
        e_hat = step.write(cells.with_values(cells.values.relu() if self.relu and not signed else cells.values))
        e = step.error if self.detach else step.residual
        total = step.over((e - e_hat).pow(2).sum())
        if self.over != "none":
            base = e.detach() if self.over == "residual" else step.x_r
            spread = step.over((base - base.mean(0)).pow(2).sum())
            value = torch.where(spread > 0, total / spread.clamp(min=1e-30), zero)
        else:
            value = total / e.shape[0] / (whole.n_r if self.reduction == "mean" else 1)
        return value * min(dead / max(whole.n_r // 2, 1), 1.0) if self.scale_by_dead else value


AUXK_PUBLISHED: dict[str, AuxK] = {
    "gao": AuxK(weight=1 / 32, over="residual"),
    "openai": AuxK(weight=1 / 32, k_aux=256, over="residual"),
    "dictionary_learning": AuxK(weight=1 / 32, over="residual"),
    "saelens": AuxK(weight=1.0, over="none", scale_by_dead=True, relu=False),
    "sparsify": AuxK(weight=1 / 32, over="target", scale_by_dead=True),
    "llamascopium": AuxK(weight=1 / 32, k_aux=512, over="none", detach=False),
    "batchtopk": AuxK(weight=1 / 32, k_aux=512, over="none", reduction="mean", detach=False),
}
"""AuxK as published, by library: normalisation, k_aux, ReLU, detachment. Not their defects."""


@TERMS.register("ghost_grads")
@dataclass(frozen=True)
class GhostGrads(Term):
    """Dead latents, through exp instead of sigma, reconstruct the residual.

    Equation: g = W_D[:, dead] exp(z[dead]); g' = g ||e|| / (2 ||g||) row by row, the factor constant;
        value = ||e - g'||^2 * c, mean over the batch, e and c constant;
        c makes the value the reconstruction loss.
    Source: Jermyn and Templeton 2024 (ghost grads, Anthropic circuits update, January 2024).
    """

    name: ClassVar[str] = "ghost_grads"

    def requests(self, layout: Layout, context: Context) -> tuple[Request, ...]:
        """Every cell: dead latents have no selection of their own."""
        return (Every(),)

    def apply(self, step: Step, state: State) -> Tensor:
        """Mean over the batch; 0 without dead latents."""
        if step.dead is None or step.count_dead == 0:
            return torch.zeros_like(step.x_r[0, 0])
        z = step.extra[Every()]
        exponent = torch.where(step.dead, z.values, -torch.inf)
        most = step.group.max(exponent.detach().amax(1, keepdim=True))  # exp overflows; the factor takes it out again
        ghost = step.write(z.with_values((exponent - most).exp()))
        e = step.error
        size, ghost_size = (step.over(v.detach().norm(dim=1, keepdim=True).square()).sqrt() for v in (e, ghost))
        loss = step.over((e - ghost * (size / (2 * ghost_size).clamp(min=1e-12))).pow(2).sum(1).mean())
        return loss * (step.over(e.pow(2).sum(1).mean()) / loss.clamp(min=1e-12)).detach()


@TERMS.register("pre_activation")
@dataclass(frozen=True)
class PreActivation(Term):
    """Lift pre-activations that lie below their threshold.

    Equation: mean over the batch of sum_j relu(theta_j - z_j) ||W_D[:, j]||, over the dead latents or all;
        theta = 0 where the activation has no threshold.
    Source: Anthropic circuits update, January 2025 (all latents); SAELens restricts it to dead ones.
    """

    weight: float = 3e-6
    among: Literal["dead", "all"] = "dead"
    name: ClassVar[str] = "pre_activation"

    def requests(self, layout: Layout, context: Context) -> tuple[Request, ...]:
        """Every cell: what lies below a threshold is not in the code."""
        return (Every(),)

    def apply(self, step: Step, state: State) -> Tensor:
        """Sum over latents, mean over the batch."""
        z, activation = step.extra[Every()], step.model.activation
        theta = activation.threshold(step.model.along(z)) if isinstance(activation, JumpReLU) else 0.0
        below = (theta - z.values).relu() * z.along(step.norms)
        if self.among == "dead":
            if step.dead is None:
                return torch.zeros_like(step.x_r[0, 0])
            below = torch.where(step.dead, below, torch.zeros_like(below))
        return step.mean(below, z)

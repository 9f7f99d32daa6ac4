"""A term that asks every latent to fire seldom."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from monosem.base.errors import check
from monosem.core.activations import Activation
from monosem.core.pairs import Layout
from monosem.losses.objective import TERMS, State, Step, Term
from monosem.losses.sparsity import L0


@TERMS.register("frequency")
@dataclass(frozen=True)
class Frequency(Term):
    """Latents that fire on more than a share of the rows, through the activation's straight-through estimator.

    Equation: r_j = mean over the batch of H(z_j - theta_j); value = sum_j max(r_j - limit, 0).
    Gradient: as in L0, for the latents above the limit alone; to z as well with `to_input`.
    Source: McDougall et al. 2025 (Gemma Scope 2), where it keeps dense latents away. Difference: the report's own
        formula was not at hand; this is a hinge on the batch's rate.
    """

    limit: float = 0.1
    to_input: bool = False
    name: ClassVar[str] = "frequency"

    def __post_init__(self) -> None:
        check(0 < self.limit < 1, f"limit={self.limit}; it is a share of the rows, between 0 and 1")

    def refuse(self, activation: Activation, layout: Layout) -> str | None:
        """Needs a Heaviside step with a straight-through gradient, as L0."""
        reason = L0(to_input=self.to_input).refuse(activation, layout)
        return None if reason is None else reason.replace("L0(", "Frequency(")

    def apply(self, step: Step, state: State) -> Tensor:
        """Sum over latents."""
        z = step.cells.values if self.to_input else step.cells.values.detach()
        fires = step.model.activation.hard(z, step.model.along(step.cells))
        assert fires is not None
        rate = step.cells.latent_sum(fires) / max(step.cells.batch, 1)
        return step.group.sum((rate - self.limit).clamp(min=0).sum())

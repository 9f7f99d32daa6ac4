"""What an activation sigma is: a score, a rule on scores, and a value.

    score   what is ranked or thresholded, one number per latent
    rule    which scores pass (and, in training, which cells a straight-through gradient needs)
    value   what passes, differentiable

`at(name)` lays a per-latent parameter (theta, r_mag, b_mag, b_E, decoder_norm) along z, so that
one definition of `score` and `value` serves dense and sparse codes. Eq 10 of the paper, code in
{0, z}, holds where `eq10` says so and is tested there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from monosem.base import selection
from monosem.base.group import ALONE, Group
from monosem.base.selection import Rule
from monosem.base.sparse import Code, Positions
from monosem.kernels.ops import Mask, pick

At = Callable[[str], Tensor]


@dataclass(frozen=True)
class Context:
    """Where a forward pass stands: training or not, at which step of how many."""

    training: bool = False
    step: int = 0
    steps: int = 1


@dataclass(frozen=True)
class Activation:
    """What every activation shares. `pattern_kind`: independent, ranked, signed or cross-sample."""

    homogeneous: ClassVar[bool] = True
    eq10: ClassVar[str] = "yes"
    pattern_kind: ClassVar[str] = "independent"
    vanishes: ClassVar[bool] = True
    """Whether `value` and its gradient are zero by themselves wherever the rule does not select."""

    def parameters(self, n_q: int) -> dict[str, Tensor]:
        """Learned per-latent parameters at their start."""
        return {}

    def buffers(self, n_q: int) -> dict[str, Tensor]:
        """State that is saved but not learned."""
        return {}

    def score(self, z: Tensor, at: At) -> Tensor:
        """What is ranked or thresholded; z itself unless said otherwise."""
        return z

    def rule(self, at: At, context: Context, rows: int) -> Rule:
        """Which scores of a batch of so many rows are selected; a superset of the cells with a nonzero value."""
        return selection.Above(0.0)

    def select(self, score: Float[Tensor, "batch n_q"], at: At, context: Context) -> Positions | Mask:
        """The cells that `rule` selects of scores that are all there."""
        return pick(self.rule(at, context, score.shape[0]), score)

    def scores_z(self) -> bool:
        """Whether `score` is z itself."""
        return True

    def value(self, z: Tensor, at: At) -> Tensor:
        """The latents at the selected cells."""
        return z.relu()

    def summed(self, z: Float[Tensor, "batch n_q"], at: At) -> tuple[Tensor, Tensor | None]:
        """`value` of every cell and, where that costs nothing, its sums over rows."""
        return self.value(z, at), None

    def hard(self, z: Tensor, at: At) -> Tensor | None:
        """H(z - theta) with its straight-through gradient, where the activation has one."""
        return None

    def hard_sum(self, z: Tensor, at: At) -> Tensor | None:
        """The sum of `hard` over all cells."""
        hard = self.hard(z, at)
        return None if hard is None else hard.sum()

    def observe(self, score: Float[Tensor, " nnz"], state: dict[str, Tensor], group: Group = ALONE) -> None:
        """Learn from the scores that passed in a training batch (in place), here and in the group's other processes."""

    def observe_cells(self, code: Code, score: Tensor, state: dict[str, Tensor], group: Group = ALONE) -> None:
        """The same, of a batch's code and the scores along it."""
        self.observe(score[code.values != 0], state, group)

    def calibration(self, rows: int) -> Rule | None:
        """Which scores of a batch of so many rows `calibrate` reads; None where inference keeps nothing from rows."""
        return None

    def calibrate(self, scores: Sequence[Tensor], rows: int, state: dict[str, Tensor]) -> None:
        """Set what inference reads, in place, from scores by finished weights: one tensor a batch, `rows` in all."""

    def project(self, parameters: dict[str, Tensor]) -> None:
        """Bring learned parameters back to where they may be, after an optimiser step (in place)."""

    def reset(self, latents: Tensor, z: Tensor, parameters: dict[str, Tensor]) -> None:
        """Put what some latents own back to its start, in place; z [k]: what each reads of the row it is drawn at."""
        for name, start in self.parameters(len(next(iter(parameters.values()), ()))).items():
            parameters[name][latents] = start.to(parameters[name])[latents]

    def needs_decoder_norm(self) -> bool:
        """Whether `score` reads the decoder norms."""
        return False

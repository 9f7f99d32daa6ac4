"""What an activation sigma is: a value with three steps, score, select, value.

    score   what is ranked or thresholded, one number per latent
    select  which cells pass (and, in training, which cells a straight-through gradient needs)
    value   what passes, differentiable

`at(name)` lays a per-latent parameter (theta, r_mag, b_mag, b_E, decoder_norm) along z, so that
one definition of `score` and `value` serves dense and sparse codes. Eq 10 of the paper, code in
{0, z}, holds where `eq10` says so and is tested there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.core.selection import Above, Largest, Rule, cells_above, top_of_row

At = Callable[[str], Tensor]
Selected = Positions | Bool[Tensor, "batch n_q"]


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
    has_rule: ClassVar[bool] = True
    """Whether selection is by a rule: the k largest of a row (or batch), or all above a floor."""
    vanishes: ClassVar[bool] = True
    """Whether `value` and its gradient are zero by themselves wherever `select` does not choose."""

    def parameters(self, n_q: int) -> dict[str, Tensor]:
        """Learned per-latent parameters at their start."""
        return {}

    def buffers(self) -> dict[str, Tensor]:
        """State that is saved but not learned."""
        return {}

    def score(self, z: Tensor, at: At) -> Tensor:
        """What is ranked or thresholded; z itself unless said otherwise."""
        return z

    def rule(self, at: At, context: Context) -> Rule | None:
        """How `select` chooses, where that is the k largest of a row or all above a floor."""
        return Above(0.0)

    def select(self, score: Float[Tensor, "batch n_q"], at: At, context: Context) -> Selected:
        """Which cells are carried; a superset of the cells with a nonzero value."""
        rule = self.rule(at, context)
        assert rule is not None
        return top_of_row(score, rule.k) if isinstance(rule, Largest) else cells_above(score, rule.floor)

    def scores_z(self) -> bool:
        """Whether `score` is z itself."""
        return True

    def fold(self, context: Context, batch: int) -> "Fold":
        """`select`, tile by tile of a batch's rows."""
        return Fold(self, context)

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

    def observe(self, score: Float[Tensor, " nnz"], state: dict[str, Tensor]) -> None:
        """Learn from the scores that passed in a training batch (in place)."""

    def project(self, parameters: dict[str, Tensor]) -> None:
        """Bring learned parameters back to where they may be, after an optimiser step (in place)."""

    def needs_decoder_norm(self) -> bool:
        """Whether `score` reads the decoder norms."""
        return False


class Fold:
    """Selection of a batch that comes in tiles of rows. As it stands: each row is selected by itself."""

    def __init__(self, activation: Activation, context: Context) -> None:
        self.activation, self.context = activation, context

    def update(self, score: Float[Tensor, "rows n_q"], at: At) -> Selected:
        """The cells of a tile that the whole batch may select."""
        return self.activation.select(score, at, self.context)

    def rule(self, at: At) -> Rule | None:
        """How `update` chooses from the next tile, where that is a rule and known by now."""
        return self.activation.rule(at, self.context)

    def look(self, sample: Float[Tensor, " some"], rows: int, cells: int, slack: float = 1.3) -> None:
        """Near scores of some of the first rows' cells, for folds whose rule depends on them."""

    def finish(self, score: Float[Tensor, " nnz"]) -> Tensor | Literal["all", "again"]:
        """Which of all tiles' cells are selected, or "all"; "again" where too few were kept: it asks for less now."""
        return "all"

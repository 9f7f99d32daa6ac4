"""What is selected of pre-activations: one vocabulary for activations, loss terms and kernels.

An activation selects by one rule, `TopK`, `Above` or a `Custom` one; a loss term requests more, `TopK` or `Every`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import check
from monosem.base.sparse import Positions


@dataclass(frozen=True)
class TopK:
    """The k largest scores of each row, ties to the lower latent.

    `among`: only these latents compete, a mask [n_q] or "dead" (the mask that a training step brings). `groups`: the
    latents lie in so many equal runs, and each run gives its own k largest.
    """

    k: int
    among: Literal["dead"] | Bool[Tensor, " n_q"] | None = None
    groups: int = 1


@dataclass(frozen=True)
class Above:
    """Every score above a floor: one for all cells, or one per latent.

    `most`: of these only so many, the largest of the whole batch, ties row by row to the lower latent; the floor is
    then one number.
    """

    floor: float | Float[Tensor, "..."] = 0.0
    most: int | None = None

    def __post_init__(self) -> None:
        one = self.most is None or isinstance(self.floor, float)
        check(one, "a floor per latent cannot rank a batch; give one number, or leave `most` out")


@dataclass(frozen=True, eq=False)
class Custom:
    """Any other choice, made from the scores of every cell, which are computed for it: positions, or a mask."""

    select: Callable[[Tensor], Positions | Tensor]


@dataclass(frozen=True)
class Every:
    """Every cell (dense)."""


Rule = TopK | Above | Custom
Request = TopK | Every

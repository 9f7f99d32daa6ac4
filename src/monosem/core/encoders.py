"""How x becomes pre-activations: one affine map, or an encoder that also looks at what its code reconstructs."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import RefusedError, check
from monosem.base.registry import Registry
from monosem.base.sparse import DenseCode
from monosem.core.blockmap import BlockMap
from monosem.core.pairs import Layout
from monosem.kernels.ops import read_every, write


@dataclass(frozen=True, eq=False)
class View:
    """What an encoder reads of its model: W_E and W_D latent-major, biases, its own parameters, and sigma of any z."""

    W_E: BlockMap
    W_D: BlockMap
    b_in: Float[Tensor, " n_p"]
    b_E: Float[Tensor, " n_q"]
    b_D: Float[Tensor, " n_r"]
    own: dict[str, Tensor]
    sigma: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Encoder(ABC):
    """What every encoder shares. An affine one is selected from before z of every cell exists; others need all of z."""

    affine: ClassVar[bool] = False
    counts: ClassVar[bool] = False
    """Whether it decides itself how many latents are active."""

    def refuse(self, layout: Layout) -> str | None:
        """Why this encoder cannot go with a layout; None if it can."""
        return None

    def parameters(self, layout: Layout) -> dict[str, Tensor]:
        """Parameters beside W_E and the biases, at their start."""
        return {}

    def start(self, own: dict[str, Tensor], seed: int) -> None:  # noqa: B027 (nothing is to do)
        """Draw those of them that start at random, in place."""

    @abstractmethod
    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """z, differentiable."""


ENCODERS: Registry[type[Encoder]] = Registry("encoder")


@ENCODERS.register("affine")
@dataclass(frozen=True)
class Affine(Encoder):
    """z = W_E (x - b_in) + b_E."""

    affine: ClassVar[bool] = True

    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """By plain autograd."""
        return read_every(x - view.b_in, view.b_E, view.W_E.blocks, list(view.W_E.weights))


@ENCODERS.register("refined")
@dataclass(frozen=True)
class Refined(Affine):
    """An affine encoder whose z moves along what its code leaves over, `steps` times.

    Equation: z_0 = W_E (x - b_in) + b_E; z_t+1 = z_t + rate_t W_D^T (x - b_D - W_D sigma(z_t)); z = z_steps.
        rate [steps] is learned. Gradients run through every step; which cells sigma selects is a constant.
    Source: a gradient step on ||x - b_D - W_D x_q||^2 / 2 with respect to x_q, as in unrolled sparse coding
        (Gregor and LeCun 2010). Difference: sigma selects, it is no soft threshold.
    """

    steps: int = 1
    rate: float = 0.1
    affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.steps >= 1, f"steps={self.steps}; refine at least once, or use affine")

    def refuse(self, layout: Layout) -> str | None:
        """It compares x_p with the reconstruction."""
        return compares_x_p(layout)

    def parameters(self, layout: Layout) -> dict[str, Tensor]:
        """rate, one number a step."""
        return {"rate": torch.full((self.steps,), self.rate)}

    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """One decode and one encode per step."""
        z = super().pre_activations(x, view)
        blocks, rows, nothing = view.W_D.blocks, list(view.W_D.weights), torch.zeros_like(view.b_E)
        for rate in view.own["rate"]:
            left = x - view.b_D - write(DenseCode(view.sigma(z)), x.shape[1], blocks, rows, plain=True)
            z = z + rate * read_every(left, nothing, blocks, rows)
        return z


def compares_x_p(layout: Layout) -> str | None:
    """Why an encoder that reads x_p - x_p_hat cannot go with a layout; None if it can."""
    same = layout.shared and layout.p_widths == layout.r_widths
    return None if same else "it looks at what is left of x_p, which this model does not reconstruct"


def fitting(encoder: Encoder, layout: Layout) -> Encoder:
    """The encoder. Raises: RefusedError where it cannot go with the layout."""
    reason = encoder.refuse(layout)
    if reason is not None:
        raise RefusedError(f"the encoder {type(encoder).__name__} cannot go with this layout: {reason}; use affine")
    return encoder

"""Encoders that search: the code comes from what earlier latents leave over, not from one map."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import check
from monosem.base.sparse import DenseCode
from monosem.base.spec import TACIT
from monosem.core.encoders import ENCODERS, Encoder, View, compares_x_p
from monosem.core.pairs import Layout
from monosem.kernels.ops import read_every, write


@ENCODERS.register("matching_pursuit")
@dataclass(frozen=True)
class MatchingPursuit(Encoder):
    """The latent that correlates most with what is left takes its share of it, `steps` times.

    Equation: r_0 = x - b_D; j = argmax over latents of <w_D, r_t>; c = max(<w_j, r_t>, 0) / ||w_j||^2;
        z_j <- z_j + c; r_t+1 = r_t - c w_j; other z are 0. Gradients run through every step; which latent is taken is a
        constant. W_E, b_E and b_in are not read: with the dictionary `tied` there is no W_E beside W_D.
    `scaled`=False takes columns as if their norm were 1: by <w_j, r_t>, and c = max(<w_j, r_t>, 0). A row stops early
        with `distinct` when a step takes no new latent, and when ||r|| is below `residual`.
    Source: Mallat and Zhang 1993; as an encoder: Costa et al. 2025 (MP-SAE); the last three: SAELens.
    """

    steps: int = 32
    scaled: bool = field(default=True, metadata=TACIT)
    distinct: bool = field(default=False, metadata=TACIT)
    residual: float = field(default=0.0, metadata=TACIT)
    counts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.steps >= 1, f"steps={self.steps}; at least one latent is taken")
        check(self.residual >= 0, f"residual={self.residual}; a norm is at least 0")

    def refuse(self, layout: Layout) -> str | None:
        """It takes x_p apart by what it writes."""
        return compares_x_p(layout)

    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """One product with every latent a step."""
        rows = view.W_D.dense()
        squares = rows.pow(2).sum(1).clamp(min=1e-30) if self.scaled else rows.new_ones(rows.shape[0])
        left = x - view.b_D
        z = torch.zeros(x.shape[0], rows.shape[0], dtype=x.dtype, device=x.device)
        done = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
        for _ in range(self.steps):
            with torch.no_grad():
                taken = (left @ rows.T / squares.sqrt()).argmax(1)
            row = rows[taken]
            share = torch.linalg.vecdot(left, row).clamp(min=0) / squares[taken] * ~done
            with torch.no_grad():
                if self.distinct:
                    done = done | (share == 0) | (z.gather(1, taken[:, None])[:, 0] != 0)
            z = z.scatter_add(1, taken[:, None], share[:, None])
            left = left - share[:, None] * row
            if self.residual:
                done = done | (left.detach().norm(dim=1) < self.residual)
        return z


@ENCODERS.register("lista")
@dataclass(frozen=True)
class Lista(Encoder):
    """Unrolled iterative thresholding: the code moves by what the encoder reads of its own remainder, `steps` times.

    Equation: z_0 = r_0 (W_E (x - b_in) + b_E); z_t+1 = sigma(z_t) + r_t+1 (W_E (x - b_in - W_D sigma(z_t)) + b_E);
        z = z_steps, log r [steps + 1] learned. With W_E = W_D^T, b_E = -l1 and sigma = relu each step is one of ISTA.
        r starts at 1 / (1 + sqrt(n_q / n_r))^2, near the longest step with which random unit columns converge.
        Gradients run through every step.
    Source: Gregor and LeCun 2010 (LISTA). Differences: the coupled form, whose second matrix is -r W_E W_D; r beside
        W_E, whose entries would otherwise be smaller than one step of Adam.
    """

    steps: int = 2

    def __post_init__(self) -> None:
        check(self.steps >= 1, f"steps={self.steps}; unroll at least one step, or use affine")

    def refuse(self, layout: Layout) -> str | None:
        """It reads the remainder of x_p."""
        return compares_x_p(layout)

    def parameters(self, layout: Layout) -> dict[str, Tensor]:
        """The logarithms of the steps."""
        return {"log_rate": torch.full((self.steps + 1,), -2 * math.log(1 + (layout.n_q / layout.n_r) ** 0.5))}

    def pre_activations(self, x: Float[Tensor, "batch n_p"], view: View) -> Float[Tensor, "batch n_q"]:
        """One decode and one encode per step."""
        centred, encoder, decoder = x - view.b_in, list(view.W_E.weights), list(view.W_D.weights)
        first, *rates = view.own["log_rate"].exp()
        z: Tensor = first * read_every(centred, view.b_E, view.W_E.blocks, encoder)
        for rate in rates:
            code = view.sigma(z)
            left = centred - write(DenseCode(code), x.shape[1], view.W_D.blocks, decoder, plain=True)
            z = code + rate * read_every(left, view.b_E, view.W_E.blocks, encoder)
        return z

"""Terms that read the dictionary itself: penalties on W_D."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.errors import check
from monosem.base.seeds import torch_generator
from monosem.losses.objective import TERMS, State, Step, Term


def _decoder_rows(step: Step) -> Float[Tensor, "latents n_r"]:
    """The columns of W_D of all processes as rows, in the order of the latents; differentiable in one's own."""
    own, group = step.model.decoder.dense(), step.group
    if group.size == 1:
        return own
    rows, mine = group.place(own.detach())
    return torch.cat([rows[: mine.start], own, rows[mine.stop :]])


@TERMS.register("ortho")
@dataclass(frozen=True)
class Ortho(Term):
    """Columns of W_D that point the same way as their nearest neighbour are pushed apart.

    Equation: the latents fall at random, anew at each step, into ceil(n_q / chunk) chunks of equal size; value = mean
        over j of max(0, max over k != j of j's chunk of cos(w_j, w_k))^2.
    Cost: one product of n_q x n_r x chunk; the gradient of W_D is dense.
    Source: Korznikov et al. 2025 (OrtSAE). Difference: a nearest neighbour at more than a right angle costs nothing.
    """

    chunk: int = 8192
    name: ClassVar[str] = "ortho"

    def __post_init__(self) -> None:
        check(self.chunk >= 2, f"chunk={self.chunk}; a chunk holds at least two latents")

    def apply(self, step: Step, state: State) -> Tensor:
        """Mean over latents; every process computes all of it."""
        rows = _decoder_rows(step)
        n_q = rows.shape[0]
        unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        order = torch.randperm(n_q, generator=torch_generator(0, "ortho", step.context.step)).to(rows.device)
        total = torch.zeros_like(step.x_r[0, 0])
        for chunk in order.tensor_split(math.ceil(n_q / self.chunk)):
            if chunk.numel() > 1:
                total = total + _nearest(unit[chunk]).clamp(min=0).pow(2).sum()
        return total / n_q


def _nearest(unit: Float[Tensor, "latents n_r"]) -> Float[Tensor, " latents"]:
    """The cosine of every row with its nearest other one; only the pairs that are nearest carry a gradient."""
    with torch.no_grad():
        cosines = unit @ unit.T
        cosines.fill_diagonal_(-torch.inf)
        partner = cosines.argmax(1)
    cosine: Tensor = torch.linalg.vecdot(unit, unit[partner])
    return cosine

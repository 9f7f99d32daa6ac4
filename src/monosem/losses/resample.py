"""Resampling: dead latents start again at inputs that the dictionary explains badly."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import check
from monosem.core.model import SDL


@dataclass(frozen=True)
class Resample:
    """When and how dead latents are drawn anew.

    Equation: every `every` steps between the fractions `begin` and `end` of the run, each dead latent j draws a row
        b with probability proportional to ||x_r,b - x_r_hat,b||^4 (the squared loss) out of `rows` rows;
        W_D[:, j] = (x_r,b - b_D) over its norm, W_E[j] = (x_p,b - b_in) over its norm,
        times encoder_scale times the mean norm of the rows of W_E that are alive,
        b_E[j] = 0; what the activation keeps for j (theta, r_mag, b_mag) and the optimiser's moments of all these
        entries are reset, theta so low that j fires at its own row.
    Source: Bricken et al. 2023. Difference: biases are subtracted from the drawn rows, and in transcoders encoder and
        decoder take the row's own side.
    """

    every: int = 1000
    begin: float = 0.1
    end: float = 0.8
    rows: int = 8192
    encoder_scale: float = 0.2

    def __post_init__(self) -> None:
        check(self.every >= 1, f"every={self.every}; resample at most once a step")
        check(0 <= self.begin < self.end <= 1, f"begin={self.begin}, end={self.end}; need 0 <= begin < end <= 1")

    def due(self, step: int, steps: int) -> bool:
        """Whether `step` resamples."""
        return step > 0 and step % self.every == 0 and self.begin * steps <= step < self.end * steps

    @torch.no_grad()
    def apply(
        self,
        model: SDL,
        x_p: Float[Tensor, "rows n_p"],
        x_r: Float[Tensor, "rows n_r"],
        dead: Bool[Tensor, " n_q"],
        generator: torch.Generator,
    ) -> None:
        """Overwrite the dead latents' weights in place."""
        everyone, mine = model.group.place(dead)
        if not bool(everyone.any()):
            return
        was_training = model.training
        model.eval()
        loss = model.targets.total((x_r - model(x_p).x_r_hat).pow(2).sum(1)).double()
        model.train(was_training)
        chance = loss.pow(2) if bool((loss > 0).any()) else torch.ones_like(loss)
        every = torch.multinomial(chance.cpu(), int(everyone.sum()), replacement=True, generator=generator).to(
            x_p.device
        )
        before = int(everyone[: mine.start].sum())
        latents = dead.nonzero().squeeze(1)
        drawn = every[before : before + latents.numel()]
        written, rows = (latents, drawn) if model.targets.size == 1 else (everyone.nonzero().squeeze(1), every)
        target, centred = x_r[rows] - model.b_D, x_p[drawn] - model.b_in
        size = model.targets.total(target.norm(dim=1, keepdim=True).square()).sqrt()
        source = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)
        norms = model.group.gather(model.encoder.squared_norms().sqrt())
        alive = norms[~everyone].mean() if bool((~everyone).any()) else norms.new_ones(())
        model.decoder.set_rows(written, target / size.clamp(min=1e-12))
        model.encoder.set_rows(latents, source * alive * self.encoder_scale)
        model.b_E[latents] = 0.0
        model.activation.reset(latents, model.encoder.along_rows(latents, centred), dict(model.act.items()))

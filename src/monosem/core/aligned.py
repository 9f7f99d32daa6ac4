"""Encoder and decoder of a latent agree on its size: <w_E, w_D> = 1."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monosem.base.errors import RefusedError
from monosem.core.constraints import CONSTRAINTS, Constraint
from monosem.core.model import SDL


@CONSTRAINTS.register("aligned")
@dataclass(frozen=True)
class Aligned(Constraint):
    """<W_E[j], W_D[:, j]> = 1 for every latent.

    Equation: W_E[j] = v_j + (1 - <v_j, d_j>) d_j / ||d_j||^2 with d_j = W_D[:, j]. The model holds W_E itself: at
        v = W_E the gradients of this reparametrisation are g_v = g_E - <g_E, d> d / ||d||^2 and
        g_D - <g_E, d> (v - d / ||d||^2) / ||d||^2 (its part along d left out: a column keeps its length), and after an
        optimiser step v is brought to W_E again.
    Source: Brzozowski and Chung 2026 (aligned training).
    """

    name: ClassVar[str] = "aligned"
    whole_columns: ClassVar[bool] = True

    @torch.no_grad()
    def start(self, model: SDL) -> None:
        """Align the rows."""
        if model.encoder.blocks != model.decoder.blocks or not model.layout.shared:
            raise RefusedError(
                "aligned weights need x_p and x_r in one space and the same blocks on both sides, here "
                f"n_p={model.layout.n_p}, n_r={model.layout.n_r}: an inner product of w_E and w_D means nothing; "
                "leave 'aligned' out"
            )
        if not (model.encoder_kind.affine and model.dictionary.free):
            raise RefusedError("aligned weights need an affine encoder and a free dictionary; leave 'aligned' out")
        self.after_step(model)

    @torch.no_grad()
    def project_gradient(self, model: SDL) -> None:
        """The gradients of the reparametrisation."""
        pulls = model.b_E.new_zeros(model.n_q)
        squares = model.decoder.squared_norms().clamp(min=1e-30)
        sides = list(zip(model.encoder.blocks, model.encoder.weights, model.decoder.weights, strict=True))
        for block, rows, columns in sides:
            if rows.grad is not None:
                pulls[block.latents] += torch.linalg.vecdot(rows.grad, columns)
        for block, rows, columns in sides:
            share = (pulls / squares)[block.latents, None]
            radial = columns / squares[block.latents, None]
            if rows.grad is not None:
                rows.grad -= share * columns
            if columns.grad is not None:
                columns.grad -= share * (rows - radial)

    @torch.no_grad()
    def after_step(self, model: SDL) -> None:
        """Bring <w_E, w_D> back to 1."""
        missing = 1 - _products(model)
        squares = model.decoder.squared_norms().clamp(min=1e-30)
        for block, rows, columns in zip(
            model.encoder.blocks, model.encoder.weights, model.decoder.weights, strict=True
        ):
            rows += (missing / squares)[block.latents, None] * columns

    def row_pieces(self, model: SDL) -> dict[int, tuple[int, ...]] | None:
        """It joins rows of two weights."""
        return None


def _products(model: SDL) -> Tensor:
    """<W_E[j], W_D[:, j]> of every latent."""
    total = model.b_E.new_zeros(model.n_q)
    for block, rows, columns in zip(model.encoder.blocks, model.encoder.weights, model.decoder.weights, strict=True):
        total[block.latents] += torch.linalg.vecdot(rows, columns)
    return total

"""Units in which a model is trained: centred, of mean norm sqrt(n), folded into the weights afterwards."""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.base.errors import DataError, RefusedError, check
from monosem.base.spec import digest
from monosem.core.activations import BatchTopK
from monosem.core.model import SDL
from monosem.core.rownorm import RowNormSDL

ROWS = 4096
"""Rows, or latents, that are in float64 at once."""


@dataclass(frozen=True, eq=False)
class Units:
    """x_p' = p_scale (x_p - p_mean) and x_r' = r_scale (x_r - r_mean), column by column.

    Equation: a source of width n has m = mean of x (0 without `centre`) and one scale for all its columns,
        s = sqrt(n) / mean of ||x - m|| (1 without `scale`), in float64 over a sample.
    Source: mean norm sqrt(n): Anthropic's April 2024 update; Lieberum et al. 2024.
    """

    p_mean: Float[Tensor, " n_p"]
    p_scale: Float[Tensor, " n_p"]
    r_mean: Float[Tensor, " n_r"]
    r_scale: Float[Tensor, " n_r"]

    @staticmethod
    def of(
        x_p: Float[Tensor, "rows n_p"],
        x_r: Float[Tensor, "rows n_r"],
        p_widths: Sequence[int],
        r_widths: Sequence[int],
        centre: bool = True,
        scale: bool = True,
    ) -> "Units":
        """Measured on a sample of rows. Raises: DataError for a source whose rows are all equal."""
        sides = (torch.split(x_p, list(p_widths), 1), torch.split(x_r, list(r_widths), 1))
        return Units.of_sources(sides[0], None if x_r is x_p else sides[1], centre, scale)

    @staticmethod
    def of_sources(
        p: Iterable[Float[Tensor, "rows _"]],
        r: Iterable[Float[Tensor, "rows _"]] | None,
        centre: bool = True,
        scale: bool = True,
    ) -> "Units":
        """Measured source by source, so that only one need be in memory; `r` None: x_r is x_p."""
        read = _measured(p, centre, scale)
        return Units(*read, *(read if r is None else _measured(r, centre, scale)))

    @property
    def digest(self) -> str:
        """sha256 over all numbers."""
        return digest([values.tolist() for values in (self.p_mean, self.p_scale, self.r_mean, self.r_scale)])

    @property
    def inverse(self) -> "Units":
        """The units of raw rows, seen from rows in these: what brings x' back to x."""
        sides = ((self.p_mean, self.p_scale), (self.r_mean, self.r_scale))
        return Units(*(v for mean, scale in sides for v in (-mean * scale, 1 / scale)))

    def read(self, x_p: Float[Tensor, "batch n_p"]) -> Float[Tensor, "batch n_p"]:
        """x_p in these units."""
        return (x_p - self.p_mean) * self.p_scale

    def both(self, x_p: Tensor, x_r: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of a pairing in units of training; one object where x_r is x_p."""
        read = self.read(x_p)
        return read, read if x_r is x_p else self.written(x_r)

    def written(self, x_r: Float[Tensor, "batch n_r"]) -> Float[Tensor, "batch n_r"]:
        """x_r in these units."""
        return (x_r - self.r_mean) * self.r_scale

    def fold(self, model: SDL, in_place: bool = False) -> SDL:
        """The model that reads and answers raw rows, for one that was trained on rows in these units; same codes.

        A copy, unless `in_place`.

        Equation: f(x) = r_mean + f'(p_scale (x - p_mean)) / r_scale, by W_E = W_E' p_scale, W_D = W_D' / r_scale,
            b_in = p_mean + b_in' / p_scale, W_skip = W_skip' p_scale / r_scale,
            b_D = r_mean + (b_D' - W_skip' p_scale p_mean) / r_scale. Without b_in it gets one, unless p_mean = 0.
        Raises: RefusedError for per-row normalisation, for encoders and dictionaries of other kinds, and where decoder
            norms rank latents but change unevenly.
        """
        self._refuse(model)
        model = model if in_place else copy.deepcopy(model)
        model = _with_bias(model) if self.p_mean.any() and model.pre_bias == "none" else model
        device, own = model.b_E.device, slice(model.columns.start, model.columns.stop)
        p_mean, p_scale, r_mean, r_scale = (
            v.to(device, torch.float64) for v in (self.p_mean, self.p_scale, self.r_mean[own], self.r_scale[own])
        )
        with torch.no_grad():
            shift = torch.zeros_like(r_mean)
            if model.W_skip is not None:
                skip = model.W_skip.double() * p_scale
                shift = skip @ p_mean
                model.W_skip.copy_(skip / r_scale[:, None])
            for block, weight in zip(model.encoder.blocks, model.encoder.weights, strict=True):
                for rows in weight.split(ROWS):
                    rows.copy_(rows.double() * p_scale[block.columns])
            for block, weight in zip(model.decoder.blocks, model.decoder.weights, strict=True):
                for rows in weight.split(ROWS):
                    rows.copy_(rows.double() / r_scale[block.columns])
            model.b_D.copy_(r_mean + (model.b_D.double() - shift) / r_scale)
            if model._b_in is not None:
                model._b_in.copy_(p_mean + model._b_in.double() / p_scale)
            self._rank(model)
        return model

    def _refuse(self, model: SDL) -> None:
        """Raises: RefusedError for a model that these units do not fold into."""
        if isinstance(model, RowNormSDL):
            raise RefusedError("a model with per-row normalisation does not see the scale of its input; leave it out")
        if not (model.encoder_kind.affine and model.dictionary.free):
            raise RefusedError("units fold into an affine encoder and a dictionary of its own only; train on raw rows")
        tied = model.pre_bias == "tied"
        if tied and not (torch.equal(self.p_mean, self.r_mean) and torch.equal(self.p_scale, self.r_scale)):
            raise RefusedError("b_in is tied to b_D, but x_p and x_r have different units; train with pre_bias='free'")

    def _rank(self, model: SDL) -> None:
        """Where z ||W_D[:, j]|| is ranked, the order stays if every norm is divided by one number."""
        if not getattr(model.activation, "rank_by_norm", False):
            return
        scales = sorted(set(self.r_scale.tolist()))
        if len(scales) > 1:
            raise RefusedError(
                f"{type(model.activation).__name__} ranks latents by decoder norms, which {len(scales)} scales of "
                "the targets would change unevenly; train with rank_by_norm=False or with scale=False"
            )
        if isinstance(model.activation, BatchTopK):
            threshold = model.activation_state()["threshold"]  # stands against z ||W_D[:, j]||
            threshold.copy_(torch.where(threshold > 0, threshold / scales[0], threshold))


def _with_bias(model: SDL) -> SDL:
    """The same function with a b_in of its own, zero."""
    model.pre_bias = "free"
    model._b_in = nn.Parameter(torch.zeros(model.layout.n_p, dtype=model.b_E.dtype, device=model.b_E.device))
    return model


def _measured(sources: Iterable[Tensor], centre: bool, scale: bool) -> tuple[Tensor, Tensor]:
    """Means and scales of some sources, side by side; float64 for some rows at a time."""
    means, scales = [], []
    for number, x in enumerate(sources):
        parts = torch.split(x, ROWS)
        mean = x.new_zeros(x.shape[1], dtype=torch.float64)
        if centre:
            for part in parts:
                mean += part.double().sum(0)
            mean /= x.shape[0]
        norm = float(torch.cat([(part.double() - mean).norm(dim=1) for part in parts]).mean())
        check(norm > 0 or not scale, f"source {number} has no rows that differ; it cannot be scaled", DataError)
        means.append(mean)
        scales.append(torch.full_like(mean, math.sqrt(x.shape[1]) / norm if scale else 1.0))
    return torch.cat(means).float(), torch.cat(scales).float()

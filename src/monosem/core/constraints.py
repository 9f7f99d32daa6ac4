"""Constraints on the weights: applied at the start, to gradients, and after every optimiser step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.errors import RefusedError, check
from monosem.base.registry import Registry
from monosem.core.model import SDL


@dataclass(frozen=True)
class Constraint:
    """What every constraint shares; each step does nothing unless said otherwise."""

    name: ClassVar[str] = "free"
    whole_columns: ClassVar[bool] = False
    """Whether it needs all of a column of W_D in one process."""

    def of_latents(self, first: int, last: int) -> "Constraint":
        """What holds a model of the latents [first, last), numbered from 0."""
        return self

    def start(self, model: SDL) -> None:
        """Bring a fresh model into the constraint."""

    def project_gradient(self, model: SDL) -> None:
        """Change gradients in place, before clipping."""

    def after_step(self, model: SDL) -> None:
        """Bring the weights back after an optimiser step."""

    def row_pieces(self, model: SDL) -> dict[int, tuple[int, ...]] | None:
        """By id of the weight, the columns between which pieces of its rows are projected on and normalised.

        Empty: the constraint does nothing at a step. None: it does something else than that.
        """
        return {}

    def fixed_latents(self, model: SDL) -> Int[Tensor, " k"]:
        """Latents that resampling leaves alone, dead or not."""
        return torch.zeros(0, dtype=torch.int64)


CONSTRAINTS: Registry[type[Constraint]] = Registry("constraint")


@CONSTRAINTS.register("unit_norm")
@dataclass(frozen=True)
class UnitNorm(Constraint):
    """||W_D[:, j]|| = 1 for every latent.

    Equation: before the step g_j <- g_j - <g_j, w_j> w_j / ||w_j||^2 (the part along the column cannot help);
        after it w_j <- w_j / ||w_j||. `per="source"` does both within each target source instead of over
        all of them, for crosscoders.
    Source: Bricken et al. 2023.
    """

    per: Literal["latent", "source"] = "latent"
    name: ClassVar[str] = "unit_norm"

    def start(self, model: SDL) -> None:
        """Normalise the columns. Raises: RefusedError for a dictionary whose columns lie where they are computed."""
        if not model.dictionary.scales:
            raise RefusedError(
                f"columns of a {type(model.dictionary).__name__} dictionary cannot be brought to unit norm: they would "
                "leave what they are made of; write '| - unit_norm'"
            )
        self.after_step(model)

    @torch.no_grad()
    def project_gradient(self, model: SDL) -> None:
        """Remove each gradient's component along its column."""
        total = model.targets.total
        if self._in_one_weight(model):
            weight = model.decoder.weights[0]
            if weight.is_leaf and weight.grad is not None:
                along = torch.linalg.vecdot(weight.grad, weight) / torch.linalg.vecdot(weight, weight).clamp(min=1e-30)
                weight.grad.addcmul_(weight, along[:, None], value=-1)
            return
        if not all(weight.is_leaf for weight in model.decoder.weights):
            return  # computed columns: what their parameters gain along them is taken back after the step
        for columns in self._groups(model):
            dot = model.b_E.new_zeros(model.decoder.n_q)
            parts = list(self._parts(model, columns))
            for block, weight, inside in parts:
                if weight.grad is not None:
                    dot[block.latents] += torch.linalg.vecdot(weight.grad[:, inside], weight[:, inside])
            dot = total(dot) / total(model.decoder.squared_norms(columns)).clamp(min=1e-30)
            for block, weight, inside in parts:
                if weight.grad is not None:
                    weight.grad[:, inside] -= dot[block.latents, None] * weight[:, inside]

    @torch.no_grad()
    def after_step(self, model: SDL) -> None:
        """Normalise the columns; a decoder that does not train stays as it is, to the bit."""
        if not any(parameter.requires_grad for parameter in model.decoder.parameters()):
            return
        if self.per == "latent":
            model.decoder.scale_rows(1.0 / model.column_norms().clamp(min=1e-15))  # a zero column stays one
            return
        for columns in self._groups(model):
            norms = model.targets.total(model.decoder.squared_norms(columns)).clamp(min=1e-30).sqrt()
            for block, weight, inside in self._parts(model, columns):
                weight[:, inside] /= norms[block.latents, None]

    def row_pieces(self, model: SDL) -> dict[int, tuple[int, ...]] | None:
        """The whole row, or the columns of each target source, where a latent's lie in one weight of one process."""
        if model.targets.size > 1:
            return None
        bounds: dict[int, list[int]] = {}
        for columns in self._groups(model):
            parts = list(self._parts(model, columns))
            if _share_latents([block for block, _, _ in parts]):
                return None
            for _, weight, inside in parts:
                if weight.requires_grad:
                    bounds.setdefault(id(weight), [inside.start]).append(inside.stop)
        return {weight: tuple(cuts) for weight, cuts in bounds.items()}

    def _in_one_weight(self, model: SDL) -> bool:
        return self.per == "latent" and len(model.decoder.blocks) == 1 and model.targets.size == 1

    def _groups(self, model: SDL) -> tuple[slice, ...]:
        return (slice(0, model.layout.n_r),) if self.per == "latent" else model.layout.r_slices

    def _parts(self, model: SDL, columns: slice) -> Iterator[tuple[Block, Tensor, slice]]:
        for block, weight in zip(model.decoder.blocks, model.decoder.weights, strict=True):
            left, right = max(columns.start, block.left), min(columns.stop, block.right)
            if left < right:
                yield block, weight, slice(left - block.left, right - block.left)


def _share_latents(blocks: Sequence[Block]) -> bool:
    spans = sorted((block.first, block.last) for block in blocks)
    return any(last > first for (_, last), (first, _) in pairwise(spans))


@CONSTRAINTS.register("tied_weights")
@dataclass(frozen=True)
class Tied(Constraint):
    """W_D = W_E^T: one parameter, used twice. Needs the same blocks on both sides."""

    name: ClassVar[str] = "tied"
    whole_columns: ClassVar[bool] = True

    def start(self, model: SDL) -> None:
        """Let the encoder use the decoder's parameters."""
        if model.encoder.blocks != model.decoder.blocks:
            raise RefusedError(
                f"tied weights need W_E and W_D over the same columns, here n_p={model.layout.n_p}, "
                f"n_r={model.layout.n_r} or their blocks differ; use init 'tied' for a tied start only"
            )
        model.encoder.weights = model.decoder.weights


@CONSTRAINTS.register("fixed")
@dataclass(frozen=True)
class Fixed(Constraint):
    """Parameters that do not train; names among encoder, decoder, b_E, b_D, W_skip."""

    parameters: tuple[str, ...] = ("decoder",)
    name: ClassVar[str] = "fixed"

    def start(self, model: SDL) -> None:
        """Take the parameters out of training."""
        known = {"encoder", "decoder", "b_E", "b_D", "W_skip"}
        for name in self.parameters:
            check(name in known, f"parameters={self.parameters}: {name!r} is none of {sorted(known)}")
            part = getattr(model, name)
            for parameter in part.parameters() if isinstance(part, torch.nn.Module) else [part]:
                if parameter is not None:
                    parameter.requires_grad_(False)


@CONSTRAINTS.register("skip_rank")
@dataclass(frozen=True)
class SkipRank(Constraint):
    """W_skip has at most a rank: a dense branch for low-rank structure, and a sparse code for the rest.

    Equation: after the step W_skip <- its nearest matrix of that rank, by its largest singular values.
    Cost: one singular value decomposition of [n_r, n_p] a step.
    Source: Deng et al. 2026. Difference: projected, in place of two factors; both reach the same matrices.
    """

    rank: int = 24
    name: ClassVar[str] = "skip_rank"
    whole_columns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.rank >= 1, f"rank={self.rank}; it must be at least 1")

    def start(self, model: SDL) -> None:
        """Raises: RefusedError for a model without W_skip."""
        if model.W_skip is None:
            raise RefusedError("there is no W_skip whose rank could be bounded; use skip_transcoder, or sae(skip=True)")
        self.after_step(model)

    @torch.no_grad()
    def after_step(self, model: SDL) -> None:
        """Cut the smallest singular values off."""
        assert model.W_skip is not None
        U, S, Vh = torch.linalg.svd(model.W_skip.double(), full_matrices=False)
        model.W_skip.copy_((U[:, : self.rank] * S[: self.rank]) @ Vh[: self.rank])

    def row_pieces(self, model: SDL) -> dict[int, tuple[int, ...]] | None:
        """It works on a matrix as a whole."""
        return None

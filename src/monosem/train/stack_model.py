"""One step of one run in operations that torch.func.vmap carries over a stack of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from monosem.anchoring.anchors import Anchors
from monosem.anchoring.term import AnchorPenalty
from monosem.base.sparse import Code, Positions
from monosem.core.activations import Activation, At, BatchTopK, Context
from monosem.core.model import SDL, Forward
from monosem.core.selection import Above, Largest, Request, Top
from monosem.kernels import reference
from monosem.losses.objective import Loss, Objective, State, Step

__all__ = ["Body", "Held", "StackedSDL", "stand_in"]


def _largest(score: Float[Tensor, "batch n_q"], k: int) -> Bool[Tensor, "batch n_q"]:
    index = score.topk(k, dim=1, sorted=False).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, index, True)


def _selected(
    activation: Activation, score: Float[Tensor, "batch n_q"], at: At, context: Context
) -> Bool[Tensor, "batch n_q"]:
    """`activation.select` as a mask, its shapes independent of the numbers."""
    rule = activation.rule(at, context)
    if isinstance(rule, Above):
        return score > rule.floor
    if isinstance(rule, Largest):
        return _largest(score, min(rule.k, score.shape[1]))
    if isinstance(activation, BatchTopK):
        count = min(int(activation.k_at(context) * score.shape[0]), score.numel())
        return _largest(score.reshape(1, -1), count).view_as(score)  # below 0 is 0 by itself
    chosen = activation.select(score, at, context)
    if not isinstance(chosen, Positions):
        return chosen
    index = chosen.col.reshape(score.shape[0], -1)  # as many in every row, or this is no shape
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, index, True)


class StackedSDL(SDL):
    """The reference path with masks for selections; its parameters are stand-ins for each run's (`Body`)."""

    def __init__(self, like: SDL) -> None:
        with torch.device("meta"):
            super().__init__(like.layout, like.activation, like.pre_bias)
        if like.encoder.weights is like.decoder.weights:
            self.encoder.weights = self.decoder.weights
        self.path = "reference"

    def _encode_reference(
        self, x_p: Tensor, requests: Sequence[Request], dead: Tensor | None, context: Context
    ) -> tuple[Code, Code, dict[Request, Code]]:
        z = reference.read(x_p - self.b_in, self.b_E, self.layout.encoder, list(self.encoder.weights))
        with torch.no_grad():
            norms = self.decoder_norm() if self.activation.needs_decoder_norm() else None
            at = partial(self._laid, None, norms)
            score = self.activation.score(z.detach(), at)
            mask = _selected(self.activation, score, at, context)
            extra: dict[Request, Tensor] = {r: self._top(score, r, dead) for r in requests if isinstance(r, Top)}
        return self._dense_codes(z, mask, extra, requests)

    def _top(self, score: Tensor, request: Top, dead: Tensor | None) -> Tensor:
        k = min(request.k, self.n_q)
        if not request.dead:
            return _largest(score, k)
        assert dead is not None
        return _largest(torch.where(dead, score, -torch.inf), k) & dead

    def least(self, code: Code) -> Float[Tensor, ""]:
        """The smallest positive score that passed, infinity where none did: what BatchTopK's threshold follows."""
        score = self.activation.score(code.values.detach(), self.along(code))
        return torch.where(score > 0, score, torch.inf).amin()


@dataclass(frozen=True, eq=False)
class Held(Anchors):
    """Anchors of one run among several: checked and of unit length already."""

    def __post_init__(self) -> None:
        """Nothing: numbers of one run cannot be looked at here."""


def stand_in(objective: Objective, anchors: Sequence[Tensor]) -> Objective:
    """The same objective with the anchors (p, r) of one run."""
    if not anchors:
        return objective
    held = Held(anchors[0], anchors[1])
    return replace(
        objective,
        terms=tuple(replace(t, anchors=held) if isinstance(t, AnchorPenalty) else t for t in objective.terms),
    )


class Body(nn.Module):
    """Forward pass and loss of one run; torch.func.functional_call puts the run's parameters in place."""

    def __init__(self, like: SDL, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = StackedSDL(like), objective

    def forward(
        self,
        x_p: Float[Tensor, "batch n_p"],
        x_r: Float[Tensor, "batch n_r"],
        dead: Bool[Tensor, " n_q"],
        states: dict[str, State],
        weights: Mapping[str, Tensor],
        anchors: Sequence[Tensor],
        context: Context,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]:
        """(total, parts, latents, e, the least score that passed)."""
        objective = stand_in(self.objective, anchors)
        out: Forward = self.model(x_p, objective.requests(self.model.layout, context), dead, context)
        step = Step(self.model, x_p, x_r, out, dead, context, stacked=True)
        loss: Loss = objective(step, states, weights)
        return loss.total, loss.parts, out.code.values.detach(), step.error, self.model.least(out.code)

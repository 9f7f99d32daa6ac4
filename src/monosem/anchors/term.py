"""The anchoring penalty and where anchored latents start."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.base.errors import ShapeError, check
from monosem.base.guard import guard_fields
from monosem.base.schedule import Schedule
from monosem.core.blockmap import BlockMap
from monosem.core.constraints import Constraint
from monosem.core.model import SDL
from monosem.core.pairs import Layout
from monosem.kernels.ops import rows_of
from monosem.losses.objective import State, Step, Term


@dataclass(frozen=True)
class Anchoring:
    """How anchors act on a run.

    `weight`: lambda of the penalty, a number or a Ramp (0: no penalty). `init`: the slots start at the anchors.
    `hard`: the slots are frozen there (no penalty needed). `sides`: which weights are held. `form`: "printed" is the
    paper's squared distance to unit anchors, "direction" lets the slot's length go free.

    The default is the form that helped features that were not anchored the most (docs/defaults.md): slots that start
    at the anchors, decoder columns held, encoder rows free to suppress interference. The paper's own form is PRINTED.
    """

    weight: Schedule = 1.0
    init: bool = True
    hard: bool = False
    sides: Literal["both", "decoder", "encoder"] = "decoder"
    form: Literal["printed", "direction"] = "printed"

    def __post_init__(self) -> None:
        guard_fields(self)


PRINTED = Anchoring(weight=0.1, init=False, sides="both")
"""Anchoring as the paper prints it: rows and columns held, no initialisation, the lambda of its ablations."""


def anchor_slots(layout: Layout, k: int) -> Int[Tensor, " k"]:
    """The latents that hold the anchors: the first k of those whose encoder and decoder meet every column they can.

    One block: 0 .. k - 1, as printed. With private blocks these lie in the common one; a cross-layer transcoder
    takes them in turn from each layer's latents.
    """
    check(k <= layout.n_q, f"k={k} anchors do not fit into n_q={layout.n_q} latents; use fewer")
    blocks = layout.encoder
    if blocks[0].shape[1] == layout.n_p:
        common = blocks[0].last
        check(k <= common, f"k={k} anchors do not fit into the {common} latents that meet every source; use fewer")
        return torch.arange(k)
    turns = [torch.arange(block.first, block.last) for block in blocks]
    longest = max(t.numel() for t in turns)
    table = torch.stack([torch.nn.functional.pad(t, (0, longest - t.numel()), value=-1) for t in turns], 1).reshape(-1)
    return table[table >= 0][:k]


def _inside(anchors: Anchors, slots: Tensor, first: int, last: int) -> dict[str, Any]:
    """The anchors whose slots are the latents [first, last), and these slots, counted from `first`."""
    inside = (slots >= first) & (slots < last)
    return {"anchors": anchors.some(inside), "slots": slots[inside] - first}


def _distance(weight: BlockMap, target: Tensor, slots: Tensor, form: str) -> Tensor:
    """sum over slots of the squared distance between a latent's row and its anchor, on the row's own columns."""
    total: Tensor = weight.weights[0].new_zeros(())
    for block, part in zip(weight.blocks, weight.weights, strict=True):
        inside = (slots >= block.first) & (slots < block.last)
        rows = rows_of(part, slots[inside] - block.first)
        wanted = target[inside, block.columns].to(rows)
        if form == "direction":
            rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
            wanted = wanted / wanted.norm(dim=1, keepdim=True).clamp(min=1e-12)
        total = total + (rows - wanted).pow(2).sum()
    return total


@dataclass(frozen=True)
class AnchorPenalty(Term):
    """The anchoring term.

    Equation: ||W_E[:k] - A_p^T||_F^2 + ||W_D[:, :k] - A_r||_F^2 (form "printed"); with "direction" each row and
        column over its norm first. A latent that only meets some columns is held on those.
    Source: Tang et al. 2025, section 4.
    """

    anchors: Anchors = field(kw_only=True)
    slots: Tensor = field(kw_only=True)
    plan: Anchoring = field(kw_only=True)
    name: ClassVar[str] = "anchoring"
    whole_columns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.slots.numel() == self.anchors.k, f"{self.slots.numel()} slots for {self.anchors.k} anchors")

    def of_latents(self, first: int, last: int) -> "AnchorPenalty":
        """The anchors of slots that lie there."""
        return replace(self, **_inside(self.anchors, self.slots, first, last))

    def start(self, model: SDL) -> None:
        """With `init`: put both sides of the slots at the anchors."""
        for side, rows, width in (("n_p", self.anchors.p, model.layout.n_p), ("n_r", self.anchors.r, model.layout.n_r)):
            check(rows.shape[0] == width, f"anchors have {rows.shape[0]} rows, the model {side}={width}", ShapeError)
        if self.plan.init:
            model.encoder.set_rows(self.slots, self.anchors.p.T)
            model.decoder.set_rows(self.slots, self.anchors.r.T)

    def apply(self, step: Step, state: State) -> Tensor:
        """Sum over slots and coordinates; 0 with `hard`."""
        total = torch.zeros_like(step.x_r[0, 0])
        if self.plan.hard:
            return total
        if self.plan.sides != "decoder":
            total = total + _distance(step.model.encoder, self.anchors.p.T, self.slots, self.plan.form)
        if self.plan.sides != "encoder":
            total = total + _distance(step.model.decoder, self.anchors.r.T, self.slots, self.plan.form)
        return step.group.sum(total)


@dataclass(frozen=True, eq=False)
class AnchorSlots(Constraint):
    """The latents that hold anchors keep them: resampling leaves them alone and, with `hard`, so does everything else.

    The last of a run's constraints: it puts the held sides back at the anchors, to the bit, after the others.
    """

    anchors: Anchors
    slots: Int[Tensor, " k"]
    plan: Anchoring
    name: ClassVar[str] = "anchor_slots"
    whole_columns: ClassVar[bool] = True

    def of_latents(self, first: int, last: int) -> "AnchorSlots":
        """The anchors of slots that lie there."""
        return replace(self, **_inside(self.anchors, self.slots, first, last))

    def start(self, model: SDL) -> None:
        """As after a step."""
        self.after_step(model)

    @torch.no_grad()
    def project_gradient(self, model: SDL) -> None:
        """With `hard`: zero for the slots, on the sides that are held."""
        for weight, _ in self._hard_sides(model):
            for block, part in zip(weight.blocks, weight.weights, strict=True):
                if part.grad is not None:
                    inside = (self.slots >= block.first) & (self.slots < block.last)
                    part.grad[self.slots[inside] - block.first] = 0

    def after_step(self, model: SDL) -> None:
        """With `hard`: the anchors, on the sides that are held."""
        for weight, columns in self._hard_sides(model):
            weight.set_rows(self.slots, columns.T.to(model.b_E.device))

    def row_pieces(self, model: SDL) -> dict[int, tuple[int, ...]] | None:
        """Rows that stay are no matter of pieces."""
        return None if self.plan.hard else {}

    def fixed_latents(self, model: SDL) -> Int[Tensor, " k"]:
        """The slots."""
        return self.slots

    def _hard_sides(self, model: SDL) -> list[tuple[BlockMap, Tensor]]:
        sides = {"encoder": (model.encoder, self.anchors.p), "decoder": (model.decoder, self.anchors.r)}
        return [given for side, given in sides.items() if self.plan.hard and self.plan.sides in ("both", side)]

"""Edits of a code: some latents added to, clamped, scaled or zeroed, at some positions of a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.base.errors import ArgumentError, DataError, ShapeError, check
from monosem.base.guard import guard_fields, shown
from monosem.base.sparse import Code, SparseCode

Amount = float | Tensor
"""A number, or a tensor that broadcasts to [*leading axes, latents of the edit]."""

Where = slice | Sequence[int] | Tensor | None
"""Positions: all (None), a slice or numbers counted over the whole sequence, or a mask over the leading axes."""


@dataclass(frozen=True, eq=False)
class Edit:
    """One change of the values of some latents; `at` limits it to some positions. Made by add, clamp, scale, zero."""

    kind: Literal["add", "clamp", "scale"]
    latents: tuple[int, ...]
    amount: Amount
    at: Where = None

    def __post_init__(self) -> None:
        guard_fields(self)
        finite = bool(torch.as_tensor(self.amount).isfinite().all())
        check(
            finite,
            f"{self.kind} by {shown(self.amount)}: the network would answer NaN; give a finite number",
            DataError,
        )

    @property
    def by_position(self) -> bool:
        """Whether `at` counts over the whole sequence."""
        return self.at is not None and not isinstance(self.at, Tensor)

    def mask(self, leading: Sequence[int], past: int = 0) -> Bool[Tensor, "..."] | None:
        """Where it applies, over the leading axes (the last of which is the position); None is everywhere.

        `past` tokens of the sequence went through in earlier passes: position p is here number p - past. Negative
        positions count from the end of this pass, so that -1 is its last token.
        """
        length = leading[-1] if leading else 1
        if self.at is None:
            return None
        if isinstance(self.at, Tensor):
            try:
                return self.at.bool().expand(tuple(leading))
            except RuntimeError:
                raise ShapeError(
                    f"at is a mask of shape {tuple(self.at.shape)}, the tokens of this pass have shape "
                    f"{tuple(leading)}; a mask fits one pass, in generation give a slice or positions"
                ) from None
        if isinstance(self.at, slice):
            chosen = list(range(*self.at.indices(past + length)))
        else:
            chosen = [past + length + p if p < 0 else p for p in self.at]
        inside = [p - past for p in chosen if past <= p < past + length]
        mask = torch.zeros(length, dtype=torch.bool)
        mask[inside] = True
        return mask.expand(tuple(leading) or (1,))


def add(latents: int | Sequence[int], amount: Amount, at: Where = None) -> Edit:
    """x_q[j] + amount."""
    return Edit("add", _numbers(latents), amount, at)


def clamp(latents: int | Sequence[int], value: Amount, at: Where = None) -> Edit:
    """x_q[j] = value, whether the latent fires or not."""
    return Edit("clamp", _numbers(latents), value, at)


def scale(latents: int | Sequence[int], factor: Amount, at: Where = None) -> Edit:
    """factor x_q[j]."""
    return Edit("scale", _numbers(latents), factor, at)


def zero(latents: int | Sequence[int], at: Where = None) -> Edit:
    """x_q[j] = 0: ablation. Where the latent does not fire, nothing changes."""
    return Edit("clamp", _numbers(latents), 0.0, at)


def edited_latents(edits: Sequence[Edit], n_q: int) -> Int[Tensor, " touched"]:
    """The latents that any edit touches, in order. Raises: ArgumentError for one that is not there."""
    wanted = sorted({j for edit in edits for j in edit.latents})
    wrong = [j for j in wanted if not 0 <= j < n_q]
    check(not wrong, f"an edit names latents {wrong[:4]}, the model has n_q={n_q}; number them 0 to {n_q - 1}")
    return torch.tensor(wanted, dtype=torch.int64)


def latent_values(code: Code, latents: Int[Tensor, " touched"]) -> Float[Tensor, "batch touched"]:
    """The values of some latents as a small dense table; differentiable, and nothing else becomes dense."""
    latents = latents.to(code.values.device)
    if not isinstance(code, SparseCode):
        return code.values[:, latents]
    place = torch.full((code.n_q,), -1, dtype=torch.int64, device=code.values.device)
    place[latents] = torch.arange(latents.numel(), device=code.values.device)
    column = place[code.at.col]
    kept = column >= 0
    table = code.values.new_zeros(code.batch, latents.numel())
    return table.index_put((code.at.row[kept], column[kept]), code.values[kept])


def change(
    values: Float[Tensor, "batch touched"],
    latents: Int[Tensor, " touched"],
    edits: Sequence[Edit],
    leading: Sequence[int],
    past: int = 0,
) -> Float[Tensor, "batch touched"]:
    """Edited values minus values, the edits applied in order.

    Equation: delta = e_n(... e_1(x_q)) - x_q, exactly the amount for a latent that is only added to, exactly 0 for one
        that is clamped to the value it has, or scaled by 1.
    Shapes: `values` [batch, touched] of the rows with leading axes `leading`; batch = their product.
    """
    number = {j: i for i, j in enumerate(latents.tolist())}
    delta = torch.zeros_like(values)
    for edit in edits:
        columns = torch.tensor([number[j] for j in edit.latents], device=values.device)
        amount, mask = _amount(edit, leading, values), edit.mask(leading, past)
        before, old = values[:, columns], delta[:, columns]
        if edit.kind == "add":
            new = old + amount
        else:
            new = amount - before if edit.kind == "clamp" else amount * (before + old) - before
        if mask is not None:
            new = torch.where(mask.reshape(-1, 1).to(new.device), new, old)
        delta = delta.index_copy(1, columns, new)
    return delta


def _amount(edit: Edit, leading: Sequence[int], like: Tensor) -> Tensor:
    """The amount for every row and every latent of an edit."""
    amount = torch.as_tensor(edit.amount).to(like)
    wanted = (*leading, len(edit.latents))
    try:
        return amount.expand(wanted).reshape(-1, len(edit.latents))
    except RuntimeError:
        raise ShapeError(
            f"the amount of {edit.kind} has shape {tuple(amount.shape)}; it must broadcast to {wanted}: the axes of "
            "this pass and the latents"
        ) from None


def _numbers(latents: int | Sequence[int]) -> tuple[int, ...]:
    """Latents as a tuple of distinct numbers."""
    numbers = (latents,) if isinstance(latents, int) else tuple(int(j) for j in latents)
    if not numbers or len(set(numbers)) != len(numbers):
        raise ArgumentError(f"latents={numbers}; name at least one latent, and each once")
    return numbers

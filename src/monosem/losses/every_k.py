"""A reconstruction for every number of latents up to k: one model for every sparsity."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from monosem.base.group import ALONE, Group
from monosem.base.sparse import Code, DenseCode, Positions, SparseCode
from monosem.core.activations import Activation, TopK
from monosem.core.pairs import Layout
from monosem.losses.fidelity import nested_squares
from monosem.losses.objective import TERMS, State, Step, Term


@TERMS.register("every_k")
@dataclass(frozen=True)
class EveryK(Term):
    """The reconstruction from a row's j largest latents, for every j from 1 to k.

    Equation: with l_1, ..., l_k the latents of a row by falling |x_q|,
        value = mean over the batch and over j = 1..k of ||x_r - b_D - sum over i <= j of W_D[:, l_i] x_q,l_i||^2.
    Source: Balagansky et al. 2025 (HierarchicalTopK). It replaces Reconstruction: the last j is the whole code.
    """

    name: ClassVar[str] = "every_k"
    whole: ClassVar[bool] = True

    def refuse(self, activation: Activation, layout: Layout) -> str | None:
        """Needs a k of every row."""
        if isinstance(activation, TopK) and isinstance(activation.k, int):
            return None
        return "its rows have no k of their own to count up to; use topk or abs_topk"

    def apply(self, step: Step, state: State) -> Tensor:
        """Running residuals over the places of the order: no latent is decoded twice."""
        activation = step.model.activation
        assert isinstance(activation, TopK)
        k = round(activation.k_at(step.context))
        groups = step.model.summed(_by_place(step, k))
        target = step.x_r - step.model.offset(step.x_p)
        total, error = nested_squares(target, groups, (1 / k,) * k)
        step.know(error)
        return step.over(total) / max(step.code.batch, 1)


def _by_place(step: Step, k: int) -> Tensor:
    """What the latent at each place of a row's order writes: [batch, k, n_r]."""
    code = step.model.whole_code(step.code)
    group = ALONE if code.n_q == step.model.whole.n_q else step.group
    if isinstance(code, SparseCode) and group.size == 1:
        place = _place_of_cells(code.at, code.values.detach().abs())
        row = code.at.row * k + place
        order = row.argsort()
        crow = torch.zeros(code.batch * k + 1, dtype=torch.int64, device=row.device)
        torch.cumsum(torch.bincount(row, minlength=code.batch * k), 0, out=crow[1:])
        one_each = SparseCode(Positions(crow, code.at.col[order], code.n_q), code.values[order])
        return step.model.write(one_each).view(code.batch, k, -1)
    values = code.to_dense()
    place = _place_of_latents(group, values.detach().abs())
    parts: list[Code] = [DenseCode(values * (place == j)) for j in range(k)]
    return torch.stack([step.model.write(part) for part in parts], 1)


def _place_of_cells(at: Positions, size: Tensor) -> Int[Tensor, " nnz"]:
    """Each cell's place in its row by falling size, ties to the lower latent."""
    order = size.argsort(descending=True, stable=True)
    order = order[at.row[order].argsort(stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel(), device=order.device) - at.crow[at.row]
    return place


def _place_of_latents(group: Group, size: Tensor) -> Int[Tensor, "batch latents"]:
    """The same for a dense code, among the latents of all processes."""
    rows, mine = group.place(size.T.contiguous())
    everyone = rows.T
    order = everyone.argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return place[:, mine]

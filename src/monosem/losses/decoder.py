"""Terms that read the dictionary itself: penalties on W_D."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from monosem.base.errors import check
from monosem.base.seeds import torch_generator
from monosem.core.model import SDL
from monosem.losses.fidelity import prefix_level
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
    whole_columns: ClassVar[bool] = True

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


@TERMS.register("meta")
@dataclass(frozen=True)
class Meta(Term):
    """Columns of W_D that a second, smaller dictionary makes of few of its atoms are pushed off what it makes of them.

    Equation: w_j the columns over their norms, A of `share` n_q unit atoms, w_hat_j = sum of c_ja a over the `active`
        atoms of largest c_ja = max(<a, w_j>, 0); value = mean over j of cos(w_j, w_hat_j)^2, w_hat a constant. After
        it A learns to make them: a <- unit(a + rate sum_j c_ja (w_j - w_hat_j) / sum_j c_ja^2).
    Cost: `chunk` columns, drawn at each step, times all atoms; the gradient of W_D is dense.
    Source: Levinson 2026 (MetaSAE). Difference: the second dictionary is tied and has steps of its own, without Adam;
        the abstract's penalty, whose equation was not read.
    """

    share: float = 0.25
    active: int = 4
    rate: float = 0.1
    chunk: int = 8192
    name: ClassVar[str] = "meta"
    whole_columns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(0 < self.share < 1, f"share={self.share}; it is a share of the latents, between 0 and 1")
        for name in ("active", "chunk"):
            check(getattr(self, name) >= 1, f"{name}={getattr(self, name)}; it must be at least 1")
        check(0 < self.rate <= 1, f"rate={self.rate}; a step needs 0 < rate <= 1")

    def init_state(self, model: SDL) -> State:
        """Random atoms, as many as latents of level 0; the others are not used."""
        n_q, n_r = model.layout.n_q, model.layout.n_r
        atoms = torch.randn(n_q, n_r, generator=torch_generator(0, "meta", n_q))
        level = prefix_level(model.layout, (self.share, 1.0))
        return {name: x.to(model.b_E.device) for name, x in (("atoms", normalize(atoms)), ("level", level))}

    def apply(self, step: Step, state: State) -> Tensor:
        """Mean over columns; every process computes all of it."""
        rows = _decoder_rows(step)
        everyone, mine = step.group.place(state["atoms"])
        used = step.group.gather(state["level"]) == 0
        order = torch.randperm(len(rows), generator=torch_generator(0, "meta", step.context.step))
        w, atoms = normalize(rows[order[: self.chunk].to(rows.device)]), everyone[used].to(rows)
        with torch.no_grad():
            most = (w @ atoms.T).relu().topk(min(self.active, len(atoms)))
            code = w.new_zeros(len(w), len(atoms)).scatter_(1, most.indices, most.values)
            made = code @ atoms
            if step.context.training:
                better = code.T @ (w - made) / code.square().sum(0).clamp(min=1e-12)[:, None]
                everyone[used] = normalize(atoms + self.rate * better).to(everyone)
                state["atoms"].copy_(everyone[mine])
        return cosine_similarity(w, made).square().mean()


def _nearest(unit: Float[Tensor, "latents n_r"]) -> Float[Tensor, " latents"]:
    """The cosine of every row with its nearest other one; only the pairs that are nearest carry a gradient."""
    with torch.no_grad():
        cosines = unit @ unit.T
        cosines.fill_diagonal_(-torch.inf)
        partner = cosines.argmax(1)
    cosine: Tensor = torch.linalg.vecdot(unit, unit[partner])
    return cosine

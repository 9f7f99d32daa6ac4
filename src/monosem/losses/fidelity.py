"""Terms that ask x_r_hat to equal x_r: reconstruction, nested prefixes, several k, differences, the gated auxiliary."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss

from monosem.base import selection
from monosem.base.errors import check
from monosem.base.group import ALONE, Group
from monosem.base.selection import Request
from monosem.base.sparse import Code, SparseCode
from monosem.base.spec import TACIT
from monosem.core.activations import Activation, Context, Gated
from monosem.core.model import SDL
from monosem.core.pairs import Layout
from monosem.kernels.ops import multiply, recycled
from monosem.losses.objective import TERMS, State, Step, Term

Reduction = Literal["sum", "mean", "fvu"]


def distance(
    error: Float[Tensor, "batch n_r"], target: Float[Tensor, "batch n_r"], reduction: Reduction, over: Group = ALONE
) -> Tensor:
    """The squared error of a batch, in one of three units; `over`: the processes that have the other columns.

    Equation: sum = mean over rows of ||e||^2; mean = sum / n_r;
        fvu = sum over rows of ||e||^2 / sum over rows of ||y - mean y||^2 (a ratio of sums; 0 / 0 is 0).
    """
    return over.sum(error.pow(2).sum()) * _unit(target, reduction, over)


def _unit(target: Float[Tensor, "batch n_r"], reduction: Reduction, over: Group) -> float | Tensor:
    """What a sum of squared errors is multiplied with."""
    if reduction == "fvu":
        spread = over.total((target - target.mean(0)).pow(2).sum())
        return torch.where(spread > 0, 1 / spread.clamp(min=1e-30), torch.zeros_like(spread))
    rows, width = target.shape
    if reduction == "mean" and over.size > 1:
        width = int(over.total(torch.tensor(width)))
    return 1 / max(rows, 1) / (width if reduction == "mean" else 1)


@TERMS.register("reconstruction")
@dataclass(frozen=True)
class Reconstruction(Term):
    """Reconstruction loss.

    Equation: mean over the batch of ||x_r - x_r_hat||^2 ("sum"), divided by n_r ("mean"), or the batch's
        fraction of variance unexplained ("fvu").
    Source: Tang et al. 2025, eq 3. Crosscoders: the sum runs over all sources' columns.
    """

    reduction: Reduction = "sum"
    name: ClassVar[str] = "reconstruction"
    whole: ClassVar[bool] = True

    def apply(self, step: Step, state: State) -> Tensor:
        """The squared error in the chosen units."""
        squares = mse_loss(step.x_r_hat, step.x_r, reduction="sum")  # `distance` of the residual, in fewer passes
        return step.over(squares) * _unit(step.x_r, self.reduction, step.model.targets)


def prefix_level(layout: Layout, fractions: tuple[float, ...]) -> Int[Tensor, " n_q"]:
    """For each latent the first prefix that holds it; prefixes are taken within each block of W_D's latents.

    One block (SAE, transcoder, crosscoder): the first fraction * n_q latents. A cross-layer transcoder: the
    same fraction of every layer's latents, so that each prefix is a cross-layer transcoder itself.
    """
    level = torch.zeros(layout.n_q, dtype=torch.int64)
    for first, last in dict.fromkeys((block.first, block.last) for block in layout.decoder):
        edges = [first, *(first + max(1, round(f * (last - first))) for f in fractions)]
        for number, (start, stop) in enumerate(pairwise(edges)):
            level[start:stop] = number
    return level


@TERMS.register("matryoshka")
@dataclass(frozen=True)
class Matryoshka(Term):
    """Nested prefixes of the dictionary, each reconstructing on its own.

    Equation: sum over prefixes m of lambda_m ||x_r - b_D - W_D[:, :m] x_q[:m]||^2 (in `reduction` units). The last
        fraction must be 1; `weights` default to 1 each. `detach_inner`: the latents of earlier prefixes are
        constants in later ones, so that each group only learns from its own prefix's error. `order`="rate": prefixes
        are taken by falling firing rate, a running mean over a hundred steps, in place of the latents' numbers.
    Source: Bussmann et al. 2025; Tang et al. 2025, eq 9; by rate: recipes on SynthSAEBench, 2026.
        It replaces Reconstruction: its last prefix is the whole dictionary.
    """

    fractions: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    weights: tuple[float, ...] = ()
    reduction: Reduction = "sum"
    detach_inner: bool = False
    order: Literal["index", "rate"] = field(default="index", metadata=TACIT)
    name: ClassVar[str] = "matryoshka"
    whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        ordered = all(a < b for a, b in pairwise(self.fractions))
        check(
            bool(self.fractions) and ordered and self.fractions[0] > 0 and self.fractions[-1] == 1,
            f"fractions={self.fractions}; they must rise and end in 1.0",
        )
        check(
            not self.weights or len(self.weights) == len(self.fractions),
            f"weights has {len(self.weights)} entries for {len(self.fractions)} fractions",
        )

    def init_state(self, model: SDL) -> State:
        """Each latent's level; by rate also its firing rate, the run that it belongs to, and the levels of a run."""
        level = prefix_level(model.layout, self.fractions).to(model.b_E.device)
        if self.order == "index":
            return {"level": level}
        runs = torch.zeros_like(level)
        for number, (first, last) in enumerate(dict.fromkeys((b.first, b.last) for b in model.layout.decoder)):
            runs[first:last] = number
        return {
            "level": level,
            "levels": level.clone(),
            "run": runs,
            "rate": torch.zeros_like(level, dtype=torch.float64),
        }

    def _reorder(self, step: Step, state: State) -> None:
        """Levels by the rates of all processes' latents, run by run."""
        fires = step.code.latent_sum((step.code.values.detach() != 0).double()) / max(step.code.batch, 1)
        state["rate"] += 0.01 * (fires - state["rate"])
        rate, mine = step.group.place(state["rate"])
        run, levels = (step.group.gather(state[name]) for name in ("run", "levels"))
        order = rate.argsort(descending=True, stable=True)
        order = order[run[order].argsort(stable=True)]
        level = torch.empty_like(levels)
        level[order] = levels
        state["level"].copy_(level[mine])

    def apply(self, step: Step, state: State) -> Tensor:
        """Running residuals over groups: no latent is decoded twice."""
        weights = self.weights or (1.0,) * len(self.fractions)
        if self.order == "rate" and step.context.training:
            self._reorder(step, state)
        target = step.x_r - step.model.offset(step.x_p)
        groups = step.model.summed(self._write_groups(step, state["level"]))
        unit = _unit(step.x_r, self.reduction, step.model.targets)
        if not self.detach_inner:
            total, error = nested_squares(target, groups, weights)
            step.know(error)
            return step.over(total) * unit
        earlier = groups.detach() if self.detach_inner else groups
        inner = earlier.cumsum(1) - earlier
        errors = target[:, None] - inner - groups
        step.know(errors[:, -1])
        return step.over((errors.pow(2).sum((0, 2)) * errors.new_tensor(weights)).sum()) * unit

    def _write_groups(self, step: Step, level: Int[Tensor, " n_q"]) -> Float[Tensor, "batch levels n_r"]:
        """What each group of latents writes."""
        model, levels = step.model, len(self.fractions)
        code, level = model.whole_code(step.code), model.targets.gather(level)
        if isinstance(code, SparseCode):  # one decode: each (row, level) is a row of its own
            at, order = code.at.split_rows(level, levels)
            return model.write(SparseCode(at, code.values[order])).view(code.batch, levels, -1)
        if not model.decoder.is_whole or self.order == "rate":
            return torch.stack([model.write(code.keep(level == number)) for number in range(levels)], 1)
        decoder = model.decoder.weights[0]
        edges = [0, *torch.bincount(level, minlength=levels).cumsum(0).tolist()]  # neighbours: slices of one product
        return torch.stack([multiply(code.values[:, a:b], decoder[a:b]) for a, b in pairwise(edges)], 1)


class _NestedSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, target: Tensor, groups: Tensor, weights: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        errors = recycled(tuple(groups.shape), groups)
        total = target.new_zeros(())
        for number, weight in enumerate(weights):
            error = errors[:, number]
            torch.sub(errors[:, number - 1] if number else target, groups[:, number], out=error)
            total += weight * torch.linalg.vector_norm(error).square()
        ctx.weights = weights
        ctx.save_for_backward(errors)
        last = errors[:, -1].clone()
        ctx.mark_non_differentiable(last)
        return total, last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (errors,), g, weights = ctx.saved_tensors, gradients[0], ctx.weights
        of_groups = recycled(tuple(errors.shape), errors)
        for number in reversed(range(len(weights))):
            here = of_groups[:, number]
            torch.mul(errors[:, number], g * (-2 * weights[number]), out=here)
            if number + 1 < len(weights):
                here += of_groups[:, number + 1]
        return -of_groups[:, 0] if ctx.needs_input_grad[0] else None, of_groups, None


def nested_squares(
    target: Float[Tensor, "batch n_r"], groups: Float[Tensor, "batch levels n_r"], weights: Sequence[float]
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch n_r"]]:
    """(sum over levels m of weights[m] ||target - groups[:, 0] - ... - groups[:, m]||^2, the last difference).

    Gradient: to group i, -2 sum over m >= i of weights[m] e_m; to the target, minus that of group 0. The last
        difference is a constant.
    """
    total, last = _NestedSquares.apply(target, groups, tuple(weights))  # type: ignore[no-untyped-call]
    return total, last


@TERMS.register("multi_k")
@dataclass(frozen=True)
class MultiK(Term):
    """Reconstructions from the k largest latents, for several k over the whole dictionary.

    Equation: sum over i of weights_i ||x_r - b_D - W_D sigma_{k_i}(z)||^2, sigma_k the k largest scores of each row.
    Source: Gao et al. 2024 (Multi-TopK: k and 4k, weight 1/8); Tang et al. 2025, eq 9 as written.
    """

    ks: tuple[int, ...] = (128,)
    weights: tuple[float, ...] = (1 / 8,)
    reduction: Reduction = "sum"
    name: ClassVar[str] = "multi_k"

    def __post_init__(self) -> None:
        check(len(self.ks) == len(self.weights), f"ks={self.ks} and weights={self.weights} differ in length")
        check(all(k >= 1 for k in self.ks), f"ks={self.ks}; every k must be at least 1")

    def requests(self, layout: Layout, context: Context) -> tuple[Request, ...]:
        """The k largest of each row, for each k."""
        return tuple(selection.TopK(k) for k in self.ks)

    def apply(self, step: Step, state: State) -> Tensor:
        """One decode per k."""
        total, offset = torch.zeros_like(step.x_r[0, 0]), step.model.offset(step.x_p)
        for request, weight in zip(self.requests(step.model.whole, step.context), self.weights, strict=True):
            x_r_hat = offset + step.write(step.activate(step.extra[request]))
            total = total + weight * distance(step.x_r - x_r_hat, step.x_r, self.reduction, step.model.targets)
        return total


@TERMS.register("gated_aux")
@dataclass(frozen=True)
class GatedAux(Term):
    """The gate's own reconstruction, which teaches it directions; decoder and bias are constants in it.

    Equation: ||x_r - b_D' - W_D' relu(z_gate)||^2, primes detached (detach_decoder).
    Source: Rajamanoharan et al. 2024a, eq 8.
    """

    reduction: Reduction = "sum"
    detach_decoder: bool = True
    name: ClassVar[str] = "gated_aux"

    def refuse(self, activation: Activation, layout: Layout) -> str | None:
        """Only Gated has a gate."""
        return None if isinstance(activation, Gated) else "it has no gate path; use the activation gated"

    def apply(self, step: Step, state: State) -> Tensor:
        """One decode of the open gates."""
        gate: Code = step.cells.with_values(step.cells.values.relu())
        weights = list(step.model.decoder.weights)
        offset = step.model.offset(step.x_p)
        if self.detach_decoder:
            weights, offset = [w.detach() for w in weights], offset.detach()
        error = step.x_r - offset - step.write(gate, weights)
        return distance(error, step.x_r, self.reduction, step.model.targets)


@TERMS.register("delta")
@dataclass(frozen=True)
class Delta(Term):
    """The difference of neighbouring sources has to be reconstructed as well.

    Equation: with x^s the columns of target source s, mean over the batch of the sum over neighbours s, s + 1 of
        ||(x^s+1 - x^s) - (x_hat^s+1 - x_hat^s)||^2. What both share cancels; what one of them changed counts twice.
    Source: Kassem et al. 2026 (Delta-Crosscoder). Difference: the loss alone, on every row.
    """

    name: ClassVar[str] = "delta"
    whole_columns: ClassVar[bool] = True

    def refuse(self, activation: Activation, layout: Layout) -> str | None:
        """Needs several target sources of one width."""
        if len(layout.r_widths) < 2:
            return "there is one target, so that there is no difference to reconstruct; use a crosscoder"
        if len(set(layout.r_widths)) > 1:
            return f"its targets have widths {layout.r_widths}, which cannot be subtracted"
        return None

    def apply(self, step: Step, state: State) -> Tensor:
        """Sum over coordinates, mean over the batch."""
        parts = [step.residual[:, columns] for columns in step.model.layout.r_slices]
        squares = torch.stack([(b - a).pow(2).sum() for a, b in pairwise(parts)])
        return squares.sum() / max(step.x_r.shape[0], 1)

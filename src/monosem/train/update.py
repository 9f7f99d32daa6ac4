"""From gradients to new weights: project, clip, optimise, renormalise; in one pass over W where that is possible.

Equation: g <- projected g; g <- g min(1, clip / (||g|| + 1e-6)), the norm over all parameters; Adam, or the
    optimiser of the method (methods.optimisers); rows to unit norm. The fused way computes Adam's step from cells
    (kernels.ledger), row by row, without a gradient in memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor

from monosem.base.errors import check
from monosem.core.constraints import Constraint
from monosem.kernels.ops import Ledger, RowStep, dense_products, huge_pages, open_ledger, step_rows, takes_rows
from monosem.methods.optimisers import Adam
from monosem.train.config import FitConfig
from monosem.train.state import Run


def rate(run: Run, config: FitConfig, step: int) -> float:
    """The learning rate of a step."""
    return config.lr * (run.rule.schedule or config.schedule).at(step, config.steps)


class Update:
    """The second half of a training step, for one run.

    The fused way is taken by Adam, for float32 weights where compiled kernels serve them and every constraint works
    row by row of one weight; else the plain one. `path="reference"` on the model forces the plain way.
    """

    def __init__(self, run: Run, constraints: Sequence[Constraint], config: FitConfig) -> None:
        for name, p in run.model.named_parameters():
            remedy = "copy them (.data = .data.contiguous()): an optimiser writes rows one after another"
            check(p.is_contiguous(), f"the numbers of {name} lie among others, strides {p.stride()}; {remedy}")
        self.run, self.constraints, self.config = run, constraints, config
        self.pieces: dict[int, tuple[int, ...]] = {}
        self.weights: list[Tensor] = self._fusable()

    def _fusable(self) -> list[Tensor]:
        model = self.run.model
        both = [*model.encoder.weights, *model.decoder.weights]
        weights = {id(w): w for w in both if w.is_leaf and w.requires_grad}
        if model.path == "reference" or not isinstance(self.run.rule, Adam):
            return []
        for constraint in self.constraints:
            pieces = constraint.row_pieces(model)
            if pieces is None:
                return []
            self.pieces |= pieces
        widest = max((b - a for bounds in self.pieces.values() for a, b in pairwise(bounds)), default=0)
        return list(weights.values()) if takes_rows(*weights.values(), widest=widest) else []

    @contextmanager
    def collecting(self) -> Iterator[Ledger | None]:
        """Around the forward and backward pass: precision as configured, the fused weights' gradients as cells."""
        with dense_products(self.config.dense == "bf16"):
            if not self.weights:
                yield None
                return
            along = [w for w in self.weights if self.pieces.get(id(w)) == (0, w.shape[1])]
            with open_ledger(self.weights, along) as ledger:
                yield ledger

    def apply(self, ledger: Ledger | None) -> None:
        """Change the weights by the gradients of this step."""
        lr = rate(self.run, self.config, self.run.step)
        for group in self.run.optimiser.param_groups:
            group["lr"] = lr
        if ledger is None:
            self._plain()
        else:
            self._fused(ledger, lr)
        self.run.average()

    @torch.no_grad()
    def _fused(self, ledger: Ledger, lr: float) -> None:
        config, optimiser = self.config, self.run.optimiser
        steps = [step for weight in self.weights if (step := self._row_step(ledger, weight)) is not None]
        scale = 1.0 if config.clip is None else self._clip(steps, config.clip)
        for step in steps:
            state = self._moments(step.weight)
            state["step"] += 1
            step.adam(
                state["exp_avg"], state["exp_avg_sq"], state["moved"], int(state["step"]), lr, config.betas,
                config.eps, scale,
            )  # fmt: skip
        optimiser.step()

    def _row_step(self, ledger: Ledger, weight: Tensor) -> RowStep | None:
        """The step of a weight from its cells and what dense gradient it has; None where it has no gradient."""
        base, sets = weight.grad, ledger.parts(weight)
        weight.grad = None
        if base is None and not sets:
            return None
        pieces = self.pieces.get(id(weight))
        bounds, unit = pieces or (0, weight.shape[1]), pieces is not None
        return step_rows(weight, None if base is None else base.contiguous(), sets, bounds, unit, unit)

    def _clip(self, steps: Sequence[RowStep], most: float) -> Tensor:
        """The factor that brings the norm over all parameters down to `most`; gradients in memory have it already.

        It stays on the device: nobody waits for it.
        """
        model = self.run.model
        others = [p.grad for p in model.parameters() if p.grad is not None]
        by_column = (model.b_D, model.W_skip) if model.targets.size == 1 else ()
        everyones = {id(p.grad) for p in (*by_column, model._b_in) if p is not None}
        counted = [g for g in others if model.group.rank == 0 or id(g) not in everyones]
        nothing = torch.zeros((), dtype=torch.float64, device=model.b_E.device)
        squares = sum((g.double().pow(2).sum() for g in counted), nothing) + sum(step.squared_norm() for step in steps)
        scale = (most / (model.group.total(squares).sqrt() + 1e-6)).clamp(max=1.0)
        for g in others:
            g.mul_(scale)
        return scale

    def _moments(self, weight: Tensor) -> dict[str, Tensor]:
        """The optimiser's state of a weight, in the optimiser's own form; started here where it is not there yet."""
        state: dict[str, Tensor] = self.run.optimiser.state[weight]
        if not state:
            state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
            state |= {"exp_avg_sq": torch.zeros_like(weight)}
        if "moved" not in state:  # a state that the plain way began
            for t in (weight, state["exp_avg"], state["exp_avg_sq"]):
                huge_pages(t)
            state["moved"] = (state["exp_avg_sq"] != 0).any(1) | (state["exp_avg"] != 0).any(1)
        return state

    def _plain(self) -> None:
        run, model = self.run, self.run.model
        for constraint in self.constraints:
            constraint.project_gradient(model)
        if self.config.clip is not None and model.group.size > 1:
            self._clip((), self.config.clip)
        elif self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], self.config.clip)
        run.optimiser.step()
        run.hold(self.constraints)

"""From gradients to new weights: project, clip, optimise, renormalise; in one pass over W where that is possible.

Equation: g <- projected g; g <- g min(1, clip / (||g|| + 1e-6)), the norm over all parameters; Adam; rows to unit
    norm. The fused way computes the same from cells (kernels.ledger), row by row, without a gradient in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from monosem.anchors.term import AnchorPenalty
from monosem.kernels.gpu import rows as gpu
from monosem.kernels.gpu.launch import serves
from monosem.kernels.ledger import Ledger, open_ledger
from monosem.kernels.native.calls import usable
from monosem.kernels.native.rows import RowStep
from monosem.kernels.precision import dense_products
from monosem.kernels.workspace import huge_pages
from monosem.methods import Method
from monosem.train.config import FitConfig
from monosem.train.state import Run


class Update:
    """The second half of a training step, for one run.

    The fused way is taken for float32 weights on the CPU where the compiled kernels exist, every constraint works
    row by row on one weight, and no anchors are held hard; else the plain one. `path="reference"` on the model
    forces the plain way.
    """

    def __init__(self, run: Run, method: Method, config: FitConfig) -> None:
        self.run, self.method, self.config = run, method, config
        self.pieces: dict[int, tuple[int, ...]] = {}
        self.weights: list[Tensor] = self._fusable()

    def _fusable(self) -> list[Tensor]:
        model = self.run.model
        weights = {id(w): w for side in (model.encoder, model.decoder) for w in side.weights if w.requires_grad}
        hard = any(isinstance(term, AnchorPenalty) and term.plan.hard for term in self.run.objective.terms)
        if model.path == "reference" or hard or not (usable(*weights.values()) or serves(*weights.values())):
            return []
        for constraint in self.method.constraints:
            pieces = constraint.row_pieces(model)
            if pieces is None:
                return []
            self.pieces |= pieces
        return list(weights.values())

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
        optimiser, config = self.run.optimiser, self.config
        lr = config.lr * config.schedule.at(self.run.step, config.steps)
        for group in optimiser.param_groups:
            group["lr"] = lr
        if ledger is None:
            self._plain()
        else:
            self._fused(ledger, lr)

    @torch.no_grad()
    def _fused(self, ledger: Ledger, lr: float) -> None:
        config, optimiser = self.config, self.run.optimiser
        steps = []
        for weight in self.weights:
            base, sets = weight.grad, ledger.parts(weight)
            weight.grad = None
            if base is None and not sets:
                continue
            pieces = self.pieces.get(id(weight))
            bounds = pieces or (0, weight.shape[1])
            base = None if base is None else base.contiguous()
            row_step = gpu.RowStep if serves(weight) else RowStep
            steps.append(row_step(weight, base, sets, bounds, pieces is not None, pieces is not None))
        scale = 1.0
        if config.clip is not None:
            others = [p.grad for p in self.run.model.parameters() if p.grad is not None]
            squares = sum((float(g.double().pow(2).sum()) for g in others), 0.0) + sum(
                float(s.squared_norm()) for s in steps
            )
            scale = min(1.0, config.clip / (squares**0.5 + 1e-6))
            for g in others:
                g.mul_(scale)
        for step in steps:
            state = self._moments(step.weight)
            state["step"] += 1
            step.adam(
                state["exp_avg"], state["exp_avg_sq"], state["moved"], int(state["step"]), lr, config.betas,
                config.eps, scale,
            )  # fmt: skip
        optimiser.step()

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
        for constraint in self.method.constraints:
            constraint.project_gradient(model)
        for term in run.objective.terms:
            if isinstance(term, AnchorPenalty):
                term.freeze_gradient(model)
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], self.config.clip)
        run.optimiser.step()
        with torch.no_grad():
            for constraint in self.method.constraints:
                constraint.after_step(model)

"""A stack of runs: their weights lie in one tensor per parameter and take each step together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import functional_call, vmap

from monosem.anchoring.term import AnchorPenalty
from monosem.base.errors import RefusedError, ShapeError, check
from monosem.base.schedule import at_step
from monosem.base.sparse import DenseCode
from monosem.core.activations import Activation, BatchTopK, Context
from monosem.core.model import Forward
from monosem.losses.objective import Loss, Step, Term
from monosem.methods import Method
from monosem.train.config import FitConfig
from monosem.train.loop import hold_anchors
from monosem.train.stack_model import Body
from monosem.train.state import Run

__all__ = ["Stack", "Stacked"]

_ALONE = "train it alone, with fit"


@dataclass(frozen=True, eq=False)
class Stacked:
    """What one step of a stack saw, before the weights moved; everything has the runs in front."""

    x_p: Float[Tensor, "runs batch n_p"]
    x_r: Float[Tensor, "runs batch n_r"]
    dead: Bool[Tensor, "runs n_q"]
    context: Context
    total: Float[Tensor, " runs"]
    parts: dict[str, Float[Tensor, " runs"]]
    latents: Float[Tensor, "runs batch n_q"]
    error: Float[Tensor, "runs batch n_r"]

    def of(self, run: Run, number: int) -> tuple[Step, Loss]:
        """The step and the loss of one run, as `train_step` returns them."""
        code = DenseCode(self.latents[number])
        out = Forward(run.model, self.x_p[number], code, code, {}, False)
        step = Step(run.model, self.x_p[number], self.x_r[number], out, self.dead[number], self.context)
        step.know(self.error[number])
        return step, Loss(self.total[number], {name: part[number] for name, part in self.parts.items()})


def _anchoring(run: Run) -> list[AnchorPenalty]:
    return [term for term in run.objective.terms if isinstance(term, AnchorPenalty)]


def _plain(term: Term) -> object:
    """A term without what may differ from run to run: its weight, and the directions of its anchors."""
    if isinstance(term, AnchorPenalty):
        return replace(term.plan, weight=1.0), term.anchors.k, term.plan.hard
    return replace(term, weight=1.0)


def _check_alike(runs: Sequence[Run], methods: Sequence[Method]) -> None:
    """Raises: ShapeError where sizes differ, RefusedError where anything else does that a stack shares."""
    for number in range(1, len(runs)):
        pairs = [
            ("sizes", runs[0].model.layout, runs[number].model.layout),
            ("anchors", *([term.anchors.k for term in _anchoring(runs[i])] for i in (0, number))),
            ("activation", runs[0].model.activation, runs[number].model.activation),
            ("terms", *([_plain(term) for term in runs[i].objective.terms] for i in (0, number))),
            *((name, getattr(methods[0], name), getattr(methods[number], name)) for name in _SHARED),
        ]
        for name, first, this in pairs:
            error = ShapeError if name in ("sizes", "anchors") else RefusedError
            check(
                first == this,
                f"run {number} cannot share a stack with run 0: its {name} are {this}, not {first}; {_ALONE}, or in "
                "a stack of its like",
                error,
            )


_SHARED = ("constraints", "pre_bias", "resample")


class Stack:
    """R runs of one shape. Each run's model, moments, term states and dead tracker become views of the stack's.

    Equation: as `train_step`, for every run by itself: forward, backward, project, clip, optimise, renormalise,
        count the dead. Products are dense, one batched product for all runs; the optimiser is one Adam.
    Raises: ShapeError, RefusedError: the runs are not alike, or hold something that cannot be stacked.
    """

    def __init__(self, runs: Sequence[Run], methods: Sequence[Method], config: FitConfig) -> None:
        low = [name for name in ("selection", "dense") if getattr(config, name) != "fp32"]
        check(not low, f"stacked runs compute in full precision, but {low} is 'bf16'; set 'fp32', or {_ALONE}")
        _check_alike(runs, methods)
        self.runs, self.config, self.method = list(runs), config, methods[0]
        first = runs[0]
        activation = first.model.activation
        known = not first.model.activation_state() or isinstance(activation, BatchTopK)
        check(known, f"{type(activation).__name__} learns from scores in its own way; {_ALONE}", RefusedError)
        self.body = Body(first.model, first.objective)
        self.leaves = {name: self._stacked(name) for name, _ in first.model.named_parameters()}
        self.buffers = {name: self._shared_buffer(name) for name, _ in first.model.named_buffers()}
        self.states = {
            label: {name: self._state(label, name, name in term.shared) for name in first.terms[label]}
            for label, term in zip(first.objective.labels, first.objective.terms, strict=True)
        }
        self.since = torch.stack([run.tracker.since for run in runs])
        for run, since in zip(runs, self.since, strict=True):
            run.tracker.since = since
        held = [[(t.anchors.p, t.anchors.r) for t in _anchoring(run)] for run in runs]
        self.anchors = [torch.stack([h[0][side] for h in held]).to(self.since.device) for side in (0, 1) if held[0]]
        trained = [leaf for leaf in self.leaves.values() if leaf.requires_grad]
        self.optimiser = torch.optim.Adam(trained, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
        self.pieces = self._pieces()

    # Bringing runs together, and apart again ------------------------------------------------------------

    def _stacked(self, name: str) -> Tensor:
        parameters = [run.model.get_parameter(name) for run in self.runs]
        whole = torch.stack([p.detach() for p in parameters])
        for parameter, part in zip(parameters, whole, strict=True):
            parameter.data = part
        return whole.requires_grad_(parameters[0].requires_grad)

    def _shared_buffer(self, name: str) -> Tensor:
        whole = torch.stack([run.model.get_buffer(name) for run in self.runs])
        for run, part in zip(self.runs, whole, strict=True):
            setattr(run.model, name, part)
        return whole

    def _state(self, label: str, name: str, shared: bool) -> Tensor:
        parts = [run.terms[label][name] for run in self.runs]
        whole = parts[0] if shared else torch.stack(parts)
        for number, run in enumerate(self.runs):
            run.terms[label][name] = whole if shared else whole[number]
        return whole

    def release(self) -> None:
        """Give every run memory of its own again."""
        for run in self.runs:
            for tensor in (*run.model.parameters(), *run.model.buffers()):
                tensor.data = tensor.data.clone()
                tensor.grad = None

    # A step -----------------------------------------------------------------------------------------------

    def step(self, x_p: Float[Tensor, "runs batch n_p"], x_r: Float[Tensor, "runs batch n_r"]) -> Stacked:
        """One step of every run."""
        config, number = self.config, self.runs[0].step
        context = Context(True, number, config.steps)
        dead = self.since > self.runs[0].tracker.window
        self.optimiser.zero_grad(set_to_none=True)
        total, parts, latents, error, least = self._forward(x_p, x_r, dead, context)
        torch.autograd.backward(total.sum())
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * config.schedule.at(number, config.steps)
        with torch.no_grad():
            self._change_gradients()
            self.optimiser.step()
            self._link_moments()
            self._bring_back()
            self._count(latents, least)
        for run in self.runs:
            run.step += 1
        return Stacked(x_p, x_r, dead, context, total.detach(), parts, latents, error)

    def _forward(
        self, x_p: Tensor, x_r: Tensor, dead: Tensor, context: Context
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]:
        terms = self.runs[0].objective.terms
        states = {
            label: {name: None if name in term.shared else 0 for name in state}
            for term, (label, state) in zip(terms, self.states.items(), strict=True)
        }
        tensors = {f"model.{name}": t for name, t in (self.leaves | self.buffers).items()}

        def one(tensors: dict[str, Tensor], *rest: object) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]:
            found: tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor]
            found = functional_call(self.body, tensors, (*rest, context))
            return found

        try:
            found: tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor] = vmap(one, (0, 0, 0, 0, states, 0, 0))(
                tensors, x_p, x_r, dead, self.states, self._weights(context), self.anchors
            )
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
            if not any(word in why for word in ("vmap", "storage")):
                raise
            raise RefusedError(f"{self.method.spec or self.method} cannot be stacked ({why}); {_ALONE}") from error
        return found

    def _weights(self, context: Context) -> dict[str, Tensor]:
        """Every run's weight of every term; none where all runs have the same."""
        now: dict[str, list[float]] = {
            label: [at_step(run.objective.terms[i].weight, context.step, context.steps) for run in self.runs]
            for i, label in enumerate(self.states)
        }
        if all(len(set(values)) == 1 for values in now.values()):
            return {}
        like = next(iter(self.leaves.values()))
        return {label: torch.tensor(values, dtype=like.dtype, device=like.device) for label, values in now.items()}

    # After the gradients ------------------------------------------------------------------------------------

    def _pieces(self) -> dict[str, tuple[int, ...]] | None:
        """The columns between which pieces of a weight's rows keep their norm, by name; None: run by run instead."""
        model, names = self.runs[0].model, {id(p): name for name, p in self.runs[0].model.named_parameters()}
        pieces: dict[str, tuple[int, ...]] = {}
        for constraint in self.method.constraints:
            own = constraint.row_pieces(model)
            if own is None:
                return None
            pieces |= {names[weight]: columns for weight, columns in own.items()}
        return pieces

    def _change_gradients(self) -> None:
        hard = [(run, term) for run in self.runs for term in _anchoring(run) if term.plan.hard]
        if hard or self.pieces is None:
            self._show_gradients()
        if self.pieces is None:
            for run in self.runs:
                for constraint in self.method.constraints:
                    constraint.project_gradient(run.model)
        else:
            for name, columns in self.pieces.items():
                for a, b in pairwise(columns):
                    weight, g = self.leaves[name].detach()[..., a:b], self._gradient(name)[..., a:b]
                    along = torch.linalg.vecdot(g, weight) / torch.linalg.vecdot(weight, weight).clamp(min=1e-30)
                    g.sub_(along[..., None] * weight)
        for run, term in hard:
            term.freeze_gradient(run.model)
        if self.config.clip is not None:
            gradients = [leaf.grad for leaf in self.leaves.values() if leaf.grad is not None]
            norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
            scale = (self.config.clip / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
            for g in gradients:
                g.mul_(scale.view(-1, *(1,) * (g.ndim - 1)))

    def _gradient(self, name: str) -> Tensor:
        gradient = self.leaves[name].grad
        assert gradient is not None
        return gradient

    def _show_gradients(self) -> None:
        for name, leaf in self.leaves.items():
            for number, run in enumerate(self.runs):
                run.model.get_parameter(name).grad = None if leaf.grad is None else leaf.grad[number]

    def _link_moments(self) -> None:
        """Each run's own optimiser knows its part of the moments, from the first step on."""
        if self.runs[0].step > 0:
            return
        for name, leaf in self.leaves.items():
            state = self.optimiser.state.get(leaf, {})
            for number, run in enumerate(self.runs if state else ()):
                mine = {key: value[number] for key, value in state.items() if key != "step"}
                run.optimiser.state[run.model.get_parameter(name)] = {"step": state["step"], **mine}

    def _bring_back(self) -> None:
        if self.pieces is None:
            for run in self.runs:
                for constraint in self.method.constraints:
                    constraint.after_step(run.model)
        else:
            for name, columns in self.pieces.items():
                for a, b in pairwise(columns):
                    part = self.leaves[name].detach()[..., a:b]
                    part.div_(torch.linalg.vector_norm(part, dim=-1, keepdim=True).clamp(min=1e-15))
        for run in self.runs:
            hold_anchors(run.model, run.objective)
        activation: Activation = self.runs[0].model.activation
        activation.project({name: self.leaves[f"act.{name}"] for name in self.runs[0].model.act})

    def _count(self, latents: Tensor, least: Tensor) -> None:
        self.since.add_(latents.shape[1]).masked_fill_((latents != 0).any(1), 0)
        activation = self.runs[0].model.activation
        if isinstance(activation, BatchTopK):
            threshold, found = self.buffers["act_threshold"], least.double()
            moved = torch.where(threshold < 0, found, threshold + activation.rate * (found - threshold))
            threshold.copy_(torch.where(found.isfinite(), moved, threshold))

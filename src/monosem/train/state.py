"""The state of a run: model, optimiser, term states, dead tracker, step; saved whole in one file."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from monosem.base.errors import CheckpointError, shortened
from monosem.base.machine import gpu, machine
from monosem.base.sparse import Code, SparseCode
from monosem.core.constraints import Constraint
from monosem.core.io import live_tensors, model_tensors, set_model_tensors
from monosem.core.model import SDL
from monosem.core.shards import whole_name
from monosem.kernels.ops import build_name, used
from monosem.losses.objective import Objective, State
from monosem.methods.optimisers import Adam, Optimiser
from monosem.train.pieces import FORMAT, own_part, read_pieces


@dataclass(eq=False)
class DeadTracker:
    """Tokens since each latent last fired; dead means more than `window` of them."""

    since: Int[Tensor, " n_q"]
    window: int

    def update(self, code: Code) -> None:
        """Count one batch: every latent ages by its rows, those that fired start at 0."""
        self.since += code.batch
        if isinstance(code, SparseCode):
            fired = torch.zeros(code.n_q + 1, dtype=torch.bool, device=self.since.device)
            fired[torch.where(code.values.detach() != 0, code.at.col, code.n_q)] = True  # no mask: a GPU waits for one
            fired = fired[:-1]
        else:
            sums = code.sums  # of numbers that are not negative
            fired = used(code.values.detach()) if sums is None else sums.detach() != 0
        self.since.masked_fill_(fired, 0)

    @property
    def dead(self) -> Bool[Tensor, " n_q"]:
        """Which latents are dead."""
        return self.since > self.window


ADAM = Adam()


@dataclass(eq=False)
class Run:
    """Everything that changes while training.

    `parts`: what its identity is the digest of. `rule`: how steps are made.
    """

    model: SDL
    objective: Objective
    optimiser: torch.optim.Optimizer
    terms: dict[str, State]
    tracker: DeadTracker
    identity: str
    step: int = 0
    parts: dict[str, Any] = field(default_factory=dict)
    rule: Optimiser = ADAM

    @staticmethod
    def start(
        model: SDL,
        objective: Objective,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        window: int,
        identity: str = "",
        terms: dict[str, State] | None = None,
        rule: Optimiser = ADAM,
    ) -> "Run":
        """A run at step 0; `terms`: their states, where they are not to be made of the model."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        given = (parameters, lr, betas, eps)
        optimiser = rule.over(*given) if model.group.size == 1 else rule.over_shards(model, *given)
        since = torch.zeros(model.n_q, dtype=torch.int64, device=model.b_E.device)
        terms = objective.init_state(model) if terms is None else terms
        return Run(model, objective, optimiser, terms, DeadTracker(since, window), identity, rule=rule)

    def forget(self, latents: Bool[Tensor, " n_q"]) -> None:
        """Reset the optimiser's state of some latents' entries, in every parameter that has a row per latent.

        Moments become 0, and what is a mean of weights, or a point beside them, becomes the weights.
        """
        encoder, decoder = self.model.encoder, self.model.decoder
        rows = {
            id(w): of_side[block.latents]
            for side, of_side in ((decoder, self.model.targets.gather(latents)), (encoder, latents))
            for block, w in zip(side.blocks, side.weights, strict=True)
        }
        per_latent = {id(vector) for vector in (self.model.b_E, *self.model.act.values())}
        for parameter, state in self.optimiser.state.items():
            chosen = rows.get(id(parameter), latents if id(parameter) in per_latent else None)
            if chosen is None:
                continue
            for name in state.keys() & {"exp_avg", "exp_avg_sq"}:
                state[name][chosen] = 0.0
            for name in state.keys() & {"average", *self.rule.points}:
                state[name][chosen] = parameter.detach()[chosen]

    @torch.no_grad()
    def average(self) -> None:
        """Take this step's weights into their running mean, where the optimiser has one."""
        ema = self.rule.ema
        if ema == 0:
            return
        for parameter, state in self.optimiser.state.items():
            if "average" not in state:
                state["average"] = parameter.detach().clone()
            state["average"].lerp_(parameter, (1 - ema) / (1 - ema ** (self.step + 1)))

    @torch.no_grad()
    def hold(self, constraints: Sequence[Constraint]) -> None:
        """Bring the weights back to the constraints, and the points beside them that the optimiser has."""
        for constraint in constraints:
            constraint.after_step(self.model)
        for point in self.rule.points:
            before = self._go_to(self._at(point))
            for constraint in constraints:
                constraint.after_step(self.model)
            for parameter, value in self._at(point):
                value.copy_(parameter)
            self._go_to(before)

    @torch.no_grad()
    def finish(self, constraints: Sequence[Constraint]) -> list[tuple[Tensor, Tensor]]:
        """Bring the model to the mean of its weights, where the optimiser keeps one; returns where it was."""
        before = self._go_to(self._at("average"))
        for constraint in constraints if before else ():
            constraint.after_step(self.model)
        return before

    @contextmanager
    def finished(self, constraints: Sequence[Constraint]) -> Iterator[None]:
        """The model as it would be if the run ended here, in evaluation mode; afterwards as it was."""
        before = self.finish(constraints)
        self.model.eval()
        yield
        self.model.train()
        self._go_to(before)

    def _at(self, point: str) -> list[tuple[Tensor, Tensor]]:
        """[(parameter, its value at another point of the optimiser's state)]."""
        return [(p, state[point]) for p, state in self.optimiser.state.items() if point in state]

    @torch.no_grad()
    def _go_to(self, values: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Write values into parameters; returns what was there."""
        before = [(p, p.detach().clone()) for p, _ in values]
        for p, value in values:
            p.copy_(value)
        return before


def _trained(run: Run) -> list[tuple[str, Tensor]]:
    """The parameters that the optimiser has, by name."""
    live = live_tensors(run.model)
    names = {id(tensor): whole_name(run.model, name) for name, tensor in live.items()}
    return [(names[id(p)], p) for group in run.optimiser.param_groups for p in group["params"]]


def run_tensors(run: Run) -> dict[str, Tensor]:
    """What is saved of a run, under the names of the whole model."""
    tensors = {f"model.{whole_name(run.model, name)}": t for name, t in model_tensors(run.model).items()}
    columns = run.model.targets.size > 1  # which rows moved is then known of these alone, and said by the moments
    for name, parameter in _trained(run):  # one that never had a gradient has no moments
        state = run.optimiser.state.get(parameter, {})
        tensors |= {f"adam.{name}.{own}": value for own, value in state.items() if not (columns and own == "moved")}
    for label, state in run.terms.items():
        tensors |= {f"term.{label}.{name}": value for name, value in state.items()}
    tensors["dead.since"] = run.tracker.since
    return tensors


def _conditions(run: Run) -> dict[str, str]:
    """Under what conditions a run computes its bits: processor or GPU, threads, versions, kernels, processes."""
    model = run.model
    processes = str(model.group.size) + (" by targets" if model.targets.size > 1 else "")
    return machine() | {"kernels": build_name(), "processes": processes} | gpu(model.b_E.device)


def about_checkpoint(run: Run, log: str) -> dict[str, str]:
    """What a checkpoint says of its run; `log`: a checksum of what was logged up to here."""
    return {
        "format": FORMAT,
        "identity": run.identity,
        "parts": json.dumps(run.parts),
        "step": str(run.step),
        "log": log,
        "machine": json.dumps(_conditions(run), sort_keys=True),
    }


def load_run(run: Run, path: Path, allow_other_machine: bool = False) -> str | None:
    """Bring a fresh run to where a checkpoint left it, whichever processes wrote it; returns the checksum of its log.

    Raises: CheckpointError when the file is damaged, belongs to another run (method, data, configuration), or
        was written under other conditions (processor, threads, versions) and `allow_other_machine` is not set.
    """
    metadata, pieces = read_pieces(run.model, path)
    try:
        _check_same_run(run, path, metadata)
        if not allow_other_machine:
            _check_conditions(run, path, metadata)
        tensors = own_part(run.model, pieces, path)
        step = int(metadata["step"])
        _restore(run, tensors, str(path))
    except (LookupError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        why = shortened(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{path} lacks what a run needs ({why}); delete it to start again") from None
    run.step = step
    return metadata.get("log")


def _restore(run: Run, tensors: dict[str, Tensor], where: str) -> None:
    saved = _below(tensors, "model.")
    names = {name: whole_name(run.model, name) for name in model_tensors(run.model)}
    here = {name: saved.pop(whole) for name, whole in names.items() if whole in saved}
    set_model_tensors(run.model, here | saved, where)
    for name, parameter in _trained(run):
        state = _below(tensors, f"adam.{name}.")
        if state:
            run.optimiser.state[parameter] = {name: t.to(parameter.device, copy=True) for name, t in state.items()}
    for label, values in run.terms.items():
        for name, value in values.items():
            value.copy_(tensors[f"term.{label}.{name}"])
    run.tracker.since.copy_(tensors["dead.since"])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _check_same_run(run: Run, path: Path, metadata: dict[str, str]) -> None:
    if metadata["identity"] != run.identity:
        there = json.loads(metadata.get("parts", "{}"))
        changes = "; ".join(_changes(there, run.parts)) if there else "method, data or configuration differ"
        remedy = "choose another output folder, or repeat what the first call was given"
        raise CheckpointError(f"{path} belongs to another run: {changes}; {remedy}")


def _changes(there: dict[str, Any], here: dict[str, Any]) -> Iterator[str]:
    """What differs between the parts of two runs, each with both values; a method's text says it all."""
    texts = [parts["method"].get("spec") for parts in (there, here)]
    if texts[0] != texts[1]:
        yield _change("method", *texts)
        there, here = there | {"method": None}, here | {"method": None}
    first, second = (_leaves("", parts | _data(parts)) for parts in (there, here))
    for name in sorted(first | second):
        if first.get(name) != second.get(name):
            yield _change(name, first.get(name), second.get(name))


def _change(name: str, there: Any, here: Any) -> str:
    return f"{name} was {shortened(str(there), 60)}, is {shortened(str(here), 60)}"


def _data(parts: dict[str, Any]) -> dict[str, Any]:
    """The digests of rows and anchors, short, each under a name of its own."""
    rows, p_widths, r_widths = parts["data"]
    left, _, units = rows.partition("@")
    data, _, kept = left.partition("/")
    anchors = zip(("anchors", "anchors, p", "anchors, r"), parts["anchors"] or (), strict=False)
    names = {"data": data, "rows that are left": kept, "units": units} | dict(anchors)
    short = {name: shortened(value, 20) or None for name, value in names.items()}
    return {"anchors": None} | short | {"p_widths": p_widths, "r_widths": r_widths}


def _leaves(name: str, value: Any) -> dict[str, Any]:
    """The values of nested parts by name: "lr" of the configuration, else "method.init.b_D"."""
    if not isinstance(value, dict):
        return {name: value}
    below = "" if name in ("", "config") else f"{name}."
    return {inner: leaf for key, part in value.items() for inner, leaf in _leaves(f"{below}{key}", part).items()}


def _check_conditions(run: Run, path: Path, metadata: dict[str, str]) -> None:
    there, here = json.loads(metadata["machine"]), _conditions(run)
    if there != here:
        changes = [f"{name}: {there.get(name)} then, {now} now" for name, now in here.items() if there.get(name) != now]
        raise CheckpointError(
            f"{path} was written under other conditions ({', '.join(changes)}); bits would differ. "
            "Set allow_other_machine to resume"
        )

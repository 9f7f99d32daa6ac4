"""Step, Term, Objective: terms read one record and are summed in one place."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.errors import RefusedError, check
from monosem.base.group import Group
from monosem.base.guard import guard_fields
from monosem.base.once import Once
from monosem.base.registry import Registry
from monosem.base.schedule import at_step
from monosem.base.selection import Request
from monosem.base.sparse import Code
from monosem.core.activations import Activation, Context
from monosem.core.model import SDL, Forward
from monosem.core.pairs import Layout, Rows
from monosem.losses.control import ToL0, Weight

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """What one training step offers to the loss terms.

    `rows`: where the rows come from, if their source knows. Where several processes share the model's latents,
    `model`, `dead`, `code`, `cells` and `extra` are of this process's latents, while rows, `x_r_hat`, `error` and
    every value that a term returns are of all. Where they share by targets, `x_r`, `x_r_hat` and `error` have this
    process's columns.
    """

    model: SDL
    x_p: Float[Tensor, "batch n_p"]
    x_r: Float[Tensor, "batch n_r"]
    out: Forward
    dead: Bool[Tensor, " n_q"] | None
    context: Context
    rows: Rows | None = None

    @property
    def group(self) -> Group:
        """The processes that share the model's latents."""
        return self.model.group

    @property
    def code(self) -> Code:
        """The latents."""
        return self.out.code

    @property
    def cells(self) -> Code:
        """z along the code."""
        return self.out.cells

    @property
    def extra(self) -> Mapping[Request, Code]:
        """z of what terms requested."""
        return self.out.extra

    @Once
    def x_r_hat(self) -> Float[Tensor, "batch n_r"]:
        """The reconstruction, differentiable."""
        return self.write(self.code).add_(self.model.offset(self.x_p))

    @Once
    def error(self) -> Float[Tensor, "batch n_r"]:
        """e as a constant; a term that comes by it on its own way hands it in with `know`."""
        return self.residual.detach()

    def know(self, error: Float[Tensor, "batch n_r"]) -> None:
        """e, from a term that needed no decode of the whole code to get it."""
        self.__dict__.setdefault("error", error.detach())

    @Once
    def residual(self) -> Float[Tensor, "batch n_r"]:
        """e = x_r - x_r_hat."""
        return self.x_r - self.x_r_hat

    @Once
    def norms(self) -> Float[Tensor, " n_q"]:
        """Decoder norms over all targets."""
        return self.model.decoder_norm()

    @property
    def count_dead(self) -> int:
        """How many latents are dead."""
        return 0 if self.dead is None else int(self.group.sum(self.dead.sum()))

    def write(self, code: Code, weights: Sequence[Tensor] | None = None) -> Float[Tensor, "batch n_r"]:
        """W_D x_q over all latents, without bias or skip; with other decoder weights where given."""
        return self.model.summed(self.model.write(code, weights))

    def over(self, x: Tensor) -> Tensor:
        """What was summed over the columns of x_r here, over all of them."""
        return self.model.targets.sum(x)

    def activate(self, cells: Code) -> Code:
        """sigma's value on pre-activations that a request brought."""
        value = self.model.activation.value(cells.values, self.model.along(cells))
        if not cells.is_sparse:  # a dense selection holds zeros outside, where a value need not be zero
            value = torch.where(cells.values != 0, value, torch.zeros_like(value))
        return cells.with_values(value)

    def mean(self, entries: Tensor, code: Code) -> Float[Tensor, ""]:
        """Sum over latents, mean over the batch."""
        return self.group.sum(entries.sum() / max(code.batch, 1))


@dataclass(frozen=True)
class Term(ABC):
    """One summand of the objective, times its weight: a number, a schedule over the run, or a controller (ToL0).

    A value is of all latents: what `apply` sums over latents goes through `step.mean` or `step.group.sum`, what it
    decodes through `step.write`, what it sums over columns through `step.over`, before anything that is not linear;
    tests/losses/test_shards.py tries every term.

    A term that keeps state (p-annealing, say) returns it from `init_state` and changes it in `apply`;
    it is saved with the run.
    """

    weight: Weight = 1.0
    name: ClassVar[str] = "term"
    whole: ClassVar[bool] = False
    """Whether it asks for all of x_r by itself: a method has one such term, and another takes its place."""
    pairs: ClassVar[bool] = False
    """Whether it compares neighbours: rows are then drawn two by two, as they follow each other in the source."""
    whole_columns: ClassVar[bool] = False
    """Whether it needs all of a column of W_D in one process."""

    def refuse(self, activation: Activation, layout: Layout) -> str | None:
        """Why this term cannot go with an activation and a layout; None if it can."""
        return None

    def refusal(self, activation: Activation, layout: Layout) -> str | None:
        """The same, its weight included: no weight brings a ranking to another number of latents."""
        if isinstance(self.weight, ToL0) and activation.pattern_kind != "independent":
            return "its k says how many latents are active, whatever a penalty weighs; ask by k"
        return self.refuse(activation, layout)

    def requests(self, layout: Layout, context: Context) -> tuple[Request, ...]:
        """Extra selections that `apply` reads from `step.extra`."""
        return ()

    def asked_l0(self) -> float | None:
        """The number of active latents of a row that this term asks for; None if it asks for none."""
        return self.weight.l0 if isinstance(self.weight, ToL0) else None

    def of_latents(self, first: int, last: int) -> "Term":
        """The term of a model of the latents [first, last), numbered from 0."""
        return self

    def init_state(self, model: SDL) -> State:
        """State at the start of a run; what has an axis has an entry for each latent."""
        return {}

    @abstractmethod
    def apply(self, step: Step, state: State) -> Float[Tensor, ""]:
        """The unweighted value; may change `state` in place."""


TERMS: Registry[type[Term]] = Registry("term")


@dataclass(frozen=True, eq=False)
class Loss:
    """total = sum of parts; each part is weighted already. Parts are detached.

    `error`: e = x_r - x_r_hat of the weights that the loss is of, a constant.
    """

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]
    error: Float[Tensor, "batch n_r"]


@dataclass(frozen=True)
class Objective:
    """A sum of terms.

    Equation: total = sum over terms of weight(t) * value. Reconstruction is a sum over coordinates and a
        mean over the batch; every weight is in those units.
    """

    terms: tuple[Term, ...]
    labels: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        for term in self.terms:
            _check_weight(term)
        names = [term.name for term in self.terms]
        labels = [name if names.count(name) == 1 else f"{name}_{names[:i].count(name)}" for i, name in enumerate(names)]
        object.__setattr__(self, "labels", tuple(labels))

    def check(self, activation: Activation, layout: Layout) -> None:
        """Raise RefusedError with the reason if a term cannot go with an activation or a layout."""
        for term in self.terms:
            reason = term.refusal(activation, layout)
            if reason is not None:
                raise RefusedError(f"the term {term.name} cannot go with {type(activation).__name__}: {reason}")

    def requests(self, layout: Layout, context: Context) -> tuple[Request, ...]:
        """What all terms request, each once."""
        return tuple(dict.fromkeys(r for term in self.terms for r in term.requests(layout, context)))

    def of_latents(self, first: int, last: int) -> "Objective":
        """The objective of a model of the latents [first, last), numbered from 0."""
        return Objective(tuple(term.of_latents(first, last) for term in self.terms))

    @property
    def asked_l0(self) -> float | None:
        """The number of active latents of a row that the first term asks for that does."""
        return next((l0 for term in self.terms if (l0 := term.asked_l0()) is not None), None)

    @property
    def pairs(self) -> bool:
        """Whether a term compares neighbours."""
        return any(term.pairs for term in self.terms)

    def init_state(self, model: SDL) -> dict[str, State]:
        """Every term's state, by label."""
        states = {label: term.init_state(model) for label, term in zip(self.labels, self.terms, strict=True)}
        for label, term in zip(self.labels, self.terms, strict=True):
            if isinstance(term.weight, ToL0):
                states[label] |= term.weight.init_state(model.b_E.device)
        return states

    def __call__(self, step: Step, state: dict[str, State]) -> Loss:
        """The loss of one step."""
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for label, term in zip(self.labels, self.terms, strict=True):
            part = self._weight(term, step, state[label]) * term.apply(step, state[label])
            parts[label] = part.detach()
            total = part if total is None else total + part
        assert total is not None
        return Loss(total, parts, step.error)

    def _weight(self, term: Term, step: Step, state: State) -> float | Tensor:
        """The weight of a term at this step; a controller then sees the step."""
        if not isinstance(term.weight, ToL0):
            return at_step(term.weight, step.context.step, step.context.steps)
        weight = term.weight.weight(state)
        term.weight.observe(step, state)
        return weight


def _check_weight(term: Term) -> None:
    """Raises: ArgumentError for a weight that is negative or not finite: the loss would have no least value."""
    guard_fields(term)
    weight = term.weight
    ends = (weight,) if isinstance(weight, int | float) else [getattr(weight, end, 0.0) for end in ("start", "stop")]
    for value in ends:
        check(0 <= value < math.inf, f"{term.name} weighs {value}; a weight is at least 0 and finite")

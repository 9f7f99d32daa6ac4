"""Every term over latents that lie in several processes: the value and the gradients of one process that holds all."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.anchors.term import Anchoring, AnchorPenalty
from monosem.base.group import ALONE, Axis, Group
from monosem.base.sparse import DenseCode
from monosem.core.activations import Context
from monosem.core.model import Forward
from monosem.core.shards import cut
from monosem.losses.fidelity import Reconstruction
from monosem.losses.objective import TERMS, State, Step, Term
from tests.group import together
from tests.losses.trials import N_Q, Trial, batch, trial
from tests.refused import REGISTERED_ACTIVATIONS, REGISTERED_TERMS, all_terms, reason
from tests.thin import in_turn

EDGES = {1: (0, N_Q), 2: (0, 6, N_Q), 4: (0, 3, 7, 12, N_Q)}
"""Where shards begin and end: of unlike sizes."""

DEAD = {"in one shard": torch.arange(N_Q) < 3, "spread": torch.arange(N_Q) % 3 == 0, "none": torch.zeros(N_Q) > 0}
CONTEXT = Context(True, 10, 20)
"""Halfway: schedules have moved since the states began."""


@dataclass
class Worked:
    """What a process has after a term: its value, its state, its gradients by name, latents first."""

    value: Tensor
    state: State
    own: dict[str, Tensor]
    of_all: dict[str, Tensor]


PAIRS: dict[Axis, tuple[str, ...]] = {
    "latents": ("sae", "cross_layer", "crosscoder", "skip_transcoder"),
    "targets": ("cross_layer", "skip_transcoder"),
}
"""By targets nothing may be tied."""


def combinations(by: Axis) -> list[tuple[str, str, str]]:
    """Every term with every activation that it goes with, pairings in turn; by targets, no term of whole columns."""
    turns, pairs, found = 0, PAIRS[by], []
    for term in all_terms().items():
        if by == "targets" and term[1].whole_columns:
            continue
        for activation in REGISTERED_ACTIVATIONS:
            sigma = REGISTERED_ACTIVATIONS[activation]
            fitting = [pair for pair in pairs if reason(sigma, term[1], pair) is None]
            if fitting:
                turns += 1
                found.append((term[0], activation, fitting[turns % len(fitting)]))
    return found


def _sliced(code: DenseCode, first: int, last: int) -> DenseCode:
    return DenseCode(code.values[:, first:last].detach().clone().requires_grad_())


def work(
    run: Trial, term: Term, x: tuple[Tensor, Tensor], dead: Tensor, group: Group, edges: tuple[int, ...]
) -> Worked:
    """The term on one process's latents of a selection that all have made together."""
    first, last = edges[group.rank], edges[group.rank + 1]
    with torch.no_grad():
        requests = term.requests(run.model.layout, CONTEXT)
        whole = run.model(x[0], requests, dead, CONTEXT)
    model = copy.deepcopy(run.model)
    cut(model, first, last, group)
    code, cells = _sliced(whole.code, first, last), _sliced(whole.cells, first, last)
    extra = {request: _sliced(whole.extra[request], first, last) for request in requests}
    out = Forward(model, x[0], code, cells, dict(extra), True)
    step = Step(model, x[0], x[1][:, list(model.columns)], out, dead[first:last], CONTEXT)
    state = {name: v[first:last].clone() if v.ndim else v.clone() for name, v in term.init_state(run.model).items()}
    value = term.apply(step, state)
    if value.requires_grad:
        value.backward()
    parts = {"code": code, "cells": cells, **{f"extra {i}": c for i, c in enumerate(extra.values())}}
    own = {name: _gradient(part.values).T for name, part in parts.items()}
    own |= {name: _gradient(p) for name, p in model.act.items()} | {"b_E": _gradient(model.b_E)}
    own["decoder"] = torch.zeros(model.decoder.n_q, model.layout.n_r, dtype=torch.float64)
    for block, weight in zip(model.decoder.blocks, model.decoder.weights, strict=True):
        own["decoder"][block.latents, block.columns] += _gradient(weight)
    written = {name: _gradient(p) for name, p in (("b_D", model.b_D), ("W_skip", model.W_skip)) if p is not None}
    by_targets = group.by == "targets"
    return Worked(
        value.detach(),
        {name: v for name, v in state.items() if not v.ndim},
        own | (written if by_targets else {}),
        {} if by_targets else written,
    )


def _gradient(of: Tensor) -> Tensor:
    return torch.zeros_like(of) if of.grad is None else of.grad


def agree(run: Trial, size: int, part: Callable[[Group, tuple[int, ...]], Worked], by: Axis = "latents") -> None:
    """Every process has the one's value, state and shared gradients; their own, side by side, are the one's."""
    one = part(ALONE, EDGES[1])

    def of_several(group: Group) -> Worked:
        group.by = by
        return part(group, EDGES[size])

    several = together(size, of_several)
    near = {"rtol": 1e-9, "atol": 1e-12}
    for worked in several:
        torch.testing.assert_close(worked.value, one.value, **near)
        torch.testing.assert_close(worked.state, one.state, **near)
        torch.testing.assert_close(worked.of_all, {name: one.of_all[name] for name in worked.of_all}, **near)
    everything = one.own | one.of_all
    for name in several[0].own:
        joined = torch.cat([worked.own[name] for worked in several], int(by == "targets" and name == "decoder"))
        torch.testing.assert_close(joined, everything[name], **near, msg=lambda m, name=name: f"{name}: {m}")


def _trial(activation: str, pair: str) -> tuple[Trial, tuple[Tensor, Tensor]]:
    run = trial(REGISTERED_ACTIVATIONS[activation], (Reconstruction(),), pair)
    run.model.double()
    run.model.path = "reference"
    x_p, x_r = batch(pair, run.generator)
    return run, (x_p.double(), x_r.double())


@pytest.mark.parametrize(
    ("by", "term", "activation", "pair", "size"),
    in_turn((by, *c, size) for by in PAIRS for c in combinations(by) for size in (2, 4)),
    ids=str,
)
def test_a_term_over_shards_is_the_term(by: Axis, term: str, activation: str, pair: str, size: int) -> None:
    run, x = _trial(activation, pair)
    for dead in DEAD.values():
        chosen = all_terms()[term]
        agree(run, size, lambda group, edges, chosen=chosen, dead=dead: work(run, chosen, x, dead, group, edges), by)


def test_every_registered_term_is_tried() -> None:
    assert {term for term, _, _ in combinations("latents")} >= set(TERMS)
    by_targets = {term for term, _, _ in combinations("targets")}
    assert by_targets >= {name for name, term in TERMS.items() if not term.whole_columns}
    assert set(REGISTERED_TERMS) == set(TERMS)


@pytest.mark.parametrize("pair", ["sae", "cross_layer"])
@pytest.mark.parametrize("form", ["printed", "direction"])
def test_anchors_over_shards_are_the_anchors(form: str, pair: str) -> None:
    """Each process holds the anchors of its own slots."""
    run, x = _trial("topk", pair)
    layout, generator = run.model.layout, torch.Generator().manual_seed(2)
    p, r = (torch.randn(width, 5, generator=generator) for width in (layout.n_p, layout.n_r))
    whole, slots = Anchors(p, r), torch.tensor([0, 8, 1, 9, 15])

    def part(group: Group, edges: tuple[int, ...]) -> Worked:
        plan = Anchoring(form=form, sides="both")  # type: ignore[arg-type]
        term = AnchorPenalty(anchors=whole, slots=slots, plan=plan).of_latents(*edges[group.rank :][:2])
        return work(run, term, x, DEAD["none"], group, edges)

    for size in (2, 4):
        agree(run, size, part)


@dataclass(frozen=True)
class Forgetful(Term):
    """A square of this process's latents alone."""

    name: ClassVar[str] = "forgetful"

    def apply(self, step: Step, state: State) -> Tensor:
        return step.code.values.sum().square()


def test_a_term_that_forgets_the_others_is_noticed() -> None:
    run, x = _trial("relu", "sae")
    with pytest.raises(AssertionError):
        agree(run, 2, lambda group, edges: work(run, Forgetful(), x, DEAD["none"], group, edges))

"""Every term over latents that lie in several processes: the value and the gradients of one process that holds all."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.anchors.term import Anchoring, AnchorPenalty
from monosem.base.group import ALONE, Group
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
    of_latents: dict[str, Tensor]
    of_all: dict[str, Tensor]


def combinations() -> list[tuple[str, str, str]]:
    """Every term with every activation that it goes with, pairings in turn."""
    turns, pairs = 0, ("sae", "cross_layer", "crosscoder", "skip_transcoder")
    found = []
    for term in all_terms().items():
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
    own = term.requests(model.layout, CONTEXT)
    extra = {mine: _sliced(whole.extra[r], first, last) for mine, r in zip(own, requests, strict=True)}
    out = Forward(model, x[0], code, cells, dict(extra), True)
    step = Step(model, *x, out, dead[first:last], CONTEXT)
    state = {name: v[first:last].clone() if v.ndim else v.clone() for name, v in term.init_state(run.model).items()}
    value = term.apply(step, state)
    if value.requires_grad:
        value.backward()
    parts = {"code": code, "cells": cells, **{f"extra {i}": c for i, c in enumerate(extra.values())}}
    of_latents = {name: part.values.grad for name, part in parts.items()}
    gradients = {name: None if g is None else g.T for name, g in of_latents.items()}
    gradients |= {name: p.grad for name, p in model.act.items()} | {"b_E": model.b_E.grad}
    for block, weight in zip(model.decoder.blocks, model.decoder.weights, strict=True):
        if weight.grad is not None:
            dense = torch.zeros(model.n_q, model.layout.n_r, dtype=weight.dtype)
            dense[block.latents, block.columns] = weight.grad
            gradients[f"decoder {block.left}"] = dense
    everyone = {"b_D": model.b_D.grad, "W_skip": None if model.W_skip is None else model.W_skip.grad}
    return Worked(
        value.detach(),
        {name: v for name, v in state.items() if not v.ndim},
        {name: g for name, g in gradients.items() if g is not None},
        {name: g for name, g in everyone.items() if g is not None},
    )


def agree(run: Trial, size: int, part: Callable[[Group, tuple[int, ...]], Worked]) -> None:
    """Every process has the one's value, state and shared gradients; their own, below each other, are the one's."""
    one = part(ALONE, EDGES[1])
    several = together(size, lambda group: part(group, EDGES[size]))
    near = {"rtol": 1e-9, "atol": 1e-12}
    for worked in several:
        torch.testing.assert_close(worked.value, one.value, **near)
        torch.testing.assert_close(worked.state, one.state, **near)
        torch.testing.assert_close(worked.of_all, one.of_all, **near)
    for name, wanted in one.of_latents.items():
        spans = list(pairwise(EDGES[size]))
        zeros = [torch.zeros((last - first, *wanted.shape[1:]), dtype=wanted.dtype) for first, last in spans]
        parts = [worked.of_latents.get(name, zero) for worked, zero in zip(several, zeros, strict=True)]
        torch.testing.assert_close(torch.cat(parts), wanted, **near, msg=lambda m, name=name: f"{name}: {m}")


def _trial(activation: str, pair: str) -> tuple[Trial, tuple[Tensor, Tensor]]:
    run = trial(REGISTERED_ACTIVATIONS[activation], (Reconstruction(),), pair)
    run.model.double()
    run.model.path = "reference"
    x_p, x_r = batch(pair, run.generator)
    return run, (x_p.double(), x_r.double())


@pytest.mark.parametrize(
    ("term", "activation", "pair", "size"), in_turn((*c, size) for c in combinations() for size in (2, 4)), ids=str
)
def test_a_term_over_shards_is_the_term(term: str, activation: str, pair: str, size: int) -> None:
    run, x = _trial(activation, pair)
    for dead in DEAD.values():
        chosen = all_terms()[term]
        agree(run, size, lambda group, edges, chosen=chosen, dead=dead: work(run, chosen, x, dead, group, edges))


def test_every_registered_term_is_tried() -> None:
    assert {term for term, _, _ in combinations()} >= set(TERMS)
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

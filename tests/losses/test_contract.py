"""The contract: every activation x term x pairing trains, and all its gradients are those of plain float64 autograd."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.anchors.term import Anchoring, AnchorPenalty, anchor_slots
from monosem.base.errors import RefusedError
from monosem.core.activations import ACTIVATIONS, Context
from monosem.core.constraints import UnitNorm
from monosem.core.pairs import PAIRINGS
from monosem.losses.fidelity import Reconstruction
from monosem.losses.objective import TERMS, Term
from tests.losses.trials import Trial, batch, gradients, loss_of, trial
from tests.refused import (
    PAGE,
    PAIRS,
    REGISTERED_ACTIVATIONS,
    REGISTERED_TERMS,
    all_activations,
    all_terms,
    page,
    reason,
)
from tests.thin import in_turn

STEPS, COMPARED = 8, (0, 7)


def combinations() -> Iterator[tuple[str, str, str]]:
    """What is registered, crossed in full; each variant with every registered partner, pairings in turn."""
    pairs, turn = list(PAIRS), 0
    for activation in all_activations():
        for term in all_terms():
            if activation in REGISTERED_ACTIVATIONS and term in REGISTERED_TERMS:
                yield from ((activation, term, pair) for pair in pairs)
            elif activation in REGISTERED_ACTIVATIONS or term in REGISTERED_TERMS:
                turn += 1
                yield activation, term, pairs[turn % len(pairs)]


def refused(combination: tuple[str, str, str]) -> bool:
    activation, term, pair = combination
    return reason(all_activations()[activation], all_terms()[term], pair) is not None


ALL = list(combinations())
ACCEPTED = [c for c in ALL if not refused(c)]
REFUSED = [c for c in ALL if refused(c)]


def terms_with(term: Term) -> tuple[Term, ...]:
    return (term,) if term.whole else (Reconstruction(), term)


def agree(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    gap, size = float((found.double() - wanted).abs().max()), float(wanted.abs().max())
    assert gap <= tolerance * (1 + size), f"{what}: off by {gap:.3g} where the largest is {size:.3g}"


@pytest.fixture(autouse=True)
def _shapes_checked_again() -> Iterator[None]:
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def train_and_compare(run: Trial) -> None:
    """Eight steps of Adam in float32; now and then the same step along every path in float64."""
    model, constraint = run.model, UnitNorm()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in model.parameters()]
    for step in range(STEPS):
        jaxtyping.config.update("jaxtyping_disable", step not in COMPARED)  # shapes are checked where gradients are
        x, context = batch(run.pair, run.generator), Context(True, step, STEPS)
        dead = torch.rand(model.n_q, generator=run.generator) < 0.4
        exact = {}
        if step in COMPARED:
            exact_total, exact = gradients(run, x, dead, context, "reference")
            for above in (2.0, 0.0):  # always sparse, always dense
                other, parts = gradients(run, x, dead, context, "auto", above)
                agree(other, exact_total, 1e-9, "loss")
                for name, wanted in exact.items():
                    agree(parts[name], wanted, 1e-9, f"step {step}, dense above {above}, gradient of {name}")
            total, parts = gradients(run, x, dead, context, "auto", 2.0, torch.float32)  # the compiled kernels
            agree(total, exact_total, 2e-5, "loss of the compiled kernels")
            for name, wanted in exact.items():
                agree(parts[name], wanted, 2e-5, f"step {step}, compiled kernels, gradient of {name}")
        optimiser.zero_grad()
        loss = loss_of(run, x, dead, context)
        torch.testing.assert_close(loss.total, sum(loss.parts.values(), torch.zeros(())))
        loss.total.backward()
        assert torch.isfinite(loss.total)
        for name, parameter in model.named_parameters():
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if exact:
                agree(found, exact[name], 2e-5, f"step {step}, float32 gradient of {name}")
        constraint.project_gradient(model)
        optimiser.step()
        constraint.after_step(model)
        with torch.no_grad():
            model.activation.project(dict(model.act.items()))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_every_registered_name_is_tried() -> None:
    """Registering a thing is testing it."""
    assert set(REGISTERED_ACTIVATIONS) == set(ACTIVATIONS)
    assert set(REGISTERED_TERMS) == set(TERMS)
    assert all(type(REGISTERED_ACTIVATIONS[name]) is ACTIVATIONS[name] for name in ACTIVATIONS)
    assert all(type(REGISTERED_TERMS[name]) is TERMS[name] for name in TERMS)
    assert all(any(pairing == PAIRINGS[name] for pairing, _, _ in PAIRS.values()) for name in PAIRINGS)


@pytest.mark.parametrize(("activation", "term", "pair"), in_turn(ACCEPTED), ids=str)
def test_accepted_combination_trains_with_exact_gradients(activation: str, term: str, pair: str) -> None:
    train_and_compare(trial(all_activations()[activation], terms_with(all_terms()[term]), pair))


@pytest.mark.parametrize(("activation", "term", "pair"), REFUSED, ids=str)
def test_refused_combination_says_why(activation: str, term: str, pair: str) -> None:
    why = reason(all_activations()[activation], all_terms()[term], pair)
    assert why
    with pytest.raises(RefusedError) as caught:
        trial(all_activations()[activation], terms_with(all_terms()[term]), pair)
    assert why in str(caught.value)
    assert all_terms()[term].name in str(caught.value)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("activation", REGISTERED_ACTIVATIONS)
def test_anchoring_goes_with_everything(activation: str, pair: str) -> None:
    sigma = REGISTERED_ACTIVATIONS[activation]
    model = trial(sigma, (Reconstruction(),), pair).model
    generator, layout = torch.Generator().manual_seed(11), model.layout
    p, r = (torch.randn(width, 3, generator=generator) for width in (layout.n_p, layout.n_r))
    plan = Anchoring(form="direction" if activation in ("relu", "topk", "gated") else "printed")
    penalty = AnchorPenalty(0.5, anchors=Anchors(p, r), slots=anchor_slots(model.layout, 3), plan=plan)
    train_and_compare(trial(sigma, (Reconstruction(), penalty), pair))


def test_page_of_refusals_is_fresh() -> None:
    """docs/refused.md is what the code says; `python -m tests.refused` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()

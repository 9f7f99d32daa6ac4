"""What anchors do to a run: where slots lie and start, the penalty, and slots that are frozen."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from monosem.anchors.directions import Anchors
from monosem.anchors.term import Anchoring, AnchorPenalty, AnchorSlots, anchor_slots
from monosem.base.errors import ArgumentError, ShapeError
from monosem.base.schedule import Ramp
from monosem.core.activations import Context, ReLU, TopK
from monosem.core.constraints import Tied, UnitNorm
from monosem.core.model import SDL
from monosem.losses.objective import Objective
from monosem.methods import Method
from tests.losses.trials import batch, make_step
from tests.refused import PAIRS

CONTEXT = Context(True, 0, 10)


def anchors_for(pair: str, k: int = 3) -> Anchors:
    _, p_widths, r_widths = PAIRS[pair]
    generator = torch.Generator().manual_seed(5)
    p = torch.randn(sum(p_widths), k, generator=generator)
    return Anchors(p, p if p_widths == r_widths else torch.randn(sum(r_widths), k, generator=generator))


def anchored(pair: str, plan: Anchoring, k: int = 3, **options: object) -> tuple[SDL, Objective, AnchorPenalty]:
    pairing, p_widths, r_widths = PAIRS[pair]
    method = Method(TopK(4), pairing=pairing, anchoring=plan, **options)  # type: ignore[arg-type]
    model, objective = method.build(16, p_widths, r_widths, anchors=anchors_for(pair, k))
    penalty = objective.terms[-1]
    assert isinstance(penalty, AnchorPenalty)
    return model, objective, penalty


def slots_of(penalty: AnchorPenalty) -> AnchorSlots:
    """The constraint that goes with a penalty."""
    return AnchorSlots(penalty.anchors, penalty.slots, penalty.plan)


def masks(model: SDL) -> tuple[Tensor, Tensor]:
    """Which cells of W_E and W_D^T live, by filling the blocks with ones."""
    found = []
    for weight in (model.encoder, model.decoder):
        mask = torch.zeros(weight.n_q, weight.width)
        for block in weight.blocks:
            mask[block.first : block.last, block.left : block.right] = 1
        found.append(mask)
    return found[0], found[1]


def test_slots_of_every_layout() -> None:
    slots = {pair: anchored(pair, Anchoring(), 5)[2].slots.tolist() for pair in PAIRS}
    layers = {"cross_layer", "weakly_causal"}
    assert {tuple(s) for pair, s in slots.items() if pair not in layers} == {(0, 1, 2, 3, 4)}
    assert {tuple(slots[pair]) for pair in layers} == {(0, 8, 1, 9, 2)}  # in turn from each layer's latents
    model = anchored("cross_layer", Anchoring())[0]
    assert sorted(anchor_slots(model.layout, 16).tolist()) == list(range(16))
    with pytest.raises(ArgumentError, match="k=17 anchors do not fit into n_q=16"):
        anchor_slots(model.layout, 17)
    private = anchored("crosscoder, private latents", Anchoring())[0]
    with pytest.raises(ArgumentError, match="k=11 anchors do not fit into the 10 latents that meet every source"):
        anchor_slots(private.layout, 11)


@pytest.mark.parametrize("sides", ["both", "encoder", "decoder"])
@pytest.mark.parametrize("pair", PAIRS)
def test_the_printed_penalty_is_a_squared_distance(pair: str, sides: str) -> None:
    """||W_E[slots] - A_p^T||^2 + ||W_D[:, slots] - A_r||^2 on the cells that live; value and gradient."""
    plan = Anchoring(weight=0.5, sides=sides, init=False)  # type: ignore[arg-type]
    model, objective, penalty = anchored(pair, plan)
    model.double()
    a, slots = anchors_for(pair), penalty.slots
    live_p, live_r = masks(model)
    wanted = torch.zeros((), dtype=torch.float64)
    if sides != "decoder":
        wanted = wanted + ((model.W_E[slots] - a.p.T.double() * live_p[slots]) ** 2).sum()
    if sides != "encoder":
        wanted = wanted + ((model.W_D.T[slots] - a.r.T.double() * live_r[slots]) ** 2).sum()
    x_p, x_r = (part.double() for part in batch(pair, torch.Generator().manual_seed(0)))
    step = make_step(model, objective, (x_p, x_r), None, CONTEXT)
    part = objective(step, objective.init_state(model)).parts["anchoring"]
    torch.testing.assert_close(part, 0.5 * wanted.detach())
    found = torch.autograd.grad(penalty.apply(step, {}), list(model.parameters()), allow_unused=True)
    other = torch.autograd.grad(wanted, list(model.parameters()), allow_unused=True)
    for one, two, parameter in zip(found, other, model.parameters(), strict=True):
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(zero if one is None else one, zero if two is None else two)


@pytest.mark.parametrize("pair", ["sae", "transcoder", "crosscoder"])
def test_the_direction_form_lets_lengths_go_free(pair: str) -> None:
    model, objective, penalty = anchored(pair, Anchoring(form="direction", init=False, sides="both"))
    x = batch(pair, torch.Generator().manual_seed(0))
    step = make_step(model, objective, x, None, CONTEXT)
    a = anchors_for(pair)
    cosines = torch.cosine_similarity(model.W_E[:3], a.p.T) + torch.cosine_similarity(model.W_D.T[:3], a.r.T)
    value = penalty.apply(step, {})
    torch.testing.assert_close(value, (4 - 2 * cosines).sum(), rtol=1e-4, atol=1e-5)  # |u - v|^2 = 2 - 2 cos
    model.encoder.scale_rows(torch.full((16,), 3.0))
    torch.testing.assert_close(penalty.apply(step, {}), value)


@pytest.mark.parametrize("pair", PAIRS)
def test_slots_start_at_the_anchors(pair: str) -> None:
    model, _, penalty = anchored(pair, Anchoring())
    a, slots, (live_p, live_r) = anchors_for(pair), penalty.slots, masks(model)
    torch.testing.assert_close(model.W_E[slots], a.p.T * live_p[slots])
    columns = a.r.T * live_r[slots]
    torch.testing.assert_close(model.W_D.T[slots], columns / columns.norm(dim=1, keepdim=True))
    free = anchored(pair, Anchoring(init=False))[0]
    assert not torch.allclose(free.W_E[slots], a.p.T * live_p[slots])
    rest = torch.ones(16, dtype=torch.bool)
    rest[slots] = False
    assert torch.equal(free.W_E[rest], model.W_E[rest])


@pytest.mark.parametrize("sides", ["both", "encoder", "decoder"])
@pytest.mark.parametrize("pair", ["sae", "skip_transcoder", "crosscoder, private latents", "cross_layer"])
def test_hard_slots_stay(pair: str, sides: str) -> None:
    """Frozen through ten steps of Adam on the sides that are held, while everything else learns; no penalty."""
    plan = Anchoring(hard=True, init=False, sides=sides)  # type: ignore[arg-type]
    model, objective, penalty = anchored(pair, plan)
    start_E, start_D = model.W_E.detach().clone(), model.W_D.detach().T.clone()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    constraints = (UnitNorm(), slots_of(penalty))
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        step = make_step(model, objective, batch(pair, generator), None, CONTEXT)
        loss = objective(step, objective.init_state(model))
        assert float(loss.parts["anchoring"]) == 0.0
        optimiser.zero_grad()
        loss.total.backward()
        for constraint in constraints:
            constraint.project_gradient(model)
        optimiser.step()
        for constraint in constraints:
            constraint.after_step(model)
    slot = torch.zeros(16, dtype=torch.bool)
    slot[penalty.slots] = True
    a = anchors_for(pair)
    for side, start, end, target in (
        ("encoder", start_E, model.W_E.detach(), a.p.T),
        ("decoder", start_D, model.W_D.detach().T, a.r.T),
    ):
        moved = ~torch.isclose(start, end, atol=1e-6).all(1)
        assert bool(moved[~slot].any())
        assert bool(moved[slot].any()) == (sides not in ("both", side))
        if sides in ("both", side) and pair in ("sae", "skip_transcoder"):
            torch.testing.assert_close(end[slot], target)


def test_a_weight_may_be_a_schedule() -> None:
    model, objective, _ = anchored("sae", Anchoring(weight=Ramp(0.0, 2.0), init=False))
    x, parts = batch("sae", torch.Generator().manual_seed(0)), []
    for at in (0, 5, 10):
        step = make_step(model, objective, x, None, Context(True, at, 10))
        parts.append(float(objective(step, objective.init_state(model)).parts["anchoring"]))
    assert parts[0] == 0.0
    assert parts[2] == pytest.approx(2 * parts[1])
    assert parts[1] > 0


def test_tied_weights_can_be_anchored() -> None:
    model, _, _ = anchored("sae", Anchoring(), constraints=(UnitNorm(), Tied()))
    torch.testing.assert_close(model.W_E[:3], anchors_for("sae").p.T)
    assert torch.equal(model.W_E, model.W_D.T)


def test_what_does_not_fit_is_one_clear_error() -> None:
    wide = Anchors(torch.randn(9, 3), torch.randn(6, 3))
    with pytest.raises(ShapeError, match="anchors have 9 rows, the model n_p=6"):
        Method(ReLU()).build(16, (6,), (6,), anchors=wide)
    _, _, penalty = anchored("sae", Anchoring())
    with pytest.raises(ArgumentError, match="2 slots for 3 anchors"):
        replace(penalty, slots=torch.arange(2))


def test_the_slots_of_anchors_are_the_last_constraint_of_a_run() -> None:
    """Hard or soft: resampling must leave them; only hard ones stand in the way of a step row by row."""
    for hard in (False, True):
        method = Method(TopK(4), anchoring=Anchoring(hard=hard))
        model, _ = method.build(16, (6,), (6,), anchors=anchors_for("sae"))
        assert method.constraints_of(model.layout, None) == method.constraints
        *own, slots = method.constraints_of(model.layout, anchors_for("sae"))
        assert tuple(own) == method.constraints
        assert slots.fixed_latents(model).tolist() == [0, 1, 2]
        assert (slots.row_pieces(model) is None) is hard
        assert own[0].fixed_latents(model).tolist() == []


def test_a_hard_decoder_lets_the_encoder_start_at_the_anchors_and_go() -> None:
    model, _, penalty = anchored("sae", Anchoring(hard=True, sides="decoder"))
    torch.testing.assert_close(model.W_E[:3], anchors_for("sae").p.T)
    model.encoder.scale_rows(torch.full((16,), 2.0))
    model.decoder.scale_rows(torch.full((16,), 2.0))
    slots_of(penalty).after_step(model)
    torch.testing.assert_close(model.W_E[:3], 2 * anchors_for("sae").p.T)
    torch.testing.assert_close(model.W_D[:, :3], anchors_for("sae").r)

"""Every term's value and gradients against its formula written out in the test, and what holds for all terms."""

import copy
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.base.schedule import Ramp
from monosem.core.activations import AbsTopK, Activation, AdaptiveK, Context, Gated, JumpReLU, ReLU, TopK
from monosem.losses.fidelity import GatedAux, Matryoshka, MultiK, Reconstruction, distance, nested_squares
from monosem.losses.objective import Objective, Term
from monosem.losses.revival import AUXK_PUBLISHED, AuxK, GhostGrads, PreActivation
from monosem.losses.sparsity import L0, L1, Lp, Tanh
from tests.losses.plain import FORMULAS, Plain, ranked
from tests.losses.trials import Trial, batch, gradients, loss_of, trial
from tests.refused import PAIRS, all_terms
from tests.thin import in_turn

CONTEXT = Context(True, 0, 10)
TERMS_OF: dict[str, Term] = {
    "reconstruction": Reconstruction(),
    "reconstruction: mean": Reconstruction(reduction="mean"),
    "reconstruction: fvu": Reconstruction(reduction="fvu"),
    "matryoshka": Matryoshka(fractions=(0.25, 0.5, 1.0), weights=(1.0, 0.5, 0.25)),
    "matryoshka: detached": Matryoshka(fractions=(0.25, 0.5, 1.0), weights=(1.0, 0.5, 0.25), detach_inner=True),
    "multi_k": MultiK(ks=(2, 9), weights=(0.5, 0.25)),
    "l1": L1(),
    "l1: no norm": L1(norm="none"),
    "l1: source norms": L1(norm="sources"),
    "tanh": Tanh(),
    "tanh: source norms": Tanh(scale=0.7, norm="sources"),
    "lp": Lp(p=0.6, eps=1e-2),
    "pre_activation": PreActivation(),
    "pre_activation: all": PreActivation(among="all"),
    "ghost_grads": GhostGrads(),
    **{f"auxk: {name}": term for name, term in AUXK_PUBLISHED.items()},
}
CODES = {"relu": (ReLU(), torch.relu), "topk": (TopK(3), lambda z: ranked(z, 3).clamp(min=0))}


def drawn(run: Trial, dead: float = 0.4) -> tuple[tuple[Tensor, Tensor], Tensor]:
    x = batch(run.pair, run.generator)
    return (x[0].double(), x[1].double() if x[1] is not x[0] else x[0].double()), torch.rand(16) < dead


def test_every_formula_is_compared() -> None:
    assert set(FORMULAS) == set(TERMS_OF)


@pytest.mark.parametrize(("name", "code", "pair"), in_turn(product(FORMULAS, CODES, PAIRS), 2))
def test_value_and_gradients_are_those_of_the_formula(name: str, code: str, pair: str) -> None:
    """Through the sparse path, weighted by 0.7, against autograd of the plain formula; every parameter."""
    activation, code_of = CODES[code]
    run = trial(activation, (replace(TERMS_OF[name], weight=0.7),), pair)
    x, dead = drawn(run)
    value, found = gradients(run, x, dead, CONTEXT, "auto", 2.0)
    model = copy.deepcopy(run.model).double()
    wanted = 0.7 * FORMULAS[name](Plain(model, *x, dead, code_of))
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-9, atol=1e-12)
    wanted.backward()
    for parameter, tensor in model.named_parameters():
        grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        torch.testing.assert_close(
            found[parameter], grad, rtol=1e-7, atol=1e-10, msg=lambda m, p=parameter: f"{p}: {m}"
        )


@pytest.mark.parametrize("pair", ["sae", "cross_layer"])
@pytest.mark.parametrize("free", [False, True])
def test_gated_terms_are_those_of_the_paper(pair: str, free: bool) -> None:
    """Rajamanoharan et al. 2024a: L1 on relu of the gate, and the gate's own reconstruction."""
    run = trial(Gated(), (L1(0.5, on="gate"), GatedAux(0.25, detach_decoder=not free)), pair)
    x, dead = drawn(run)
    value, found = gradients(run, x, dead, CONTEXT, "auto", 2.0)
    model = copy.deepcopy(run.model).double()
    p = Plain(model, *x, dead, torch.relu)
    W_D, offset = (p.W_D, p.offset) if free else (p.W_D.detach(), p.offset.detach())
    gate = p.z.clamp(min=0)
    wanted = 0.5 * (gate * p.norms).sum() / 24 + 0.25 * ((x[1] - offset - gate @ W_D.T) ** 2).sum() / 24
    torch.testing.assert_close(value, wanted.detach())
    wanted.backward()
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(found[name], torch.zeros_like(tensor) if tensor.grad is None else tensor.grad)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("target", [None, 3.0])
def test_l0_has_the_published_gradient(log: bool, to_input: bool, target: float | None) -> None:
    """Value and gradients written out: -(1 / bandwidth) K per cell to theta, +(1 / bandwidth) K to z if asked."""
    run = trial(JumpReLU(0.3, 0.5, log), (L0(2.0, target=target, to_input=to_input),), "transcoder")
    x, dead = drawn(run)
    value, found = gradients(run, x, dead, CONTEXT, "auto", 2.0)
    model = copy.deepcopy(run.model).double()
    with torch.no_grad():
        p = Plain(model, *x, dead, torch.relu)
        theta = model.act["log_theta"].exp() if log else model.act["theta"]
        count = float((p.z > theta).sum()) / 24
        kernel = ((p.z - theta).abs() < 0.25).double() / 0.5 / 24
        outer = 2.0 if target is None else 2.0 * 2 * (count / target - 1) / target
        by_theta = -outer * kernel.sum(0) * (theta if log else 1)
        by_z = outer * kernel if to_input else torch.zeros_like(kernel)
    assert float(value) == pytest.approx(2.0 * count if target is None else 2.0 * (count / target - 1) ** 2)
    torch.testing.assert_close(found["act.log_theta" if log else "act.theta"], by_theta)
    torch.testing.assert_close(found["b_E"], by_z.sum(0))
    torch.testing.assert_close(found["encoder.weights.0"], by_z.T @ (x[0] - model.b_in.detach()))


def test_pre_activation_counts_from_the_threshold() -> None:
    run = trial(JumpReLU(0.3, 0.5), (PreActivation(1.0, among="all"),), "sae")
    x, dead = drawn(run)
    value, found = gradients(run, x, dead, CONTEXT, "auto", 2.0)
    model = copy.deepcopy(run.model).double()
    p = Plain(model, *x, dead, torch.relu)
    wanted = ((model.act["theta"] - p.z).clamp(min=0) * p.norms).sum() / 24
    torch.testing.assert_close(value, wanted.detach())
    wanted.backward()
    assert model.act["theta"].grad is not None
    torch.testing.assert_close(found["act.theta"], model.act["theta"].grad)


@pytest.mark.parametrize("activation", [AbsTopK(2), AbsTopK(2, rank_by_norm=True), TopK(2, rank_by_norm=True)], ids=str)
@pytest.mark.parametrize("dense_above", [0.0, 2.0])
def test_requests_are_ranked_and_valued_as_the_activation_does(activation: TopK, dense_above: float) -> None:
    """AuxK and multi-TopK of a signed activation keep signs; both rank by the activation's own score."""
    terms = (AuxK(0.5, k_aux=3, over="none"), MultiK(ks=(4,), weights=(1.0,)))
    run = trial(activation, terms, "transcoder", constraints=())
    with torch.no_grad():
        run.model.decoder.scale_rows(torch.linspace(0.2, 3.0, 16))
    x, dead = drawn(run)
    value, found = gradients(run, x, dead, CONTEXT, "auto", dense_above)
    model = copy.deepcopy(run.model).double()
    signed = isinstance(activation, AbsTopK)
    with torch.no_grad():
        z = (x[0] - model.b_in) @ model.W_E.T + model.b_E
        score = (z.abs() if signed else z) * (model.W_D.norm(dim=0) if activation.rank_by_norm else 1.0)

    def code(z: Tensor, k: int, among: Tensor | None = None) -> Tensor:
        kept = z * (ranked(score + 100.0, k, among) != 0)
        return kept if signed else kept.clamp(min=0)

    p = Plain(model, *x, dead, lambda z: code(z, 2))
    wanted = 0.5 * ((p.e.detach() - code(p.z, 3, dead) @ p.W_D.T) ** 2).sum() / 24
    wanted = wanted + ((x[1] - p.offset - code(p.z, 4) @ p.W_D.T) ** 2).sum() / 24
    torch.testing.assert_close(value, wanted.detach())
    wanted.backward()
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(found[name], torch.zeros_like(tensor) if tensor.grad is None else tensor.grad)


def test_fvu_is_a_ratio_of_sums_about_each_column_s_mean() -> None:
    """A known defect elsewhere: a mean of ratios, or variance about zero or about one grand mean."""
    y = torch.tensor([[1.0, 10.0], [3.0, 10.5], [5.0, 11.0]], dtype=torch.float64)
    e = torch.tensor([[0.5, 0.0], [0.0, 0.2], [0.1, 0.1]], dtype=torch.float64)
    wanted = (e.numpy() ** 2).sum() / ((y.numpy() - y.numpy().mean(0)) ** 2).sum()
    assert float(distance(e, y, "fvu")) == pytest.approx(wanted)
    ratios = [(e[:, i] ** 2).sum() / ((y[:, i] - y[:, i].mean()) ** 2).sum() for i in range(2)]
    assert wanted != pytest.approx(float(np.mean(ratios)))
    assert float(distance(e, torch.ones(3, 2, dtype=torch.float64), "fvu")) == 0.0
    assert float(distance(e, y, "sum")) == pytest.approx((e.numpy() ** 2).sum() / 3)
    assert float(distance(e, y, "mean")) == pytest.approx((e.numpy() ** 2).mean())


def test_annealing_p_is_continuous_and_reaches_its_end() -> None:
    """While nothing trains, the penalty keeps its value at each change of p; the state is what a run saves."""
    term = Lp(1.0, p=Ramp(1.0, 0.5), updates=5)
    run = trial(ReLU(), (term,), "sae")
    x, seen = batch("sae", run.generator), []
    for step in range(50):
        value = loss_of(run, x, None, Context(True, step, 50)).total
        seen.append((float(run.state["lp"]["p"]), float(value.detach())))
    assert [seen[step][0] for step in (0, 9, 10, 20, 30, 40, 49)] == pytest.approx([1, 1, 0.875, 0.75, 0.625, 0.5, 0.5])
    assert [value for _, value in seen] == pytest.approx([seen[0][1]] * 50, rel=1e-5)
    assert set(run.state["lp"]) == {"p", "scale"}
    assert float(run.state["lp"]["scale"]) != 1.0
    before = {name: value.clone() for name, value in run.state["lp"].items()}
    loss_of(run, x, None, Context(False, 0, 50))
    assert all(torch.equal(before[name], run.state["lp"][name]) for name in before)


@pytest.mark.parametrize("name", [name for name in all_terms() if name != "contrast"])
def test_a_batch_seen_twice_costs_the_same(name: str) -> None:
    """Every term is a mean over rows (or a ratio); a known defect elsewhere sums a penalty over the batch.

    Not so contrast, in which every other row is one to differ from.
    """
    activation: Activation = {"every_k": TopK(3), "complexity": AdaptiveK(1, 6)}.get(name, JumpReLU(0.3, 0.5))
    activation = Gated() if "gate" in name else activation
    run = trial(activation, (all_terms()[name],), "crosscoder" if name == "delta" else "transcoder")
    (x_p, x_r), dead = drawn(run)
    once, g = gradients(run, (x_p, x_r), dead, CONTEXT, "auto")
    twice, h = gradients(run, (torch.cat([x_p, x_p]), torch.cat([x_r, x_r])), dead, CONTEXT, "auto")
    torch.testing.assert_close(once, twice)
    for parameter in g:
        torch.testing.assert_close(g[parameter], h[parameter])


def test_total_is_the_sum_of_weighted_parts_with_labels() -> None:
    terms = (Reconstruction(), L1(Ramp(0.0, 1.0)), L1(0.5, norm="none"), Tanh(2.0))
    run = trial(ReLU(), terms, "sae")
    x, dead = drawn(run)
    run.model.double()
    loss = loss_of(run, x, dead, Context(True, 5, 10))
    assert list(loss.parts) == ["reconstruction", "l1_0", "l1_1", "tanh"]
    torch.testing.assert_close(loss.total.detach(), sum(loss.parts.values(), torch.zeros((), dtype=torch.float64)))
    assert not any(part.requires_grad for part in loss.parts.values())
    alone = trial(ReLU(), (L1(1.0),), "sae")
    alone.model.double()
    torch.testing.assert_close(loss.parts["l1_0"], 0.5 * loss_of(alone, x, dead, CONTEXT).total.detach())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Matryoshka(fractions=(0.5, 0.25, 1.0)), "must rise and end in 1.0"),
        (lambda: Matryoshka(fractions=(0.5,)), "must rise and end in 1.0"),
        (lambda: Matryoshka(fractions=(0.5, 1.0), weights=(1.0,)), "1 entries for 2 fractions"),
        (lambda: MultiK(ks=(1, 2), weights=(1.0,)), "differ in length"),
        (lambda: MultiK(ks=(0,), weights=(1.0,)), "every k must be at least 1"),
        (lambda: L0(target=0.0), "target=0.0"),
        (lambda: Lp(eps=0.0), "eps=0.0"),
    ],
)
def test_a_value_out_of_range_is_one_clear_error(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ArgumentError, match=message):
        make()


def test_prefixes_that_round_to_the_same_width_are_allowed() -> None:
    run = trial(ReLU(), (Matryoshka(fractions=(0.01, 0.02, 1.0)),), "sae")
    assert torch.isfinite(loss_of(run, batch("sae", run.generator), None, CONTEXT).total)
    assert Objective((Reconstruction(),)).labels == ("reconstruction",)


def test_nested_squares_have_the_gradient_of_their_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    groups = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = (1.0, 0.5, 2.0, 0.0, 3.0)
    total, last = nested_squares(target, groups, weights)
    errors = target[:, None] - groups.cumsum(1)
    torch.testing.assert_close(total, (errors.pow(2).sum((0, 2)) * torch.tensor(weights, dtype=torch.float64)).sum())
    torch.testing.assert_close(last, errors[:, -1].detach())
    assert torch.autograd.gradcheck(lambda t, g: nested_squares(t, g, weights)[0], (target, groups))

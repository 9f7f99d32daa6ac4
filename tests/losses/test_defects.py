"""Defects that are known in other libraries, each as a test that it is not here."""

import copy

import pytest
import torch
from torch import Tensor

from monosem.base import selection
from monosem.core.activations import Activation, BatchTopK, Context, Gated, JumpReLU, ReLU, TopK
from monosem.core.model import SDL
from monosem.losses.fidelity import GatedAux, MultiK, Reconstruction
from monosem.losses.objective import Term
from monosem.losses.revival import AUXK_PUBLISHED, AuxK, PreActivation
from monosem.losses.sparsity import L0, L1
from tests.losses.trials import Trial, batch, gradients, loss_of, trial

CONTEXT = Context(True, 0, 10)


def value_of(run: Trial, x: tuple[Tensor, Tensor], dead: Tensor, change: tuple[str, int, float]) -> float:
    """The loss with one entry of one parameter moved."""
    twin = Trial(copy.deepcopy(run.model), run.objective, copy.deepcopy(run.state), run.pair)
    name, entry, by = change
    with torch.no_grad():
        dict(twin.model.named_parameters())[name].view(-1)[entry] += by
    return float(loss_of(twin, x, dead, CONTEXT).total.detach())


def silent(run: Trial, x_p: Tensor) -> Tensor:
    """Latents that no row of the batch uses: really dead ones."""
    return (run.model(x_p, context=CONTEXT).code.to_dense() == 0).all(0)


@pytest.mark.parametrize("dense_above", [0.0, 2.0])
@pytest.mark.parametrize(
    "term",
    [
        AuxK(1.0, k_aux=3, over="none"),
        AuxK(1.0, k_aux=3),
        AuxK(1.0, k_aux=3, relu=False, detach=False, over="none"),
        MultiK(ks=(6,), weights=(1.0,)),
        MultiK(ks=(1, 9), weights=(0.5, 2.0), reduction="fvu"),
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", [TopK(1), BatchTopK(1.0)], ids=str)
def test_auxiliary_gradients_reach_the_encoder(activation: Activation, term: Term, dense_above: float) -> None:
    """A custom backward that drops the gradient of the pre-activations leaves AuxK and multi-TopK deaf in the encoder.

    Here they are not zero and equal to finite differences, entry by entry, for latents that are dead (where the
    residual, a constant by definition, really is one) or all of them.
    """
    run = trial(activation, (term,), "transcoder", n_q=16)
    run.model.double()
    x = tuple(part.double()[:5] for part in batch("transcoder", run.generator))
    dead = silent(run, x[0])
    assert 3 < int(dead.sum()) < 16
    _, found = gradients(run, (x[0], x[1]), dead, CONTEXT, "auto", dense_above)
    width, checked = run.model.layout.n_p, 0
    asked = dead.nonzero().squeeze(1).tolist() if isinstance(term, AuxK) else list(range(16))
    for latent in asked[::2]:
        for name, entry in (("encoder.weights.0", latent * width), ("b_E", latent)):
            up, down = (value_of(run, (x[0], x[1]), dead, (name, entry, by)) for by in (1e-6, -1e-6))
            gradient = float(found[name].view(-1)[entry])
            assert gradient == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-7)
            checked += gradient != 0
    assert checked >= 4


@pytest.mark.parametrize("name", AUXK_PUBLISHED)
def test_auxk_holds_no_bias(name: str) -> None:
    """The decoder's bias is in x_r_hat already; added to e_hat as well, it would be counted twice."""
    run = trial(TopK(1), (AUXK_PUBLISHED[name],), "sae")
    model = run.model.double()
    with torch.no_grad():
        model.b_D.fill_(5.0)
        for weight in model.decoder.weights:
            weight.zero_()
    x_r = torch.full((4, 6), 5.0, dtype=torch.float64)
    x_p = torch.randn(4, 6, dtype=torch.float64)
    loss = loss_of(run, (x_p, x_r), torch.ones(16, dtype=torch.bool), CONTEXT)
    assert float(loss.total.detach()) == 0.0


def test_auxk_is_trained_as_it_is_logged_and_weighted_once() -> None:
    """Elsewhere the coefficient is applied twice, or not at all, or the term is logged and left out of the total."""
    term = AuxK(0.25, over="none")
    run = trial(TopK(1), (Reconstruction(), term), "crosscoder")
    x = batch("crosscoder", run.generator)
    dead = torch.rand(16) < 0.5
    loss = loss_of(run, x, dead, CONTEXT)
    alone = loss_of(trial(TopK(1), (Reconstruction(), AuxK(1.0, over="none")), "crosscoder"), x, dead, CONTEXT)
    torch.testing.assert_close(loss.parts["auxk"], 0.25 * alone.parts["auxk"])
    torch.testing.assert_close(loss.total.detach(), loss.parts["reconstruction"] + loss.parts["auxk"])
    assert float(loss.parts["auxk"]) > 0
    _, with_aux = gradients(run, x, dead, CONTEXT, "auto")
    _, without = gradients(trial(TopK(1), (Reconstruction(),), "crosscoder"), x, dead, CONTEXT, "auto")
    assert not torch.allclose(with_aux["encoder.weights.0"], without["encoder.weights.0"])


def test_auxk_shrinks_with_the_number_of_dead_latents() -> None:
    """Elsewhere the dead are compared with min(k_aux, dead), so that the scale is always 1."""
    x = batch("sae", torch.Generator().manual_seed(0))
    scaled, plain = (
        trial(TopK(1), (AuxK(1.0, k_aux=1, over="none", scale_by_dead=flag),), "sae") for flag in (True, False)
    )
    for count, scale in ((1, 1 / 3), (2, 2 / 3), (3, 1.0), (9, 1.0)):  # n_r // 2 = 3
        dead = torch.arange(16) < count
        one, other = (float(loss_of(run, x, dead, CONTEXT).total.detach()) for run in (scaled, plain))
        assert one == pytest.approx(scale * other)
    assert float(loss_of(plain, x, torch.zeros(16, dtype=torch.bool), CONTEXT).total) == 0.0


def test_auxk_takes_its_number_from_the_width_of_the_representation() -> None:
    """Elsewhere k_aux came from the number of latents."""
    run = trial(TopK(1), (AuxK(),), "transcoder")
    assert AuxK().requests(run.model.layout, CONTEXT) == (selection.TopK(7 // 2, "dead"),)
    (many,) = AuxK(k_aux=99).requests(run.model.layout, CONTEXT)
    out = run.model(batch("transcoder", run.generator)[0], (many,), torch.ones(16, dtype=torch.bool), CONTEXT)
    assert out.extra[many].count() == 16 * out.code.batch


def test_auxk_ranks_dead_latents_only() -> None:
    run = trial(TopK(2), (AuxK(1.0),), "sae")
    x, dead = batch("sae", run.generator), torch.arange(16) % 3 == 0
    _, found = gradients(run, x, dead, CONTEXT, "auto")
    touched = found["encoder.weights.0"].abs().sum(1) > 0
    assert bool(touched.any())
    assert not bool(touched[~dead].any())


@pytest.mark.parametrize("name", ["gao", "saelens", "sparsify"])
def test_the_residual_is_a_constant_to_auxk(name: str) -> None:
    """Elsewhere the residual is not detached, so that AuxK makes the living latents worse on purpose."""
    run = trial(TopK(2), (AUXK_PUBLISHED[name],), "sae")
    x, dead = batch("sae", run.generator), torch.arange(16) % 2 == 0
    _, found = gradients(run, x, dead, CONTEXT, "auto")
    assert float(found["decoder.weights.0"][~dead].abs().max()) == 0.0
    assert float(found["decoder.weights.0"][dead].abs().max()) > 0.0


def test_auxk_is_finite_where_nothing_is_left_to_explain() -> None:
    """Variance of a zero residual is zero: 0, not NaN, with finite gradients."""
    run = trial(TopK(1), (AuxK(1.0, over="residual"),), "sae")
    model: SDL = run.model
    with torch.no_grad():
        model.decoder.weights[0].zero_()
        model.b_D.zero_()
    zeros = torch.zeros(3, 6)
    loss = loss_of(run, (torch.randn(3, 6), zeros), torch.ones(16, dtype=torch.bool), CONTEXT)
    loss.total.backward()
    assert float(loss.total.detach()) == 0.0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_gated_auxiliary_leaves_the_decoder_alone() -> None:
    """Elsewhere the gate's own reconstruction trains the decoder towards shrunken magnitudes."""
    run = trial(Gated(), (GatedAux(),), "skip_transcoder")
    x = batch("skip_transcoder", run.generator)
    _, found = gradients(run, x, None, CONTEXT, "auto")
    for name in ("decoder.weights.0", "b_D", "W_skip", "act.r_mag", "act.b_mag"):
        assert float(found[name].abs().max()) == 0.0
    assert float(found["encoder.weights.0"].abs().max()) > 0.0


def test_the_step_of_l0_sees_pre_activations() -> None:
    """On post-activations everything below theta reads 0, and half of the window is lost."""
    run = trial(JumpReLU(0.5, 0.4), (L0(1.0),), "sae", n_q=8)
    model = run.model.double()
    with torch.no_grad():
        model.b_D.zero_()
        model.b_E.copy_(torch.tensor([0.0, 0.29, 0.31, 0.49, 0.51, 0.69, 0.71, 2.0]))
        model.act["theta"].fill_(0.5)
    zeros = torch.zeros(3, 6, dtype=torch.float64)
    for above in (0.0, 2.0):
        _, found = gradients(run, (zeros, zeros), None, CONTEXT, "auto", above)
        assert found["act.theta"].tolist() == pytest.approx([0, 0, -2.5, -2.5, -2.5, -2.5, 0, 0])


def test_the_pre_activation_loss_sees_pre_activations() -> None:
    """Given post-activations it is zero wherever it matters: a dead latent's code is 0."""
    run = trial(ReLU(), (PreActivation(1.0),), "sae")
    model = run.model.double()
    with torch.no_grad():
        model.b_E.fill_(-3.0)
        model.b_D.zero_()
    x = torch.zeros(2, 6, dtype=torch.float64)
    dead = torch.arange(16) < 5
    value, found = gradients(run, (x, x), dead, CONTEXT, "auto")
    assert float(value) == pytest.approx(3.0 * 5)  # unit decoder columns
    assert found["b_E"].tolist() == pytest.approx([-1.0] * 5 + [0.0] * 11)


def test_l1_through_topk_moves_the_chosen_latents_only() -> None:
    run = trial(TopK(2), (L1(1.0, norm="none"),), "sae")
    x = batch("sae", run.generator)
    _, found = gradients(run, x, None, CONTEXT, "auto", 2.0)
    used = (run.model(x[0], context=CONTEXT).code.to_dense() > 0).double().mean(0)
    torch.testing.assert_close(found["b_E"], used)

"""Folding changes weights, not the function: checked on random models against the unfolded ones."""

import pytest
import torch

from monosem.base.errors import ArgumentError, RefusedError
from monosem.core.activations import (
    AbsTopK,
    Activation,
    BatchTopK,
    Binary,
    Gated,
    GroupMax,
    JumpReLU,
    ReLU,
    TopK,
)
from monosem.core.folding import encoder_bias, fold_decoder_norm, fold_input_scale, thresholds
from monosem.core.rownorm import RowNorm
from tests.interop.models import ACROSS, CROSS, SAE_LAYOUT, F, inputs, random_model, values

RANKED = [TopK(5, rank_by_norm=True), AbsTopK(5, rank_by_norm=True), BatchTopK(5, rank_by_norm=True)]
FOLDABLE: list[Activation] = [ReLU(), JumpReLU(), JumpReLU(log_threshold=True), Gated(), *RANKED]


@pytest.mark.parametrize("activation", FOLDABLE, ids=str)
@pytest.mark.parametrize("layout", [SAE_LAYOUT, CROSS], ids=["sae", "cross_layer"])
def test_unit_columns_and_the_same_reconstruction(activation: Activation, layout: object) -> None:
    model = random_model(activation, layout)  # type: ignore[arg-type]
    folded = fold_decoder_norm(model)
    x = inputs(model.layout.n_p)
    norms = model.decoder.squared_norms().sqrt().detach()
    torch.testing.assert_close(folded.decoder.squared_norms(), torch.ones(model.n_q), rtol=1e-5, atol=1e-6)
    latents, x_hat = values(model, x)
    again, x_hat_again = values(folded, x)
    assert int((latents != 0).sum()) > 100
    torch.testing.assert_close(again, latents * norms, rtol=1e-5, atol=1e-5 * float(latents.abs().max()))
    torch.testing.assert_close(x_hat_again, x_hat, rtol=1e-5, atol=1e-5 * float(x_hat.abs().max()))
    assert not torch.equal(model.W_E, folded.W_E), "the given model is left alone"


@pytest.mark.parametrize("activation", [TopK(5), BatchTopK(5), AbsTopK(5), GroupMax(8), Binary()], ids=str)
def test_folding_that_would_change_the_choice_is_refused(activation: Activation) -> None:
    with pytest.raises(RefusedError):
        fold_decoder_norm(random_model(activation, SAE_LAYOUT))


@pytest.mark.parametrize("activation", [*FOLDABLE, GroupMax(8), Binary(), TopK(5)], ids=str)
@pytest.mark.parametrize("pre_bias", ["none", "free", "tied"])
def test_an_input_scale_is_folded(activation: Activation, pre_bias: str) -> None:
    model = random_model(activation, SAE_LAYOUT, pre_bias)
    x, scale = inputs(model.layout.n_p), 0.37
    latents, x_hat = values(model, scale * x)
    again, x_hat_again = values(fold_input_scale(model, scale), x)
    torch.testing.assert_close(again, latents, rtol=1e-5, atol=1e-5 * float(latents.abs().max()))
    torch.testing.assert_close(x_hat_again, x_hat / scale, rtol=1e-5, atol=1e-5 * float(x_hat.abs().max()) / scale)


def test_an_input_scale_is_positive_and_means_nothing_to_normalised_rows() -> None:
    model = random_model(ReLU(), SAE_LAYOUT)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="positive"):
            fold_input_scale(model, scale)
    with pytest.raises(RefusedError, match="does not see the scale"):
        fold_input_scale(random_model(ReLU(), SAE_LAYOUT, norm=RowNorm()), 2.0)


@pytest.mark.parametrize("layout", [SAE_LAYOUT, ACROSS, CROSS], ids=["sae", "transcoder", "cross_layer"])
def test_a_pre_bias_is_absorbed(layout: object) -> None:
    model = random_model(ReLU(), layout, "free")  # type: ignore[arg-type]
    x = inputs(model.layout.n_p).double()
    W, b_in = model.W_E.double(), model.b_in.double()
    expected = (x - b_in) @ W.T + model.b_E
    torch.testing.assert_close(x @ W.T + encoder_bias(model), expected, rtol=1e-5, atol=1e-5)
    c = torch.linspace(-1, 1, model.layout.n_p)
    torch.testing.assert_close((x - c) @ W.T + encoder_bias(model, c), expected, rtol=1e-5, atol=1e-5)


def test_thresholds_of_batch_topk_divide_by_the_norm_where_it_ranks_by_it() -> None:
    model = random_model(BatchTopK(5, rank_by_norm=True), SAE_LAYOUT)
    with torch.no_grad():
        model.decoder.weights[0][0] = 0.0
    norms = model.decoder.squared_norms().sqrt()
    theta = thresholds(model)
    torch.testing.assert_close(theta[1:], (0.8 / norms)[1:])
    assert theta[0] == torch.inf, "z times 0 never exceeds a positive threshold"
    for state in model.activation_state().values():
        state.fill_(-1.0)
    assert thresholds(model)[1:].eq(0).all(), "a threshold that was never set means 0"
    with pytest.raises(RefusedError, match="TopK has no thresholds"):
        thresholds(random_model(TopK(5), SAE_LAYOUT))
    assert thresholds(random_model(JumpReLU(log_threshold=True), SAE_LAYOUT)).shape == (F,)

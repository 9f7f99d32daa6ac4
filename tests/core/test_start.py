"""How a model starts, and the constraints that hold it."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from monosem.base.errors import ArgumentError
from monosem.core.activations import ReLU
from monosem.core.constraints import Fixed, Tied, UnitNorm
from monosem.core.init import Init, geometric_median
from monosem.core.model import SDL
from monosem.losses.fidelity import Reconstruction
from tests.losses.trials import batch, trial
from tests.refused import PAIRS


def started(pair: str, init: Init, seed: int = 0) -> tuple[SDL, Tensor, Tensor]:
    pairing, p_widths, r_widths = PAIRS[pair]
    model = SDL(pairing.layout(16, p_widths, r_widths), ReLU(), "free")
    x_p, x_r = batch(pair, torch.Generator().manual_seed(1), 60)
    init(model, x_p, x_r, seed)
    return model, x_p, x_r


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("encoder", ["tied", "random"])
def test_norms_at_the_start(pair: str, encoder: str) -> None:
    model, _, _ = started(pair, Init(encoder, decoder_norm=0.3, encoder_scale=0.7, b_E=-0.5))  # type: ignore[arg-type]
    torch.testing.assert_close(model.W_D.norm(dim=0), torch.full((16,), 0.3))
    torch.testing.assert_close(model.W_E.norm(dim=1), torch.full((16,), 0.7))
    assert bool((model.b_E == -0.5).all())
    assert float(model.b_D.detach().abs().sum() + model.b_in.detach().abs().sum()) == 0.0
    if encoder == "tied" and model.encoder.blocks == model.decoder.blocks:
        torch.testing.assert_close(model.W_E / 0.7, model.W_D.T / 0.3)
    elif model.encoder.width == model.decoder.width:
        assert not torch.allclose(model.W_E / 0.7, model.W_D.T / 0.3)


def test_a_start_depends_on_its_seed_alone() -> None:
    one, same, other = (started("sae", Init("random"), seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one.W_E, same.W_E)
    assert torch.equal(one.W_D, same.W_D)
    assert not torch.equal(one.W_D, other.W_D)
    cosines = torch.nn.functional.cosine_similarity(one.W_E.detach(), one.W_D.T.detach(), dim=1)
    assert float(cosines.abs().max()) < 0.99


@pytest.mark.parametrize("pair", ["sae", "transcoder", "cross_layer"])
def test_biases_from_data(pair: str) -> None:
    mean, x_p, x_r = started(pair, Init(b_D="mean"))
    torch.testing.assert_close(mean.b_D, torch.from_numpy(x_r.numpy().mean(0)))
    torch.testing.assert_close(mean.b_in, torch.from_numpy(x_p.numpy().mean(0)))
    median, _, _ = started(pair, Init(b_D="geometric_median"))
    torch.testing.assert_close(median.b_D, geometric_median(x_r))


def test_geometric_median_minimises_the_sum_of_distances() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 3)) + np.where(rng.random((40, 1)) < 0.2, 30.0, 0.0)  # outliers pull a mean away
    best = minimize(lambda m: np.linalg.norm(rows - m, axis=1).sum(), rows.mean(0), method="Nelder-Mead", tol=1e-10)
    found = geometric_median(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, best.x, atol=1e-4)
    assert np.linalg.norm(found - rows.mean(0)) > 1.0
    same = torch.ones(4, 2)  # every row at the median itself
    torch.testing.assert_close(geometric_median(same), same[0])


def grad(model: SDL, x: tuple[Tensor, Tensor]) -> None:
    model.zero_grad()
    (model(x[0]).x_r_hat - x[1]).pow(2).sum().backward()


@pytest.mark.parametrize("per", ["latent", "source"])
@pytest.mark.parametrize("pair", PAIRS)
def test_unit_norm_projects_and_normalises(pair: str, per: str) -> None:
    """After projection a gradient is orthogonal to its column (in each source); the rest of it is untouched."""
    run = trial(ReLU(), (Reconstruction(),), pair, constraints=(UnitNorm(per),))  # type: ignore[arg-type]
    model, layout = run.model, run.model.layout
    groups = layout.r_slices if per == "source" else (slice(0, layout.n_r),)
    with torch.no_grad():
        for weight in model.decoder.weights:
            weight.mul_(1.7)  # the projection does not count on unit norms
    grad(model, batch(pair, run.generator))
    blocks = list(zip(model.decoder.blocks, model.decoder.weights, strict=True))

    def whole(of: str) -> Tensor:
        dense = torch.zeros(layout.n_q, layout.n_r)
        for block, weight in blocks:
            part = weight.detach() if of == "weight" else weight.grad
            assert part is not None
            dense[block.latents, block.columns] = part
        return dense.T

    before, W_D = whole("grad"), whole("weight")
    wanted = before.clone()
    for rows in groups:
        g, w = wanted[rows], W_D[rows]
        wanted[rows] = g - w * (g * w).sum(0) / (w * w).sum(0).clamp(min=1e-30)
    UnitNorm(per).project_gradient(model)  # type: ignore[arg-type]
    torch.testing.assert_close(whole("grad"), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, wanted)
    UnitNorm(per).after_step(model)  # type: ignore[arg-type]
    norms = torch.stack([model.W_D[rows].norm(dim=0) for rows in groups]).detach()
    live = torch.stack([(W_D[rows] != 0).any(0) for rows in groups])
    torch.testing.assert_close(norms, live.float())


def test_tied_weights_are_one_parameter() -> None:
    for pair in ("sae", "crosscoder", "crosscoder, private latents"):
        run = trial(ReLU(), (Reconstruction(),), pair, constraints=(UnitNorm(), Tied()))
        model = run.model
        assert torch.equal(model.W_E, model.W_D.T)
        names = [name for name, _ in model.named_parameters()]
        assert sum("coder.weights" in name for name in names) == len(model.decoder.blocks)
        grad(model, batch(pair, run.generator))
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.01 * parameter.grad
        assert torch.equal(model.W_E, model.W_D.T)


def test_fixed_parameters_do_not_train() -> None:
    held = Fixed(("decoder", "b_D", "W_skip"))
    run = trial(ReLU(), (Reconstruction(),), "skip_transcoder", constraints=(held,))
    grad(run.model, batch("skip_transcoder", run.generator))
    trained = {name for name, p in run.model.named_parameters() if p.grad is not None}
    assert trained == {"b_E", "encoder.weights.0"}
    trial(ReLU(), (Reconstruction(),), "sae", constraints=(Fixed(("W_skip",)),))  # absent: nothing to hold
    with pytest.raises(ArgumentError, match="'w_d' is none of"):
        trial(ReLU(), (Reconstruction(),), "sae", constraints=(Fixed(("w_d",)),))


def test_a_decoder_norm_is_positive() -> None:
    with pytest.raises(ArgumentError, match="decoder_norm=0"):
        Init(decoder_norm=0.0)


def test_a_start_of_iterative_thresholding_takes_its_longest_step() -> None:
    model, _, _ = started("sae", Init("ista", decoder_norm=0.3, encoder_scale=0.5))
    longest = np.linalg.svd(model.W_D.detach().double().numpy(), compute_uv=False)[0]
    np.testing.assert_allclose(model.W_E.detach().numpy(), 0.5 * model.W_D.T.detach().numpy() / longest**2, rtol=1e-5)

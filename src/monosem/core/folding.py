"""Exact changes of a model's weights that leave its function alone, or change it in a stated way."""

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from monosem.base.errors import RefusedError, check
from monosem.core.activations import AbsTopK, BatchTopK, Gated, JumpReLU, ReLU, TopK
from monosem.core.model import SDL
from monosem.core.units import Units


def encoder_bias(model: SDL, subtract: Tensor | None = None) -> Tensor:
    """b_E of the same function when `subtract` (None: nothing), instead of b_in, is taken from x_p first.

    Equation: W_E (x - b_in) + b_E = W_E (x - c) + b, b = b_E + W_E (c - b_in); computed in float64.
    """
    b_in = model.b_in.detach()
    target = torch.zeros_like(b_in) if subtract is None else subtract.detach()
    if torch.equal(b_in, target):
        return model.b_E.detach()
    shift = (target - b_in).double()
    out = model.b_E.detach().double()
    for block, weight in zip(model.encoder.blocks, model.encoder.weights, strict=True):
        out[block.latents] += weight.detach().double() @ shift[block.columns]
    return out.to(model.b_E.dtype)


def thresholds(model: SDL, relu: bool = True) -> Tensor:
    """theta [n_q] with which z H(z - theta) is this model's code: of JumpReLU, or of BatchTopK at inference.

    A threshold that BatchTopK compares with z ||W_D[:, j]|| is divided by the norm (infinite at a zero column).
    Raises: RefusedError for other activations, and, with `relu`, for a negative theta (it passes negative
        latents, which a format that applies ReLU cannot).
    """
    activation = model.activation
    if isinstance(activation, BatchTopK):
        theta = model.activation_state()["threshold"].clamp(min=0.0).expand(model.n_q)
        if activation.rank_by_norm:
            theta = theta / model.decoder.squared_norms().double().sqrt()
            theta = torch.where(theta.isnan(), torch.inf, theta)
        return theta.detach().to(model.b_E.dtype)
    check(isinstance(activation, JumpReLU), f"{type(activation).__name__} has no thresholds", RefusedError)
    assert isinstance(activation, JumpReLU)
    theta = activation.threshold(lambda name: model.act[name]).detach()
    if relu and bool((theta < 0).any()):
        raise RefusedError(
            f"{int((theta < 0).sum())} thresholds are negative and pass negative latents; "
            "the format applies ReLU as well and would not"
        )
    return theta


def fold_input_scale(model: SDL, scale: float, in_place: bool = False) -> SDL:
    """The model that reads and answers in raw units, for one that expects inputs multiplied by `scale`.

    Equation: x -> model(scale x) / scale, by W_E scale, b_in / scale, W_D / scale, b_D / scale; codes are the same.
    """
    check(math.isfinite(scale) and scale > 0, f"scale={scale}; an input scale is a positive number")
    p, r = (torch.full((width,), scale) for width in (model.layout.n_p, model.layout.n_r))
    return Units(torch.zeros_like(p), p, torch.zeros_like(r), r).fold(model, in_place)


def fold_decoder_norm(model: SDL) -> SDL:
    """The same reconstruction from unit decoder columns; latents are multiplied by the old norms.

    Equation: with n_j = ||W_D[:, j]||: W_D[:, j] / n_j, W_E[j] n_j, b_E n_j, theta_j n_j; ranking by norm becomes
        ranking. A zero column's latent becomes zero.
    Raises: RefusedError where that changes which latents pass: a ranking or one threshold that does not look at norms.
    """
    activation = model.activation
    ranked = isinstance(activation, TopK)
    if ranked and not getattr(activation, "rank_by_norm", False):
        raise RefusedError(
            f"{type(activation).__name__} ranks z alone; scaling latents by norms would change its choice"
        )
    check(
        ranked or isinstance(activation, ReLU | JumpReLU | Gated),
        f"{type(activation).__name__} has no latents that scale with their pre-activation",
        RefusedError,
    )
    model = scale_latents(model, model.decoder.squared_norms().double().sqrt())
    if isinstance(activation, TopK | AbsTopK | BatchTopK):
        model.activation = replace(activation, rank_by_norm=False)
    return model


def scale_latents(model: SDL, norms: Tensor) -> SDL:
    """A copy whose latents are multiplied by factors [n_q] that their decoder columns are divided by.

    Equation: W_D[:, j] / n_j, W_E[j] n_j, b_E n_j, theta_j n_j, and the mean factor where there is one threshold.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.decoder.scale_rows((1 / norms.clamp(min=1e-30)).to(model.b_E.dtype))
        factors = norms.to(model.b_E.dtype)
        model.encoder.scale_rows(factors)
        model.b_E.mul_(factors)
        for name, parameter in model.act.items():
            if name == "log_theta":
                parameter.add_(factors.log())
            elif name != "r_mag":
                parameter.mul_(factors)
        if isinstance(model.activation, BatchTopK) and not model.activation.rank_by_norm:
            threshold = model.activation_state()["threshold"]
            threshold.copy_(torch.where(threshold > 0, threshold * norms.mean(), threshold))
    return model

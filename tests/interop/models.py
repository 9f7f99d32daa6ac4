"""Small models of every kind that a format can hold, with weights that are nowhere special."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from monosem.core.activations import AbsTopK, Activation, BatchTopK, Gated, GroupMax, JumpReLU, ReLU, TopK
from monosem.core.io import cast_parameters
from monosem.core.model import SDL
from monosem.core.pairs import SAE, CrossLayer, Layout, Transcoder
from monosem.core.rownorm import RowNorm, RowNormSDL
from monosem.interop.build import layered

D, F, OUT, LAYERS = 12, 40, 10, 3


def inputs(width: int, rows: int = 64) -> Tensor:
    """Rows with a mean and unequal scales."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, width, generator=generator)
    return x * (0.5 + torch.rand(rows, 1, generator=generator)) + 0.3


def values(model: SDL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and reconstructions, by the reference path."""
    model.path = "reference"
    with torch.no_grad():
        forward = model(x.to(model.b_E.dtype))
    return forward.code.to_dense(), forward.x_r_hat


def random_model(
    activation: Activation, layout: Layout, pre_bias: Any = "none", norm: RowNorm | None = None, seed: int = 0
) -> SDL:
    """Every parameter drawn, decoder columns of different norms, a threshold of 0.8 where there is one."""
    model = SDL(layout, activation, pre_bias) if norm is None else RowNormSDL(layout, activation, pre_bias, norm)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if parameter.ndim == 2 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if name == "act.theta":
                parameter.copy_(torch.rand(parameter.shape, generator=generator))
        model.decoder.scale_rows(torch.rand(model.n_q, generator=generator) * 2 + 0.2)
        for state in model.activation_state().values():
            state.fill_(0.8)
    return model.eval()


SAE_LAYOUT = SAE().layout(F, (D,), (D,))
ACROSS = Transcoder().layout(F, (D,), (OUT,))
SQUARE = Transcoder().layout(F, (D,), (D,))
CROSS = CrossLayer().layout(LAYERS * F, (D,) * LAYERS, (D,) * LAYERS)
SET = layered(LAYERS, F, D, D)


def _skip(layout: Layout) -> Layout:
    return replace(layout, skip=True)


def ours(format: str) -> dict[str, tuple[SDL, dict[str, Any]]]:
    """What each writable format is asked to hold: name -> (model, metadata)."""
    named = {"model_name": "toy", "hook_name": "blocks.0.hook_resid_post"}
    cases: dict[str, tuple[Any, ...]] = {
        "saelens": (
            ("standard", ReLU(), SAE_LAYOUT, "none"),
            ("standard-tied", ReLU(), SAE_LAYOUT, "tied"),
            ("standard-free", ReLU(), SAE_LAYOUT, "free"),
            ("topk", TopK(5), SAE_LAYOUT, "tied"),
            ("abstopk", AbsTopK(5), SAE_LAYOUT, "tied"),
            ("gated", Gated(), SAE_LAYOUT, "tied"),
            ("gated-free", Gated(), SAE_LAYOUT, "free"),
            ("jumprelu", JumpReLU(), SAE_LAYOUT, "none"),
            ("jumprelu-log", JumpReLU(log_threshold=True), SAE_LAYOUT, "tied"),
            ("batchtopk", BatchTopK(4.5), SAE_LAYOUT, "tied"),
            ("batchtopk-ranked", BatchTopK(5, rank_by_norm=True), SAE_LAYOUT, "tied"),
            ("standard-layer_norm", ReLU(), SAE_LAYOUT, "tied", RowNorm()),
            ("topk-rms", TopK(5), SAE_LAYOUT, "none", RowNorm("rms", 0.0)),
            ("transcoder", ReLU(), ACROSS, "none"),
            ("transcoder-free", ReLU(), ACROSS, "free"),
            ("jumprelu_transcoder", JumpReLU(), ACROSS, "none"),
            ("batchtopk_transcoder", BatchTopK(5), ACROSS, "none"),
            ("skip_transcoder", ReLU(), _skip(ACROSS), "none"),
            ("jumprelu_skip_transcoder", JumpReLU(), _skip(ACROSS), "none"),
            ("skip_transcoder-layer_norm", ReLU(), _skip(ACROSS), "none", RowNorm(restore=False)),
        ),
        "dictionary_learning": (
            ("AutoEncoder", ReLU(), SAE_LAYOUT, "tied"),
            ("AutoEncoderNew", ReLU(), SAE_LAYOUT, "none"),
            ("AutoEncoderNew-free", ReLU(), SAE_LAYOUT, "free"),
            ("GatedAutoEncoder", Gated(), SAE_LAYOUT, "tied"),
            ("GatedAutoEncoder-none", Gated(), SAE_LAYOUT, "none"),
            ("JumpReluAutoEncoder", JumpReLU(), SAE_LAYOUT, "none"),
            ("JumpReluAutoEncoder-tied", JumpReLU(), SAE_LAYOUT, "tied"),
            ("AutoEncoderTopK", TopK(5), SAE_LAYOUT, "tied"),
            ("AutoEncoderTopK-none", TopK(5), SAE_LAYOUT, "none"),
            ("BatchTopKSAE", BatchTopK(5), SAE_LAYOUT, "tied"),
            ("MatryoshkaBatchTopKSAE", BatchTopK(5), SAE_LAYOUT, "tied"),
        ),
        "sparsify": (
            ("topk", TopK(5), SAE_LAYOUT, "tied"),
            ("topk-none", TopK(5), SAE_LAYOUT, "none"),
            ("groupmax", GroupMax(8), SAE_LAYOUT, "tied"),
            ("skip", TopK(5), _skip(SAE_LAYOUT), "tied"),
            ("transcoder", TopK(5), SQUARE, "none"),
            ("transcoder-free", TopK(5), SQUARE, "free"),
            ("skip_transcoder", TopK(5), _skip(SQUARE), "none"),
        ),
        "circuit_tracer": (
            ("one-relu", ReLU(), SQUARE, "none"),
            ("one-free", ReLU(), SQUARE, "free"),
            ("one-jumprelu-skip", JumpReLU(), _skip(SQUARE), "none"),
            ("one-batchtopk", BatchTopK(5), SQUARE, "none"),
            ("set-jumprelu", JumpReLU(), SET, "none"),
            ("set-skip", ReLU(), _skip(SET), "none"),
            ("cross-relu", ReLU(), CROSS, "none"),
            ("cross-jumprelu", JumpReLU(), CROSS, "none"),
        ),
    }[format]
    models: dict[str, tuple[SDL, dict[str, Any]]] = {}
    for seed, (case, *parts) in enumerate(cases):
        metadata: dict[str, Any] = dict(named)
        if case.startswith("Matryoshka"):
            metadata["source"] = {"format": format, "group_sizes": [10, 30]}
        model = random_model(*parts, seed=seed)
        if case == "set-skip":
            assert model.W_skip is not None
            with torch.no_grad():  # one skip per layer
                for i in range(LAYERS):
                    model.W_skip[i * D : (i + 1) * D, : i * D] = 0
                    model.W_skip[i * D : (i + 1) * D, (i + 1) * D :] = 0
        models[case] = (model, metadata)
    if format == "saelens":
        models["standard-float64"] = (cast_parameters(random_model(ReLU(), SAE_LAYOUT), torch.float64), named)
    return models

"""llamascopium's side: dictionaries of each kind, saved by the released package."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

D, F, HEADS = 12, 36, 3


def _fill(model: Any) -> Any:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if "W_" in name else 0.3))
            if "log_jumprelu" in name:
                parameter.copy_(torch.rand_like(parameter) - 0.5)
    return model


def make(root: Path, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """SAEs and transcoders by activation and normalisation; crosscoders; cross-layer transcoders."""
    from llamascopium.models.clt import CLTConfig, CrossLayerTranscoder
    from llamascopium.models.crosscoder import Crosscoder, CrosscoderConfig
    from llamascopium.models.sae import SAEConfig, SparseAutoEncoder

    same, across = {"hook_point_in": "a", "hook_point_out": "a"}, {"hook_point_in": "a", "hook_point_out": "b"}
    heads = [f"h{i}" for i in range(HEADS)]
    norms = {"a": 2.5, "b": 4.0} | {f"h{i}": 2.0 + i for i in range(HEADS)} | {f"o{i}": 3.0 + i for i in range(HEADS)}
    layers = {"hook_points_in": heads, "hook_points_out": [f"o{i}" for i in range(HEADS)]}
    cases: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "sae-relu": (SparseAutoEncoder, SAEConfig, {**same, "act_fn": "relu"}),
        "sae-topk": (SparseAutoEncoder, SAEConfig, {**same, "act_fn": "topk", "top_k": 5}),
        "sae-topk-plain": (
            SparseAutoEncoder, SAEConfig,
            {**same, "act_fn": "topk", "top_k": 5, "sparsity_include_decoder_norm": False, "use_decoder_bias": False},
        ),
        "sae-jumprelu": (SparseAutoEncoder, SAEConfig, {**same, "act_fn": "jumprelu"}),
        "sae-jumprelu-token": (
            SparseAutoEncoder, SAEConfig, {**same, "act_fn": "jumprelu", "norm_activation": "token-wise"},
        ),
        "sae-jumprelu-inference": (
            SparseAutoEncoder, SAEConfig, {**same, "act_fn": "jumprelu", "norm_activation": "inference"},
        ),
        "transcoder-jumprelu": (SparseAutoEncoder, SAEConfig, {**across, "act_fn": "jumprelu"}),
        "crosscoder-relu": (Crosscoder, CrosscoderConfig, {"hook_points": heads, "act_fn": "relu"}),
        "crosscoder-jumprelu": (Crosscoder, CrosscoderConfig, {"hook_points": heads, "act_fn": "jumprelu"}),
        "clt-relu": (CrossLayerTranscoder, CLTConfig, {**layers, "act_fn": "relu"}),
        "clt-jumprelu": (CrossLayerTranscoder, CLTConfig, {**layers, "act_fn": "jumprelu"}),
    }  # fmt: skip
    for case, (model_class, config_class, settings) in cases.items():
        config = config_class(d_model=D, expansion_factor=F / D, dtype=torch.float32, device="cpu", **settings)
        model = _fill(model_class(config))
        hooks = config.associated_hook_points
        model.set_dataset_average_activation_norm({hook: norms[hook] for hook in hooks})
        model.save_pretrained(str(root / case))
        model.cfg.save_hyperparameters(str(root / case))
        with torch.no_grad():
            yield case, *_values(model, x, norms)


def _values(model: Any, x: Tensor, norms: dict[str, float]) -> tuple[Tensor, Tensor]:
    kind, how = model.cfg.sae_type, model.cfg.norm_activation

    def factor(hooks: list[str]) -> Any:
        if how == "inference":
            return 1.0
        if how == "token-wise":
            return math.sqrt(D) / x[:, :D].norm(dim=1, keepdim=True)
        factors = torch.tensor([math.sqrt(D) / norms[hook] for hook in hooks])
        return factors if kind == "sae" else factors[:, None]

    rows = x[:, :D] if kind == "sae" else x[:, : HEADS * D].reshape(-1, HEADS, D)
    latents = model.encode(rows * factor(model.cfg.hooks_in))
    x_hat = model.decode(latents)
    if kind == "clt":
        x_hat = x_hat.movedim(0, 1)  # it comes layer by layer
    x_hat = x_hat / factor(model.cfg.hooks_out)
    if kind == "crosscoder" and model.cfg.act_fn == "relu":
        latents = latents[:, 0]  # one code: every head's copy is the same
    return latents.flatten(1), x_hat.flatten(1)


def read(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """monosem does not write this format."""
    raise NotImplementedError(folder)

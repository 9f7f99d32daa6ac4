"""Files made from the notes on their formats, where no released package makes them (some read them)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.interop.models import LAYERS, OUT, D, F


class _Draw:
    """Named tensors from one generator."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 0.5) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * scale


def write_notes(root: Path) -> Iterator[tuple[str, Path]]:
    """(format, folder) of every file, the folder's name being the case."""
    for number, (case, format, write) in enumerate(_CASES):
        folder = root / case
        folder.mkdir(parents=True)
        write(folder, _Draw(100 + number))
        yield format, folder


def _jumprelu(draw: _Draw, out: int = D) -> dict[str, Tensor]:
    b_enc, b_dec, threshold = draw(F, scale=0.3), draw(out, scale=0.3), draw(F, scale=0.4)
    return {"w_enc": draw(D, F), "w_dec": draw(F, out), "b_enc": b_enc, "b_dec": b_dec, "threshold": threshold}


def _gemma_1(folder: Path, draw: _Draw) -> None:
    tensors = {name.replace("w_", "W_"): value.numpy() for name, value in _jumprelu(draw).items()}
    np.savez(folder / "params.npz", **tensors)


def _gemma_2(folder: Path, draw: _Draw, skip: bool = False, across: bool = False) -> None:
    tensors = _jumprelu(draw, OUT if across else D)
    config: dict[str, Any] = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": "a"}
    if across:
        config |= {"hf_hook_point_out": "b", "affine_connection": skip}
        tensors["threshold"] = tensors["threshold"].abs()
    if skip:
        tensors["affine_skip_connection"] = draw(D, OUT)
    save_file(tensors, folder / "params.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def _gemma_2_cross(folder: Path, draw: _Draw, skip: bool = False) -> None:
    for i in range(LAYERS):
        tensors = _jumprelu(draw)
        decoder = draw(F, LAYERS, D)
        decoder[:, :i] = 0
        tensors |= {"w_dec": decoder, "threshold": tensors["threshold"].abs()}
        if skip:
            tensors["affine_skip_connection"] = draw(D, D)
        save_file(tensors, folder / f"params_layer_{i}.safetensors")


def _gemma_1_square_transcoder(folder: Path, draw: _Draw) -> None:
    tensors = _jumprelu(draw) | {"threshold": draw(F).abs()}
    np.savez(folder / "params.npz", **{name.replace("w_", "W_"): value.numpy() for name, value in tensors.items()})


def _gemma_2_square_transcoder(folder: Path, draw: _Draw) -> None:
    tensors = _jumprelu(draw) | {"threshold": draw(F).abs(), "affine_skip_connection": draw(D, D)}
    save_file(tensors, folder / "params.safetensors")


def _llama_scope(folder: Path, draw: _Draw) -> None:
    (folder / "checkpoints").mkdir()
    tensors = {
        "encoder.weight": draw(F, D),
        "encoder.bias": draw(F, scale=0.3),
        "decoder.weight": draw(D, F),
        "decoder.bias": draw(D, scale=0.3),
    }
    save_file(tensors, folder / "checkpoints" / "final.safetensors")
    norms = {"in": 2.5, "out": 2.5}
    config = {"d_model": D, "d_sae": F, "jump_relu_threshold": 0.5, "dataset_average_activation_norm": norms}
    (folder / "hyperparams.json").write_text(json.dumps(config | {"hook_point_in": "blocks.0.hook_resid_post"}))


def _old(folder: Path, draw: _Draw, **settings: Any) -> None:
    tensors = {"W_enc": draw(D, F), "W_dec": draw(F, D), "b_dec": draw(D, scale=0.3), "b_enc": draw(F, scale=0.3)}
    if settings.get("architecture") == "jumprelu":
        tensors["threshold"] = draw(F, scale=0.4)
    if settings.get("architecture") == "gated":
        del tensors["b_enc"]
        tensors |= {"b_gate": draw(F, scale=0.3), "b_mag": draw(F, scale=0.3), "r_mag": draw(F, scale=0.3)}
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"d_in": D, "d_sae": F, "dtype": "torch.float32", "device": "cpu", "model_name": "toy", "hook_layer": 0}
    config |= {"hook_point": "blocks.0.hook_resid_post", "normalize_activations": False, "hook_point_head_index": None}
    (folder / "cfg.json").write_text(json.dumps(config | settings))


def _openai(folder: Path, draw: _Draw, topk: bool = True) -> None:
    state: dict[str, Any] = {
        "pre_bias": draw(D, scale=0.3),
        "latent_bias": draw(F, scale=0.3),
        "stats_last_nonzero": torch.zeros(F, dtype=torch.long),
        "latents_activation_frequency": torch.linspace(0, 1, F),
        "latents_mean_square": torch.zeros(F),
        "encoder.weight": draw(F, D),
        "activation": "TopK" if topk else "ReLU",
        "activation_state_dict": {"k": 5, "postact_fn": "ReLU"} if topk else {},
    }
    if topk:
        state["decoder.weight"] = draw(D, F)
    torch.save(state, folder / "0.pt")


def _crosscoder(folder: Path, draw: _Draw, number: int, threshold: float | None, standardised: bool = False) -> None:
    tensors = {
        "encoder.weight": draw(LAYERS, D, F),
        "encoder.bias": draw(F, scale=0.3),
        "decoder.weight": draw(LAYERS, F, D),
        "decoder.bias": draw(LAYERS, D, scale=0.3),
        "code_normalization_id": torch.tensor(number),
        "target_rms": torch.tensor(1.0),
        "activation_mean": draw(LAYERS, D) if standardised else torch.full((LAYERS, D), torch.nan),
        "activation_std": draw(LAYERS, D).abs() + 0.1 if standardised else torch.full((LAYERS, D), torch.nan),
    }
    std = tensors["activation_std"].nan_to_num()
    scale = 1 / (std.pow(2).sum(-1) + 1e-8).sqrt() if standardised else torch.ones(LAYERS)
    tensors["activation_global_scale"] = scale
    if threshold is not None:
        tensors |= {"k": torch.tensor(5, dtype=torch.int), "threshold": torch.tensor(threshold)}
    save_file(tensors, folder / "model.safetensors")
    config = {"activation_dim": D, "dict_size": F, "num_layers": LAYERS}
    (folder / "config.json").write_text(json.dumps(config))


def _llamascopium(folder: Path, draw: _Draw) -> None:
    tensors = {
        "W_E": draw(D, F),
        "b_E": draw(F, scale=0.3),
        "W_D": draw(F, D),
        "b_D": draw(D, scale=0.3),
        "activation_function.log_jumprelu_threshold": draw(F, scale=0.3),
        "dataset_average_activation_norm.a": torch.tensor(2.5),
    }
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"sae_type": "sae", "d_model": D, "expansion_factor": F / D, "act_fn": "jumprelu", "hook_point_in": "a"}
    config |= {"hook_point_out": "a", "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True}
    (folder / "config.json").write_text(json.dumps(config))


_CASES: tuple[tuple[str, str, Any], ...] = (
    ("gemma_scope_1", "gemma_scope", _gemma_1),
    ("gemma_scope_1-transcoder", "gemma_scope", _gemma_1_square_transcoder),
    ("gemma_scope_2", "gemma_scope_2", _gemma_2),
    ("gemma_scope_2-transcoder", "gemma_scope_2", lambda f, d: _gemma_2(f, d, across=True)),
    ("gemma_scope_2-transcoder-skip", "gemma_scope_2", lambda f, d: _gemma_2(f, d, True, True)),
    ("gemma_scope_2-square-transcoder", "gemma_scope_2", _gemma_2_square_transcoder),
    ("gemma_scope_2-cross", "gemma_scope_2", _gemma_2_cross),
    ("gemma_scope_2-cross-skip", "gemma_scope_2", lambda f, d: _gemma_2_cross(f, d, skip=True)),
    ("llama_scope", "llama_scope", _llama_scope),
    ("llamascopium", "llamascopium", _llamascopium),
    ("old-standard", "saelens", _old),
    ("old-raw", "saelens", lambda f, d: _old(f, d, apply_b_dec_to_input=False)),
    ("old-topk", "saelens", lambda f, d: _old(f, d, activation_fn_str="topk", activation_fn_kwargs={"k": 5})),
    ("old-jumprelu", "saelens", lambda f, d: _old(f, d, architecture="jumprelu", activation_fn="relu")),
    ("old-gated", "saelens", lambda f, d: _old(f, d, architecture="gated")),
    ("old-layer_norm", "saelens", lambda f, d: _old(f, d, normalize_activations="layer_norm")),
    ("openai-topk", "openai", _openai),
    ("openai-relu-tied", "openai", lambda f, d: _openai(f, d, topk=False)),
    ("crosscoder-relu", "crosscoder", lambda f, d: _crosscoder(f, d, 1, None)),
    ("crosscoder-batchtopk", "crosscoder", lambda f, d: _crosscoder(f, d, 1, 0.8)),
    ("crosscoder-batchtopk-sae", "crosscoder", lambda f, d: _crosscoder(f, d, 2, 0.8)),
    ("crosscoder-batchtopk-mixed", "crosscoder", lambda f, d: _crosscoder(f, d, 3, 0.8)),
    ("crosscoder-batchtopk-none", "crosscoder", lambda f, d: _crosscoder(f, d, 4, 0.8)),
    ("crosscoder-standardised", "crosscoder", lambda f, d: _crosscoder(f, d, 1, 0.8, True)),
)

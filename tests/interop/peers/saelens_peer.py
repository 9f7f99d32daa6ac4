"""SAELens' side: its released package makes checkpoints of every architecture and reads ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Values = tuple[str, Tensor, Tensor]
D, F, OUT = 12, 40, 10


def _fill(sae: Any) -> Any:
    """Weights, biases and thresholds that are nowhere zero, decoder columns of different norms."""
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            scale = 0.5 if name.startswith("W_") else 0.3
            parameter.copy_(torch.randn_like(parameter) * scale)
            if name == "threshold":
                parameter.copy_(torch.randn_like(parameter) * 0.4)  # some negative
            if name == "W_dec":
                parameter.mul_(torch.rand(parameter.shape[0], 1) * 2 + 0.2)
    return sae


def _values(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return sae.encode(x), sae(x)


def make(root: Path, x: Tensor) -> Iterator[Values]:
    """One folder per architecture and setting."""
    yield from _inference(root, x)
    yield from _training(root, x)


def _inference(root: Path, x: Tensor) -> Iterator[Values]:
    from sae_lens import SAE

    common = {"d_in": D, "d_sae": F, "metadata": {"model_name": "toy", "hook_name": "blocks.0.hook_resid_post"}}
    sae_only: dict[str, dict[str, Any]] = {
        "standard": {"architecture": "standard"},
        "standard-raw": {"architecture": "standard", "apply_b_dec_to_input": False},
        "standard-layer_norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
        "standard-constant_norm": {"architecture": "standard", "normalize_activations": "constant_norm_rescale"},
        "standard-float64": {"architecture": "standard", "dtype": "float64"},
        "standard-bfloat16": {"architecture": "standard", "dtype": "bfloat16"},
        "topk": {"architecture": "topk", "k": 5},
        "topk-rescale": {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True},
        "topk-layer_norm": {"architecture": "topk", "k": 5, "normalize_activations": "layer_norm"},
        "abstopk": {"architecture": "abstopk", "k": 5},
        "abstopk-rescale": {"architecture": "abstopk", "k": 5, "rescale_acts_by_decoder_norm": True},
        "gated": {"architecture": "gated"},
        "gated-raw": {"architecture": "gated", "apply_b_dec_to_input": False},
        "jumprelu": {"architecture": "jumprelu"},
        "jumprelu-raw": {"architecture": "jumprelu", "apply_b_dec_to_input": False},
    }
    across = {"d_out": OUT, "apply_b_dec_to_input": False}
    for name in ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        sae_only[name] = {"architecture": name, **across}
    sae_only["skip_transcoder-layer_norm"] = {
        "architecture": "skip_transcoder", "normalize_activations": "layer_norm", **across,
    }  # fmt: skip
    for case, settings in sae_only.items():
        sae = _fill(SAE.from_dict({**common, **settings}))
        sae.save_model(root / case)
        if case == "standard-bfloat16":  # its values are those of its weights, not of its arithmetic
            sae = sae.to(dtype=torch.float32)
        latents, x_hat = _values(sae, x.to(sae.W_enc.dtype))
        yield case, latents, x_hat


def _training(root: Path, x: Tensor) -> Iterator[Values]:
    from sae_lens import SAE
    from sae_lens.saes.sae import TrainingSAE
    from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening

    ranked = {"k": 5, "decoder_init_norm": None}
    settings: dict[str, dict[str, Any]] = {
        "training-standard": {"architecture": "standard"},
        "training-topk": {"architecture": "topk", **ranked},
        "training-batchtopk": {"architecture": "batchtopk", **ranked, "k": 4.5},
        "training-matryoshka": {"architecture": "matryoshka_batchtopk", **ranked, "matryoshka_widths": [10, 40]},
        "training-jumprelu": {"architecture": "jumprelu"},
        "training-gated": {"architecture": "gated"},
    }
    for case, chosen in settings.items():
        sae = _fill(TrainingSAE.from_dict({"d_in": D, "d_sae": F, **chosen}))
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.8)
        sae.save_model(root / case)
        sae.save_inference_model(root / f"{case}-exported")
        exported = SAE.load_from_disk(root / f"{case}-exported")
        latents, x_hat = _values(exported, x)
        yield f"{case}-exported", latents, x_hat
        yield case, latents, x_hat  # what training left must be the function that it exports
    for case, scaler in {
        "input_scale": ActivationScaler(scaling_factor=0.37),
        "whitening": ActivationScaler(whitening=_whitening(ActivationWhitening)),
        "whitening-gated": ActivationScaler(whitening=_whitening(ActivationWhitening)),
        "whitening-raw": ActivationScaler(whitening=_whitening(ActivationWhitening)),
    }.items():
        kind = "covariance_whitening" if "whitening" in case else "expected_average_only_in"
        architecture = "gated" if case.endswith("gated") else "standard"
        chosen = {
            "architecture": architecture,
            "normalize_activations": kind,
            "apply_b_dec_to_input": "raw" not in case,
        }
        sae = _fill(TrainingSAE.from_dict({"d_in": D, "d_sae": F, **chosen}))
        sae.save_model(root / case)
        scaler.save(str(root / case / "activation_scaler.json"))
        if scaler.whitening is None:
            sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
        else:
            w = scaler.whitening
            sae.fold_activation_whitening(w.mean, w.matrix, w.inverse_matrix)
        yield case, *_values(sae, x)


def _whitening(kind: Any) -> Any:
    matrix = torch.randn(D, D) / D**0.5 + torch.eye(D)
    return kind(mean=torch.randn(D), matrix=matrix, inverse_matrix=torch.linalg.inv(matrix))


def read(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Load a folder with SAELens' own loader: its format, or another for which it has one."""
    from sae_lens import SAE

    if (folder / "cfg.json").is_file():
        sae = SAE.load_from_disk(folder)
        return _values(sae, x.to(sae.W_enc.dtype))
    return _values(_through_loader(folder), x)


def _through_loader(folder: Path) -> Any:
    """Gemma Scope and Llama Scope: SAELens' loaders for the Hub, with the download replaced by the local file."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors import safe_open

    def local(repo_id: str = "", filename: str = "", subfolder: str = "", **_: Any) -> str:
        found = next(iter(folder.rglob(Path(filename).name)), None)
        if found is None:
            raise loaders.EntryNotFoundError(filename)
        return str(found)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(local(filename=filename), "pt") as file:
            return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    loaders.hf_hub_download = lambda *args, **kwargs: local(
        **dict(zip(("repo_id", "filename"), args, strict=False)) | kwargs
    )
    loaders.get_safetensors_tensor_shapes = shapes
    size = {"d_in": D, "d_sae": F}
    if folder.name.startswith("gemma_scope_1"):
        load, where = loaders.gemma_2_sae_huggingface_loader, ("google/gemma-scope-2b-pt-res", "layer_0/width_16k/x")
    elif folder.name.startswith("gemma_scope_2"):
        load, size = loaders.gemma_3_sae_huggingface_loader, {}
        part = "transcoder" if "transcoder" in folder.name else "resid_post"
        where = (
            "google/gemma-scope-2-1b-pt",
            f"{part}/layer_0_width_16k" + ("_affine" if "skip" in folder.name else ""),
        )
    else:
        load, where, size = loaders.llama_scope_sae_huggingface_loader, ("fnlp/x", "L0R"), {"dtype": "float32"}
    config, state, _ = load(*where, device="cpu", cfg_overrides=size)
    scale = None
    if config.get("normalize_activations") == "expected_average_only_in":
        scale = (
            D**0.5
            / loaders.json.loads((folder / "hyperparams.json").read_text())["dataset_average_activation_norm"]["in"]
        )
    config = loaders.handle_config_defaulting(config)
    sae = SAE.from_dict(config)
    sae.load_state_dict(state)
    if scale is not None:
        sae.fold_activation_norm_scaling_factor(scale)
    return sae

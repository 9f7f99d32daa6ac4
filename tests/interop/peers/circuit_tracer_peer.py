"""circuit-tracer's side: sets of transcoders and cross-layer transcoders; it also reads Gemma Scope's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

D, F, LAYERS = 12, 40, 3


def _fill(module: Any) -> Any:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if "W_" in name else 0.3))
            if "threshold" in name:
                parameter.copy_(torch.rand_like(parameter) - 0.2)  # some negative: no ReLU here
    return module


def _beside(x: Tensor, layers: int) -> Tensor:
    """[batch, layers * d] to [layers, batch, d]."""
    return x[:, : layers * D].reshape(x.shape[0], layers, -1).transpose(0, 1)


def _flat(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def _set_values(transcoders: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        rows = _beside(x, len(transcoders))
        latents = transcoders.encode(rows)
        return _flat(latents), _flat(transcoders.decode(latents, rows))


def _cross_values(clt: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        rows = _beside(x, clt.n_layers)
        latents = clt.encode(rows)
        return _flat(latents), _flat(clt.decode(latents, rows))


def make(root: Path, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Sets and cross-layer transcoders, with ReLU and with thresholds."""
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet

    for case, layers, jump, skip in [
        ("set-relu", LAYERS, False, False),
        ("set-jumprelu", LAYERS, True, False),
        ("set-relu-skip", LAYERS, False, True),
        ("set-jumprelu-skip", LAYERS, True, True),
        ("one-jumprelu-skip", 1, True, True),
    ]:
        parts = {}
        for i in range(layers):
            act = JumpReLU(torch.zeros(F)) if jump else torch.nn.functional.relu
            parts[i] = _fill(SingleLayerTranscoder(D, F, act, i, skip_connection=skip, dtype=torch.float32))
        transcoders = TranscoderSet(parts, "hook_resid_mid", "hook_mlp_out")
        transcoders.to_safetensors(str(root / case))
        yield case, *_set_values(transcoders, x)
    for case, act in [("cross-relu", "relu"), ("cross-jumprelu", "jump_relu")]:
        clt = _fill(CrossLayerTranscoder(LAYERS, F, D, act, lazy_decoder=False, dtype=torch.float32))
        clt.to_safetensors(str(root / case))
        yield case, *_cross_values(clt, x)


def read(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Load with the package's own loaders, config.yaml included."""
    import yaml
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt, load_gemma_scope_2_clt
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    float32: dict[str, Any] = {"dtype": torch.float32, "lazy_decoder": False, "lazy_encoder": False}
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    special: dict[str, Any] = {}
    if folder.name.startswith("gemma_scope"):
        first = folder.name.startswith("gemma_scope_1")
        files = sorted(folder.glob("*.npz" if first else "*.safetensors"))
        if "cross" in folder.name:
            paths = {i: str(file) for i, file in enumerate([*files, files[-1]])}  # it leaves out its last one
            return _cross_values(load_gemma_scope_2_clt(paths, **hooks, **float32), x)
        special = {"special_load_fn": "gemma-scope" if first else "gemma-scope-2"}
        kind = "transcoder_set"
    else:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        hooks, kind = {name: config[name] for name in hooks}, config["model_kind"]
        files = sorted(folder.glob("layer_*.safetensors"))
    if kind == "cross_layer_transcoder":
        return _cross_values(load_clt(str(folder), **hooks, **float32), x)
    paths = {i: str(file) for i, file in enumerate(files)}
    return _set_values(load_transcoder_set(paths, "scan", **hooks, **float32, **special), x)

"""sparsify (EleutherAI): a hook point's cfg.json and sae.safetensors; SAE, transcoder, skip; read and write."""

from pathlib import Path
from typing import Any

from monosem.base.errors import CheckpointError
from monosem.base.files import write_json
from monosem.core.activations import AbsTopK, Activation, BatchTopK, GroupMax, TopK
from monosem.core.model import SDL
from monosem.interop.build import Plain, assemble, refuse, sae, source_config, transcoder
from monosem.interop.files import FORMATS, Candidate, Format, Loaded, write_tensors

_WEIGHTS, _CONFIG = "sae.safetensors", "cfg.json"


def read(candidate: Candidate) -> Loaded:
    """Read one hook point's folder."""
    config, t = candidate.json(_CONFIG), candidate.tensors(_WEIGHTS)
    W_E, W_D = t.take("encoder.weight", 2), t.take("W_dec", 2)
    b_E, b_D, W_skip = t.take("encoder.bias", 1), t.take("b_dec", 1), t.maybe("W_skip", 2)
    t.done()
    transcode = bool(config.get("transcode", False))
    width, latents = int(config["d_in"]), int(config.get("num_latents", 0)) or W_E.shape[0]
    if W_E.shape != (latents, width):
        raise CheckpointError(
            f"{candidate.path}: encoder.weight is {tuple(W_E.shape)}, its config says ({latents}, {width})"
        )
    kind, k = config.get("activation", "topk"), int(config["k"])
    if kind not in ("topk", "groupmax"):
        raise CheckpointError(f"{candidate.path}/{_CONFIG}: activation {kind!r} is unknown; update monosem")
    activation: Activation = GroupMax(k) if kind == "groupmax" else AbsTopK(k) if config.get("signed") else TopK(k)
    model = assemble(
        (transcoder if transcode else sae)(W_E, W_D),
        activation,
        [W_E],
        [W_D],
        b_E,
        b_D,
        where=str(candidate.path),
        pre_bias="none" if transcode else "tied",
        W_skip=W_skip,
    )
    return Loaded(model, {"source": {"format": "sparsify", "config": config}})


def write(model: SDL, folder: Path, metadata: dict[str, Any]) -> None:
    """Write cfg.json and sae.safetensors."""
    plain, activation = Plain(model, "sparsify"), model.activation
    if plain.kind not in ("sae", "transcoder"):
        refuse("sparsify", f"a {plain.kind}", "it has SAEs and transcoders of one hook point")
    if model.layout.n_p != model.layout.n_r:
        refuse("sparsify", f"n_p={model.layout.n_p}, n_r={model.layout.n_r}", "its two sides have one width")
    plain.refuse_norm()
    plain.refuse_ranking_by_norm()
    if not isinstance(activation, TopK | GroupMax) or isinstance(activation, AbsTopK | BatchTopK):
        refuse("sparsify", type(activation).__name__, "its activations are TopK and GroupMax")
    transcode = plain.kind == "transcoder"
    tensors = {
        "encoder.weight": plain.W_E,
        "encoder.bias": plain.b_E(subtracted=not transcode),
        "W_dec": plain.W_D,
        "b_dec": plain.b_D,
    }
    if plain.W_skip is not None:
        tensors["W_skip"] = plain.W_skip
    config = {
        "expansion_factor": max(1, model.n_q // model.layout.n_p),
        "normalize_decoder": True,
        "multi_topk": False,
        **source_config(metadata, "sparsify"),
        "activation": "groupmax" if isinstance(activation, GroupMax) else "topk",
        "num_latents": model.n_q,
        "k": int(activation.k),
        "skip_connection": plain.W_skip is not None,
        "transcode": transcode,
        "d_in": model.layout.n_p,
    }
    write_tensors(folder / _WEIGHTS, tensors)
    write_json(folder / _CONFIG, config)


FORMATS.add(
    "sparsify",
    Format("sparsify", "cfg.json, sae.safetensors", lambda candidate: candidate.has(_CONFIG, _WEIGHTS), read, write),
)

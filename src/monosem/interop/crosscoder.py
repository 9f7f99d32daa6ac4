"""The crosscoder of science-of-finetuning (a fork of dictionary_learning): model.safetensors or .pt; read."""

from typing import Any

import torch
from torch import Tensor

from monosem.base.errors import CheckpointError, RefusedError
from monosem.core.activations import Activation, JumpReLU, ReLU
from monosem.core.pairs import Crosscoder
from monosem.interop.build import assemble
from monosem.interop.files import Candidate, Tensors
from monosem.interop.format import FORMATS, Format, Loaded

_NORMALIZATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}
_KEYS = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}


def _file(candidate: Candidate) -> str | None:
    return "model.safetensors" if candidate.has("model.safetensors") else candidate.only("*.pt")


def _recognise(candidate: Candidate) -> bool:
    """The four tensors of a crosscoder, and an id of its code's normalisation or a number of layers."""
    name = _file(candidate)
    if name is None:
        return False
    keys = {key.rpartition("_orig_mod.")[2] for key in candidate.keys(name)}
    return keys >= _KEYS and ("code_normalization_id" in keys or "num_layers" in candidate.json("config.json"))


def read(candidate: Candidate) -> Loaded:
    """Read a ReLU or BatchTopK crosscoder; sources lie side by side in x_p and x_r.

    A BatchTopK threshold stands against latents multiplied by a norm of their decoder, so it becomes one theta per
    latent; standardised inputs are folded into the weights.
    """
    name = _file(candidate)
    assert name is not None
    where, config = str(candidate.folder / name), candidate.json("config.json")
    t = candidate.tensors(name)
    t = Tensors({key.rpartition("_orig_mod.")[2]: value for key, value in t.values.items()}, where)
    W_E, W_D = t.take("encoder.weight", 3), t.take("decoder.weight", 3)
    b_E, b_D = t.take("encoder.bias", 1), t.take("decoder.bias", 2)
    number = int(t.take("code_normalization_id", 0)) if "code_normalization_id" in t else None
    kind = (
        str(config.get("code_normalization", "CROSSCODER")).upper() if number is None else _NORMALIZATIONS.get(number)
    )
    activation, act = _activation(kind, config, t, W_D, where)
    layers, width, latents = W_E.shape
    notes: list[str] = []
    W_E, W_D, b_E, b_D = _standardised(t, W_E, W_D, b_E, b_D, notes)
    t.done()
    model = assemble(
        Crosscoder().layout(latents, (width,) * layers, (W_D.shape[2],) * W_D.shape[0]),
        activation,
        [W_E.permute(2, 0, 1).flatten(1)],
        [W_D.permute(1, 0, 2).flatten(1)],
        b_E,
        b_D.flatten(),
        where=where,
        act=act,
    )
    return Loaded(model, {"source": {"format": "crosscoder", "config": config}}, tuple(notes))


def _activation(
    kind: str | None, config: dict[str, Any], t: Tensors, W_D: Tensor, where: str
) -> tuple[Activation, dict[str, Tensor]]:
    if kind not in _NORMALIZATIONS.values():
        raise CheckpointError(f"{where}: code normalisation {kind!r} is unknown; update monosem")
    if "threshold" not in t:
        return ReLU(), {}
    t.ignore("k")
    if kind == "DECOUPLED":
        raise RefusedError(f"{where}: decoupled codes differ between sources; SDL has one code")
    threshold = t.take("threshold", 0).to(W_D.dtype).clamp(min=0.0)
    norm_sae, norm_sum = W_D.norm(dim=(0, 2)), W_D.norm(dim=2).sum(0)
    mixed = config.get("code_normalization_alpha_sae", 1.0) * norm_sae
    mixed = mixed + config.get("code_normalization_alpha_cc", 0.1) * norm_sum
    norms = {"SAE": norm_sae, "CROSSCODER": norm_sum, "MIXED": mixed, "NONE": torch.ones_like(norm_sae)}[str(kind)]
    return JumpReLU(), {"theta": torch.where(threshold > 0, threshold / norms, 0.0)}


def _standardised(
    t: Tensors, W_E: Tensor, W_D: Tensor, b_E: Tensor, b_D: Tensor, notes: list[str]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x' = (x - mean) g per source on the way in, y / (g + 1e-8) + mean on the way out; NaN means neither."""
    mean, std = t.maybe("activation_mean", 2), t.maybe("activation_std", 2)
    g = t.maybe("activation_global_scale", 1)
    target = t.maybe("target_rms", 0)
    if mean is None or std is None or bool(mean.isnan().any() or std.isnan().any()):
        return W_E, W_D, b_E, b_D
    if g is None:
        rms = 1.0 if target is None else float(target)
        g = rms / (std.pow(2).sum(-1) + 1e-8).sqrt()
    notes.append("standardised inputs folded into W_E, W_D and the biases")
    inward, outward = g.double()[:, None, None], g.double()[:, None, None] + 1e-8
    W_in = W_E.double() * inward
    b_in = b_E.double() - torch.einsum("ldf,ld->f", W_in, mean.double())
    b_out = b_D.double() / outward[:, 0] + mean.double()
    dtype = W_E.dtype
    return W_in.to(dtype), (W_D.double() / outward).to(dtype), b_in.to(dtype), b_out.to(dtype)


FORMATS.add(
    "crosscoder", Format("science-of-finetuning crosscoder", "model.safetensors or .pt, config.json", _recognise, read)
)

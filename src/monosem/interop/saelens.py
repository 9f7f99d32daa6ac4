"""SAELens, version 6 and later (older settings are upgraded first); read and write."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.base.errors import CheckpointError, RefusedError, check
from monosem.base.files import write_json
from monosem.core.activations import AbsTopK, Activation, BatchTopK, Gated, JumpReLU, ReLU, TopK
from monosem.core.dictionaries import Tied
from monosem.core.encoders import Affine
from monosem.core.folding import fold_decoder_norm, fold_input_scale, thresholds
from monosem.core.model import SDL
from monosem.core.pursuit import MatchingPursuit
from monosem.core.rownorm import RowNorm
from monosem.interop.build import (
    NAMED,
    Plain,
    assemble,
    generic_metadata,
    named,
    refuse,
    sae,
    source_config,
    transcoder,
)
from monosem.interop.files import FORMATS, Candidate, Format, Loaded, Tensors, write_tensors

_VERIFIED = "6.37.7"
"""The oldest version that has read every kind of file that `write` makes; what came from SAELens keeps its own."""
_WEIGHTS, _CONFIG = "sae_weights.safetensors", "cfg.json"
_REFUSED = {"temporal": "its code reads other tokens through attention"}
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_NORMS = {"layer_norm": RowNorm("layer_norm", 1e-5), "constant_norm_rescale": RowNorm("rms", 0.0)}


def read(candidate: Candidate) -> Loaded:
    """Read a folder with cfg.json and sae_weights.safetensors."""
    config, tensors = candidate.json(_CONFIG), candidate.tensors(_WEIGHTS)
    notes: list[str] = []
    if _is_old(config):
        config = _upgrade(config)
        notes.append("settings of a version before 6 brought to those of version 6")
    architecture = str(config.get("architecture", "standard"))
    if architecture in _REFUSED:
        raise RefusedError(f"{candidate.path}: monosem cannot express {architecture}: {_REFUSED[architecture]}")
    if architecture == "matching_pursuit":
        model = _pursuit(config, tensors, str(candidate.path))
        tensors.done()
        return Loaded(model, _metadata(config), tuple(notes), _dead(candidate))
    whitening = _whitening(candidate, config, tensors, notes)
    scaling = tensors.maybe("finetuning_scaling_factor", 1)
    W_dec = tensors.take("W_dec", 2)
    if scaling is not None:
        W_dec = W_dec * scaling[:, None]
        notes.append("finetuning_scaling_factor folded into W_D")
    if whitening is not None:
        W_dec = (W_dec.double() @ whitening[2].double()).to(W_dec.dtype)
    model = _model(architecture, config, tensors, W_dec, whitening, str(candidate.path))
    tensors.done()
    if config.get("rescale_acts_by_decoder_norm") and isinstance(model.activation, TopK):
        if whitening is not None:
            raise RefusedError(
                f"{candidate.path}: whitening with rescale_acts_by_decoder_norm; fold it in SAELens first"
            )
        model = fold_decoder_norm(model)
        notes.append("decoder norms folded into the latents, as rescale_acts_by_decoder_norm has them")
    model, unknown = _scaled(candidate, config, model, notes)
    if config.get("reshape_activations", "none") != "none":
        notes.append("reads the heads of hook_z side by side: flatten [heads, d_head]")
    return Loaded(model, _metadata(config), tuple(notes), _dead(candidate), unknown)


def _model(
    architecture: str,
    config: dict[str, Any],
    t: Tensors,
    W_dec: Tensor,
    whitening: tuple[Tensor, ...] | None,
    where: str,
) -> SDL:
    W_E = t.take("W_enc", 2, turned=True)
    b_D, shift = t.take("b_dec", 1), None
    across = architecture in _TRANSCODERS
    subtract = bool(config.get("apply_b_dec_to_input", True)) and not across
    if whitening is not None:
        mean, matrix, inverse = (w.double() for w in whitening)
        W_E = (W_E.double() @ matrix.T).to(W_E.dtype)
        b_D = (b_D.double() @ inverse + mean).to(b_D.dtype)
        shift = None if subtract else (W_E.double() @ mean).to(W_E.dtype)
    activation, b_E, act, state = _activation(architecture, config, t, shift, where)
    norm = _NORMS.get(str(config.get("normalize_activations", "none")))
    if norm is not None and across:
        norm = RowNorm(norm.kind, norm.eps, restore=False)
    return assemble(
        (transcoder if across else sae)(W_E, W_dec),
        activation,
        [W_E],
        [W_dec],
        b_E,
        b_D,
        where=where,
        pre_bias="tied" if subtract else "none",
        W_skip=t.take("W_skip", 2) if "skip" in architecture else None,
        act=act,
        state=state,
        norm=norm,
    )


def _pursuit(config: dict[str, Any], t: Tensors, where: str) -> SDL:
    """A matching pursuit, whose columns are taken as if of norm 1."""
    W_D, b_D, kind = t.take("W_dec", 2), t.take("b_dec", 1), config.get("normalize_activations", "none")
    plain = kind in ("none", None) and t.maybe("finetuning_scaling_factor", 1) is None
    check(
        plain, f"{where}: a pursuit over scaled inputs stops at another remainder; fold the scale there", RefusedError
    )
    encoder = MatchingPursuit(
        int(config.get("max_iterations") or W_D.shape[1]),
        scaled=False,
        distinct=bool(config.get("stop_on_duplicate_support", True)),
        residual=float(config.get("residual_threshold", 1e-2)),
    )
    b_D = b_D if config.get("apply_b_dec_to_input", True) else torch.zeros_like(b_D)
    nothing = b_D.new_zeros(W_D.shape[0])
    return assemble(sae(W_D, W_D), ReLU(), [W_D], [W_D], nothing, b_D, where=where, kinds=(encoder, Tied()))


def _activation(
    architecture: str, config: dict[str, Any], t: Tensors, shift: Tensor | None, where: str
) -> tuple[Activation, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """(activation, b_E, its learned parameters, its state); `shift` is what whitening takes off the encoder's bias."""

    def bias(name: str) -> Tensor:
        value = t.take(name, 1)
        return value if shift is None else value - shift

    if architecture == "gated":
        b_E, r_mag, b_mag = bias("b_gate"), t.take("r_mag", 1), t.take("b_mag", 1)
        return Gated(), b_E, {"r_mag": r_mag, "b_mag": b_mag if shift is None else b_mag - r_mag.exp() * shift}, {}
    if architecture in ("standard", "transcoder", "skip_transcoder"):
        return ReLU(), bias("b_enc"), {}, {}
    if architecture in ("topk", "abstopk"):
        return (TopK if architecture == "topk" else AbsTopK)(int(config["k"]), _ranked(config)), bias("b_enc"), {}, {}
    if architecture in ("batchtopk", "matryoshka_batchtopk"):
        activation = BatchTopK(float(config["k"]), _ranked(config), rate=float(config.get("topk_threshold_lr", 0.01)))
        return activation, bias("b_enc"), {}, {"threshold": t.take("topk_threshold", 0)}
    if architecture in ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        jump = JumpReLU(bandwidth=float(config.get("jumprelu_bandwidth", JumpReLU.bandwidth)))
        b_E = bias("b_enc")
        theta = t.take("log_threshold", 1).exp() if "log_threshold" in t else t.take("threshold", 1)
        return jump, b_E, {"theta": theta.clamp(min=0.0)}, {}  # ReLU comes with it: a negative threshold means 0
    raise CheckpointError(f"{where}/{_CONFIG}: architecture {architecture!r} is unknown; update monosem")


def _ranked(config: dict[str, Any]) -> bool:
    return bool(config.get("rescale_acts_by_decoder_norm", False))


def _whitening(candidate: Candidate, config: dict[str, Any], t: Tensors, notes: list[str]) -> tuple[Tensor, ...] | None:
    """(mean, matrix, its inverse) of z = (x - mean) @ matrix, from the file that training writes beside."""
    name = "activation_whitening.safetensors"
    if config.get("normalize_activations") != "covariance_whitening":
        return None
    if not (candidate.folder / name).is_file():
        raise RefusedError(
            f"{candidate.path}: its inputs are whitened, but {name} is not there; save the final model from SAELens, "
            "which folds the whitening into the weights"
        )
    whitening = candidate.tensors(name)
    notes.append("whitening folded into W_E, W_D and the biases")
    return whitening.take("mean", 1), whitening.take("matrix", 2), whitening.take("inverse_matrix", 2)


def _scaled(candidate: Candidate, config: dict[str, Any], model: SDL, notes: list[str]) -> tuple[SDL, str]:
    """Fold the average-norm scale of the inputs, where the format has one; or say why it is not known."""
    kind = config.get("normalize_activations", "none")
    if kind in ("none", None, "covariance_whitening", *_NORMS):
        return model, ""
    if kind != "expected_average_only_in":
        raise CheckpointError(f"{candidate.path}/{_CONFIG}: normalize_activations={kind!r} is unknown; update monosem")
    scale = candidate.json("activation_scaler.json").get("scaling_factor")
    if scale is None:
        return model, (
            "its inputs were scaled to an average norm by a factor that the file does not hold; "
            "1.0 reads it as SAELens' load_from_disk does"
        )
    if config["architecture"] in _TRANSCODERS:
        raise RefusedError(f"{candidate.path}: the scale of the input is known, that of the transcoder's output is not")
    notes.append(f"input scale {float(scale):.6g} folded into the weights")
    return fold_input_scale(model, float(scale), in_place=True), ""


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    own = _own_metadata(config)
    same = {name: own.get(name) for name in NAMED}
    layer = own.get("hook_layer") if same["layer"] is None else same["layer"]
    return named(**same | {"layer": layer}) | {"source": {"format": "saelens", "config": config}}


def _dead(candidate: Candidate) -> float | None:
    """The share of latents whose recorded firing rate is zero (log10 rates, floored at 1e-10)."""
    if not (candidate.folder / "sparsity.safetensors").is_file():
        return None
    rates = candidate.tensors("sparsity.safetensors").take("sparsity", 1, finite=False, real=True)
    return float((rates <= -9.99).double().mean())


def write(model: SDL, folder: Path, metadata: dict[str, Any]) -> None:
    """Write cfg.json and sae_weights.safetensors, an inference model of version 6."""
    plain = Plain(model, "SAELens")
    if plain.kind not in ("sae", "transcoder"):
        refuse("SAELens", f"a {plain.kind}", "it has SAEs and transcoders of one layer")
    across, tied = plain.kind == "transcoder", model.pre_bias == "tied"
    extra: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    if isinstance(model.encoder_kind, MatchingPursuit):
        architecture, tied, extra = "matching_pursuit", True, _pursuing(plain, model.encoder_kind)
    else:
        architecture, tensors = _architecture(plain, tied)
        tensors |= {"W_enc": plain.W_E.T}
    tensors |= {"W_dec": plain.W_D, "b_dec": plain.b_D}
    if isinstance(model.activation, TopK) and architecture != "jumprelu":
        extra = {"k": int(model.activation.k), "rescale_acts_by_decoder_norm": False}
    if across:
        if architecture not in ("standard", "jumprelu"):
            name = type(model.activation).__name__
            refuse("SAELens", f"a transcoder with {name}", "its transcoders have ReLU or JumpReLU")
        skip = "skip_" if plain.W_skip is not None else ""
        architecture = ("jumprelu_" if architecture == "jumprelu" else "") + skip + "transcoder"
        extra["d_out"] = model.layout.n_r
        if plain.W_skip is not None:
            tensors["W_skip"] = plain.W_skip
    else:
        plain.refuse_skip()
    before = source_config(metadata, "saelens")
    config = {
        "architecture": architecture,
        "d_in": model.layout.n_p,
        "d_sae": model.n_q,
        "dtype": str(model.b_E.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": tied,
        "normalize_activations": _norm_name(plain, across),
        "reshape_activations": before.get("reshape_activations", "none"),
        "metadata": {"sae_lens_version": _VERIFIED} | _own_metadata(before) | _described(metadata),
    }
    write_tensors(folder / _WEIGHTS, tensors)
    write_json(folder / _CONFIG, config | extra)


def _pursuing(plain: Plain, encoder: MatchingPursuit) -> dict[str, Any]:
    """A pursuit's settings."""
    if not isinstance(plain.model.activation, ReLU):
        refuse("SAELens", f"{type(plain.model.activation).__name__} after a pursuit", "it gives the code as it is")
    off = float((plain.W_D.double().norm(dim=1) - 1).abs().max())
    if encoder.scaled and off > 1e-4:
        refuse("SAELens", "a pursuit over columns of any norm", f"it takes them as of norm 1, here off by {off:.2g}")
    settings = {"max_iterations": encoder.steps, "residual_threshold": encoder.residual}
    return settings | {"stop_on_duplicate_support": encoder.distinct}


def _described(metadata: dict[str, Any]) -> dict[str, Any]:
    """What is known of the network and its texts, in SAELens' words."""
    known = generic_metadata(metadata)
    layer = known.pop("layer", None)
    return known if layer is None else known | {"hook_layer": layer}


def _architecture(plain: Plain, tied: bool) -> tuple[str, dict[str, Tensor]]:
    """What an SAE with this activation is called, and the encoder's biases and thresholds."""
    activation = plain.model.activation
    if isinstance(activation, JumpReLU | BatchTopK):
        return "jumprelu", {"threshold": thresholds(plain.model), "b_enc": plain.b_E(subtracted=tied)}
    if isinstance(activation, Gated):
        gate, mag = plain.gate(tied)
        return "gated", {"b_gate": gate, "r_mag": plain.act("r_mag"), "b_mag": mag}
    bias = {"b_enc": plain.b_E(subtracted=tied)}
    if isinstance(activation, TopK):
        plain.refuse_ranking_by_norm()
        return "abstopk" if isinstance(activation, AbsTopK) else "topk", bias
    if isinstance(activation, ReLU):
        return "standard", bias
    return refuse("SAELens", type(activation).__name__, "it has no such activation")


def _own_metadata(before: dict[str, Any]) -> dict[str, Any]:
    own = before.get("metadata")
    return dict(own) if isinstance(own, dict) else {}


def _norm_name(plain: Plain, across: bool) -> str:
    if plain.norm is None:
        return "none"
    for name, norm in _NORMS.items():
        if (norm.kind, norm.eps, not across) == (plain.norm.kind, plain.norm.eps, plain.norm.restore):
            return name
    return refuse("SAELens", f"{plain.norm}", "it has layer_norm with eps 1e-5 and constant_norm_rescale with eps 0")


FORMATS.add(
    "saelens",
    Format(
        "SAELens",
        "cfg.json, sae_weights.safetensors",
        lambda candidate: candidate.has(_CONFIG, _WEIGHTS),
        read,
        write,
        (Affine, MatchingPursuit),
    ),
)


_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
_DESCRIBING = (
    "model_name", "hook_name", "hook_layer", "hook_head_index", "model_class_name", "model_from_pretrained_kwargs",
    "prepend_bos", "dataset_path", "context_size", "neuronpedia_id", "sae_lens_training_version",
)  # fmt: skip


def _is_old(config: dict[str, Any]) -> bool:
    """Whether no version stands in the settings, or one below 6."""
    inside = config.get("metadata")
    version = config.get("sae_lens_version") or (inside.get("sae_lens_version") if isinstance(inside, dict) else None)
    major = str(version or "0").partition(".")[0]
    return not major.isdigit() or int(major) < 6


def _upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """The same model's settings in version 6: flat names to metadata, activation_fn topk to architecture topk.

    b_dec was subtracted unless the file says otherwise; a boolean normalize_activations meant the average norm.
    """
    new = {_RENAMED.get(name, name): value for name, value in config.items()}
    kwargs = new.pop("activation_fn_kwargs", None) or {}
    activation = new.pop("activation_fn", None) or "relu"
    new.setdefault("architecture", "standard")
    new.setdefault("apply_b_dec_to_input", True)
    if activation == "topk" and kwargs.get("k") is not None:
        new["architecture"], new["k"] = "topk", kwargs["k"]
    elif activation not in ("relu", "topk"):
        new["architecture"] = f"{new['architecture']} with {activation}"
    normalize = new.get("normalize_activations")
    if not isinstance(normalize, str):
        new["normalize_activations"] = "expected_average_only_in" if normalize else "none"
    if "hook_z" in str(new.get("hook_name", "")):
        new.setdefault("reshape_activations", "hook_z")
    new["metadata"] = {name: new[name] for name in _DESCRIBING if new.get(name) is not None} | _own_metadata(new)
    return new

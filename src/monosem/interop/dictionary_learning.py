"""dictionary_learning (Marks, Karvonen and Mueller), every class, read and write; its fork for crosscoders, read."""

from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.base.errors import CheckpointError, RefusedError, shortened
from monosem.base.files import write_atomic, write_json
from monosem.core.activations import AbsTopK, Activation, BatchTopK, Gated, JumpReLU, ReLU, TopK
from monosem.core.folding import thresholds
from monosem.core.model import SDL, PreBias
from monosem.core.pairs import Crosscoder
from monosem.interop.build import Plain, assemble, generic_metadata, named, refuse, sae, source_config
from monosem.interop.files import FORMATS, Candidate, Entry, Format, Loaded, Tensors

_NAME = "dictionary_learning"
_LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight"}
_KEYS = {
    "AutoEncoder": _LINEAR | {"bias"},
    "AutoEncoderNew": _LINEAR | {"decoder.bias"},
    "GatedAutoEncoder": {"encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"},
    "JumpReluAutoEncoder": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
    "AutoEncoderTopK": _LINEAR | {"b_dec", "k", "threshold"},
    "BatchTopKSAE": _LINEAR | {"b_dec", "k", "threshold"},
    "MatryoshkaBatchTopKSAE": {"W_enc", "W_dec", "b_enc", "b_dec", "k", "threshold", "group_sizes"},
}
_BIASES = ("encoder.bias", "decoder.bias", "bias", "decoder_bias", "gate_bias", "mag_bias", "b_enc", "b_dec")


def _recognise(candidate: Candidate) -> bool:
    """A .pt file whose tensors are those of one of the classes, or a backup that wraps them."""
    name = _file(candidate)
    if name is None:
        return False
    keys = set(candidate.keys(name))
    return {"ae", "step"} <= keys or any(keys >= expected for expected in _KEYS.values())


def _file(candidate: Candidate) -> str | None:
    return "ae.pt" if candidate.has("ae.pt") else candidate.only("*.pt")


def _class(config: dict[str, Any], values: dict[str, Any], where: str) -> str:
    fits = [name for name, keys in _KEYS.items() if keys == set(values)]
    trainer = config.get("trainer")
    said = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if said in fits:
        return str(said)
    if said is None and len(fits) == 1:
        return fits[0]
    _refuse_extra(values, said, where)
    if said is None and fits:
        raise CheckpointError(f"{where}: {' and '.join(fits)} look alike; keep its config.json beside it")
    raise CheckpointError(
        f"{where}: its config says {said}, its tensors are {shortened(str(sorted(values)))}; one of them is altered"
    )


def _refuse_extra(values: dict[str, Any], said: str | None, where: str) -> None:
    """Raises: CheckpointError that names what stands beside the entries of a class."""
    near = [name for name, keys in _KEYS.items() if keys < set(values) and said in (name, None)]
    if near:
        extra = shortened(str(sorted(set(values) - _KEYS[near[-1]])))
        raise CheckpointError(f"{where}: the entries of {near[-1]}, and {extra}, which that class does not have")


def read(candidate: Candidate) -> Loaded:
    """Read ae.pt; config.json says which class, where tensors alone cannot."""
    name = _file(candidate)
    assert name is not None
    where, config = str(candidate.folder / name), candidate.json("config.json")
    file = candidate.tensors(name)
    values, factors = file.values, dict[str, float]()
    notes: list[str] = []
    if {"ae", "step"} <= set(values):
        given, values = values.get("norm_factor"), values["ae"]
        if not isinstance(values, dict):
            raise CheckpointError(f"{where}: a backup without its dictionary of tensors under 'ae'")
        if given is not None:
            factor = float(given.open() if isinstance(given, Entry) else given)
            factors = _factors(values, factor)
            notes.append(f"a backup: biases and threshold multiplied by its norm factor {factor:.6g}")
    kind = _class(config, values, where)
    t = file.others(values, factors)
    metadata = _metadata(config)
    model = _linear(kind, t, where) if "encoder.weight" in t else _matrix(kind, t, where)
    if kind == "AutoEncoderTopK":
        metadata["source"]["threshold"] = float(t.take("threshold", 0))
        notes.append("its threshold is kept beside: AutoEncoderTopK does not use it by default")
    if kind == "MatryoshkaBatchTopKSAE":
        metadata["source"]["group_sizes"] = t.wholes("group_sizes")
    t.done()
    return Loaded(model, metadata, tuple(notes))


def _factors(values: dict[str, Any], factor: float) -> dict[str, float]:
    """What is multiplied by the norm factor: biases, and a threshold that is set."""
    threshold = values.get("threshold")
    is_set = isinstance(threshold, Entry) and bool((threshold.open() >= 0).all())
    return dict.fromkeys([*_BIASES, *(["threshold"] * is_set)], factor)


def _linear(kind: str, t: Tensors, where: str) -> SDL:
    W_E, W_D = t.take("encoder.weight", 2), t.take("decoder.weight", 2, turned=True)
    pre_bias: PreBias = "tied"
    act: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    activation: Activation = ReLU()
    if kind == "GatedAutoEncoder":
        activation = Gated()
        b_E, b_D = t.take("gate_bias", 1), t.take("decoder_bias", 1)
        act = {"r_mag": t.take("r_mag", 1), "b_mag": t.take("mag_bias", 1)}
    elif kind in ("AutoEncoder", "AutoEncoderNew"):
        pre_bias = "tied" if kind == "AutoEncoder" else "none"
        b_E, b_D = t.take("encoder.bias", 1), t.take("bias" if pre_bias == "tied" else "decoder.bias", 1)
    else:
        b_E, b_D, k = t.take("encoder.bias", 1), t.take("b_dec", 1), t.whole("k")
        activation = TopK(k) if kind == "AutoEncoderTopK" else BatchTopK(k)
        state = {} if kind == "AutoEncoderTopK" else {"threshold": t.take("threshold", 0)}
    return assemble(
        sae(W_E, W_D), activation, [W_E], [W_D], b_E, b_D, where=where, pre_bias=pre_bias, act=act, state=state
    )


def _matrix(kind: str, t: Tensors, where: str) -> SDL:
    W_E, W_D = t.take("W_enc", 2, turned=True), t.take("W_dec", 2)
    b_E, b_D = t.take("b_enc", 1), t.take("b_dec", 1)
    if kind == "JumpReluAutoEncoder":  # does not subtract b_dec
        theta = t.take("threshold", 1).clamp(min=0.0)
        return assemble(sae(W_E, W_D), JumpReLU(), [W_E], [W_D], b_E, b_D, where=where, act={"theta": theta})
    state = {"threshold": t.take("threshold", 0)}
    activation = BatchTopK(t.whole("k"))
    return assemble(sae(W_E, W_D), activation, [W_E], [W_D], b_E, b_D, where=where, pre_bias="tied", state=state)


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    trainer = config.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    buffer = config.get("buffer")
    context = buffer.get("ctx_len") if isinstance(buffer, dict) else None
    known = named(
        model_name=trainer.get("lm_name"),
        hook_name=trainer.get("submodule_name"),
        layer=trainer.get("layer"),
        context_size=context,
    )
    return known | {"source": {"format": _NAME, "config": config}}


def write(model: SDL, folder: Path, metadata: dict[str, Any]) -> None:
    """Write config.json and ae.pt, in the class that fits the activation."""
    plain = Plain(model, _NAME)
    if plain.kind != "sae":
        refuse(_NAME, f"a {plain.kind}", "it has autoencoders only")
    plain.refuse_norm()
    plain.refuse_skip()
    plain.refuse_ranking_by_norm()
    name, values = _class_of(plain, metadata.get("source") or {})
    known, before = generic_metadata(metadata), source_config(metadata, _NAME)
    trainer = before.get("trainer") or {
        "lm_name": known.get("model_name"),
        "submodule_name": known.get("hook_name"),
        "layer": known.get("layer"),
    }
    trainer = {**trainer, "dict_class": name, "activation_dim": model.layout.n_p, "dict_size": model.n_q}
    if isinstance(model.activation, TopK):
        trainer["k"] = int(model.activation.k)
    plain_values = OrderedDict((key, value.cpu().contiguous().clone()) for key, value in values.items())
    write_atomic(folder / "ae.pt", partial(_save, plain_values))
    buffer = {"buffer": {"ctx_len": known["context_size"]}} if "context_size" in known else {}
    write_json(folder / "config.json", {**buffer, **before, "trainer": trainer})


def _save(values: dict[str, Tensor], path: Path) -> None:
    """torch.save, whose own error on a full disk is a RuntimeError."""
    try:
        torch.save(values, path)
    except RuntimeError as error:
        raise OSError(str(error).partition("\n")[0]) from None


def _class_of(plain: Plain, source: dict[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The class that a model is there, and its tensors. Raises: RefusedError for other activations."""
    activation, tied, b_D = plain.model.activation, plain.model.pre_bias == "tied", plain.b_D
    linear = OrderedDict({"encoder.weight": plain.W_E, "decoder.weight": plain.W_D.T})
    if isinstance(activation, AbsTopK):
        refuse(_NAME, "AbsTopK", "all its activations pass positive latents only")
    if isinstance(activation, BatchTopK | TopK):
        return _top_k(plain, linear, source)
    if isinstance(activation, JumpReLU):
        matrices = {"W_enc": plain.W_E.T, "b_enc": plain.b_E(False), "W_dec": plain.W_D, "b_dec": b_D}
        return "JumpReluAutoEncoder", matrices | {"threshold": thresholds(plain.model)}
    if isinstance(activation, Gated):
        gate, mag = plain.gate()
        return "GatedAutoEncoder", linear | {
            "decoder_bias": b_D,
            "r_mag": plain.act("r_mag"),
            "gate_bias": gate,
            "mag_bias": mag,
        }
    if isinstance(activation, ReLU):
        biases = {"encoder.bias": plain.b_E(tied), "bias" if tied else "decoder.bias": b_D}
        return "AutoEncoder" if tied else "AutoEncoderNew", linear | biases
    return refuse(_NAME, type(activation).__name__, "it has no such activation")


def _top_k(plain: Plain, linear: dict[str, Tensor], source: dict[str, Any]) -> tuple[str, dict[str, Tensor]]:
    activation, groups = plain.model.activation, source.get("group_sizes")
    assert isinstance(activation, BatchTopK | TopK)
    if int(activation.k) != activation.k:
        refuse(_NAME, f"k={activation.k}", "its k is a whole number")
    batch = isinstance(activation, BatchTopK)
    threshold = plain.model.activation_state()["threshold"] if batch else torch.tensor(source.get("threshold", -1.0))
    rest = {"b_dec": plain.b_D, "k": torch.tensor(int(activation.k), dtype=torch.int)}
    rest["threshold"] = threshold.to(torch.float32)
    if batch and groups:
        matrices = {"W_enc": plain.W_E.T, "b_enc": plain.b_E(True), "W_dec": plain.W_D}
        return "MatryoshkaBatchTopKSAE", matrices | {"group_sizes": torch.tensor(groups)} | rest
    name = "BatchTopKSAE" if batch else "AutoEncoderTopK"
    return name, linear | {"encoder.bias": plain.b_E(True)} | rest


_NORMALIZATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}
_CROSSCODER_KEYS = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}


def _crosscoder_file(candidate: Candidate) -> str | None:
    return "model.safetensors" if candidate.has("model.safetensors") else candidate.only("*.pt")


def _recognise_crosscoder(candidate: Candidate) -> bool:
    """The four tensors of a crosscoder, and an id of its code's normalisation or a number of layers."""
    name = _crosscoder_file(candidate)
    if name is None:
        return False
    keys = {key.rpartition("_orig_mod.")[2] for key in candidate.keys(name)}
    return keys >= _CROSSCODER_KEYS and (
        "code_normalization_id" in keys or "num_layers" in candidate.json("config.json")
    )


def _read_crosscoder(candidate: Candidate) -> Loaded:
    """Read a ReLU or BatchTopK crosscoder; sources lie side by side in x_p and x_r.

    A BatchTopK threshold stands against latents multiplied by a norm of their decoder, so it becomes one theta per
    latent; standardised inputs are folded into the weights.
    """
    name = _crosscoder_file(candidate)
    assert name is not None
    where, config = str(candidate.folder / name), candidate.json("config.json")
    t = candidate.tensors(name)
    t = t.others({key.rpartition("_orig_mod.")[2]: value for key, value in t.values.items()})
    W_E, W_D = t.take("encoder.weight", 3), t.take("decoder.weight", 3)
    b_E, b_D = t.take("encoder.bias", 1), t.take("decoder.bias", 2)
    number = t.whole("code_normalization_id") if "code_normalization_id" in t else None
    kind = (
        str(config.get("code_normalization", "CROSSCODER")).upper() if number is None else _NORMALIZATIONS.get(number)
    )
    activation, act = _crosscoder_activation(kind, config, t, W_D, where)
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


def _crosscoder_activation(
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
    mean, std = (t.maybe(name, 2, finite=False, real=True) for name in ("activation_mean", "activation_std"))
    g = t.maybe("activation_global_scale", 1)
    target = t.maybe("target_rms", 0)
    if mean is None or std is None or bool(mean.isnan().any() or std.isnan().any()):
        return W_E, W_D, b_E, b_D
    if W_E.is_meta:
        notes.append("standardised inputs folded into W_E, W_D and the biases")
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
    "crosscoder",
    Format(
        "science-of-finetuning crosscoder",
        "model.safetensors or .pt, config.json",
        _recognise_crosscoder,
        _read_crosscoder,
    ),
)


FORMATS.add(
    _NAME, Format("dictionary_learning", "ae.pt (or any .pt of its classes), config.json", _recognise, read, write)
)

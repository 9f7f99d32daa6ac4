"""circuit-tracer: a folder of per-layer transcoders, or a cross-layer transcoder; read and write.

A set is one model here: one block per layer, x_p and x_r the layers side by side. One layer_i.safetensors
alone is a plain transcoder.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.base.errors import CheckpointError, RefusedError, check
from monosem.base.files import plain_file, write_atomic
from monosem.core.activations import Activation, BatchTopK, JumpReLU, ReLU
from monosem.core.folding import encoder_bias, thresholds
from monosem.core.model import SDL
from monosem.core.pairs import CrossLayer
from monosem.core.rownorm import RowNormSDL
from monosem.interop.build import (
    Kind,
    assemble,
    block_diagonal,
    generic_metadata,
    kind_of,
    layered,
    named,
    refuse,
    source_config,
)
from monosem.interop.files import FORMATS, LARGEST_CONFIG, Candidate, Format, Loaded, TensorFiles, write_tensors

_NAME, _UNKNOWN = "circuit_tracer", "unknown"
_LARGEST_SKIP = 2**28
"""Entries of a dense W_skip over all layers of a set, above which the set is read layer by layer."""


def _recognise(candidate: Candidate) -> bool:
    """layer_0.safetensors and so on, or W_enc_0.safetensors and W_dec_0.safetensors."""
    if candidate.has("W_enc_0.safetensors", "W_dec_0.safetensors") and candidate.path.is_dir():
        return True
    layers = candidate.names("layer_*.safetensors")
    return bool(layers) and {"W_enc", "W_dec", "b_enc", "b_dec"} <= candidate.keys(layers[0])


def read(candidate: Candidate) -> Loaded:
    """Read a set, one layer of it, or a cross-layer transcoder."""
    config = read_yaml(candidate.folder / "config.yaml")
    cross = candidate.path.is_dir() and candidate.has("W_enc_0.safetensors")
    model = _read_cross(candidate) if cross else _read_set(candidate)
    names = {"model_name": "model_name", "hook_name": "feature_input_hook", "hook_name_out": "feature_output_hook"}
    said = {name: config.get(key) for name, key in names.items()}
    known = named(**{name: value for name, value in said.items() if value != _UNKNOWN})
    return Loaded(model, known | {"source": {"format": _NAME, "config": config}})


def _numbered(candidate: Candidate, stem: str) -> list[str]:
    names = candidate.names(f"{stem}_*.safetensors")
    if candidate.path.is_dir() and names != [f"{stem}_{i}.safetensors" for i in range(len(names))]:
        raise CheckpointError(
            f"{candidate.path}: {names} are not layers 0 to {len(names) - 1}; a layer's file is missing"
        )
    return names


def _read_set(candidate: Candidate) -> SDL:
    where = str(candidate.path)
    t = TensorFiles([candidate.tensors(name) for name in _numbered(candidate, "layer")])
    W_E, W_D = t.take("W_enc", 2), t.take("W_dec", 2)
    b_E, b_D = torch.cat(t.take("b_enc", 1)), torch.cat(t.take("b_dec", 1))
    activation, act = _activation(t.maybe("activation_function.threshold", 1, where))
    skips = t.maybe("W_skip", 2, where)
    t.done()
    if len({w.shape for w in W_E}) + len({w.shape for w in W_D}) > 2:
        raise CheckpointError(f"{where}: its layers differ in size; read them one by one")
    if skips and (entries := skips[0].numel() * len(skips) ** 2) > _LARGEST_SKIP:
        raise RefusedError(f"{where}: its skips side by side are {entries} numbers; read layer_i.safetensors alone")
    W_skip = block_diagonal(skips) if skips else None
    layout = layered(len(t), W_E[0].shape[0], W_E[0].shape[1], W_D[0].shape[1])
    return assemble(layout, activation, W_E, W_D, b_E, b_D, where=where, W_skip=W_skip, act=act)


def _activation(theta: list[Tensor] | None) -> tuple[Activation, dict[str, Tensor]]:
    return (ReLU(), {}) if theta is None else (JumpReLU(), {"theta": torch.cat(theta)})


def _read_cross(candidate: Candidate) -> SDL:
    where = str(candidate.path)
    count = len(_numbered(candidate, "W_enc"))
    if len(_numbered(candidate, "W_dec")) != count:
        raise CheckpointError(f"{where}: {count} encoders, but another number of decoders; a layer's file is missing")
    names = [(f"W_enc_{i}.safetensors", f"W_dec_{i}.safetensors") for i in range(count)]
    t = TensorFiles([candidate.tensors(*pair) for pair in names])
    W_E, W_D = t.take("W_enc_{}", 2), t.take("W_dec_{}", 3)
    b_E, b_D = torch.cat(t.take("b_enc_{}", 1)), torch.cat(t.take("b_dec_{}", 1))
    activation, act = _activation(t.maybe("threshold_{}", 1, where))
    t.done()
    latents, width = W_E[0].shape
    layout = CrossLayer().layout(count * latents, (width,) * count, (W_D[0].shape[2],) * count)
    return assemble(layout, activation, W_E, [w.flatten(1) for w in W_D], b_E, b_D, where=where, act=act)


def write(model: SDL, folder: Path, metadata: dict[str, Any]) -> None:
    """Write config.yaml and one file per layer (two for a cross-layer transcoder)."""
    kind = _writable(model)
    layers, width = len(model.layout.p_widths), model.layout.p_widths[0]
    theta = None if isinstance(model.activation, ReLU) else thresholds(model, relu=False).chunk(layers)
    b_E, b_D, skips = (
        encoder_bias(model).chunk(layers),
        model.b_D.detach().chunk(layers),
        _diagonal(model, layers, width),
    )
    for i, (W_E, W_D) in enumerate(zip(model.encoder.weights, model.decoder.weights, strict=True)):
        if kind == "cross_layer":
            tensors = {f"W_enc_{i}": W_E, f"b_enc_{i}": b_E[i], f"b_dec_{i}": b_D[i]}
            tensors |= {} if theta is None else {f"threshold_{i}": theta[i]}
            write_tensors(folder / f"W_enc_{i}.safetensors", tensors)
            decoder = {f"W_dec_{i}": W_D.reshape(W_D.shape[0], layers - i, width)}
            write_tensors(folder / f"W_dec_{i}.safetensors", decoder)
            continue
        tensors = {"W_enc": W_E, "W_dec": W_D, "b_enc": b_E[i], "b_dec": b_D[i]}
        tensors |= {} if theta is None else {"activation_function.threshold": theta[i]}
        tensors |= {"W_skip": skips[i]} if skips else {}
        write_tensors(folder / f"layer_{i}.safetensors", tensors)
    known = generic_metadata(metadata)
    config = {
        "model_name": known.get("model_name", _UNKNOWN),
        "feature_input_hook": known.get("hook_name", _UNKNOWN),
        "feature_output_hook": known.get("hook_name_out", _UNKNOWN),
        "scan": known.get("model_name", _UNKNOWN),
        **source_config(metadata, _NAME),
        "model_kind": "cross_layer_transcoder" if kind == "cross_layer" else "transcoder_set",
    }
    config.pop("transcoders", None)
    write_atomic(folder / "config.yaml", write_yaml(config).encode())


def _writable(model: SDL) -> Kind:
    """What a model is, if circuit-tracer can express it. Raises: RefusedError with the reason."""
    kind, layout = kind_of(model), model.layout
    if kind not in ("transcoder", "transcoder_set", "cross_layer"):
        refuse("circuit-tracer", f"a {kind}", "it has transcoders, per layer or across layers")
    if len({*layout.p_widths, *layout.r_widths}) > 1:
        refuse("circuit-tracer", f"widths {layout.p_widths} and {layout.r_widths}", "both sides have the model's width")
    if isinstance(model, RowNormSDL):
        refuse("circuit-tracer", "per-row normalisation", "it reads the input as it is")
    if not isinstance(model.activation, ReLU | JumpReLU | BatchTopK):
        refuse("circuit-tracer", type(model.activation).__name__, "its files hold ReLU or thresholds")
    if kind == "cross_layer" and model.W_skip is not None:
        refuse("circuit-tracer", "W_skip of a cross-layer transcoder", "its files have no place for it")
    return kind


def _diagonal(model: SDL, layers: int, width: int) -> list[Tensor]:
    if model.W_skip is None:
        return []
    tiles = model.W_skip.detach().reshape(layers, width, layers, width).transpose(1, 2)
    apart = all(i == j or not bool(tiles[i, j].any()) for i in range(layers) for j in range(layers))
    check(apart, "W_skip crosses layers; circuit-tracer's sets have one skip per layer", RefusedError)
    return [tiles[i, i] for i in range(layers)]


FORMATS.add(
    _NAME,
    Format("circuit-tracer", "layer_i.safetensors, or W_enc_i and W_dec_i; config.yaml", _recognise, read, write),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read top-level `name: scalar` and lists of scalars, the little YAML that config.yaml needs; {} without a file.

    Raises: CheckpointError for anything deeper: it is not guessed at.
    """
    if not path.is_file():
        return {}
    try:
        plain_file(path, LARGEST_CONFIG)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable text ({error}); restore it or delete it") from None
    config: dict[str, Any] = {}
    items: list[Any] | None = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text in ("", "---") or text.startswith("#"):
            continue
        if text.startswith("- ") and items is not None:
            items.append(_scalar(text[2:]))
            continue
        name, value = _pair(line, f"{path}, line {number}")
        items = None if value else []
        config[_scalar(name)] = _scalar(value) if value else items
    return config


def _pair(line: str, where: str) -> tuple[str, str]:
    """The name and the value, which may be empty, of a line without indentation."""
    name, colon, value = line.strip().partition(":")
    if line[0] in " \t" or not colon or (value and value[0] != " "):
        raise CheckpointError(f"{where}: {line.strip()[:60]!r} is not `name: value`; restore it or delete it")
    return name, value.strip()


def _scalar(text: str) -> Any:
    text = text.strip()
    if text[:1] not in ("'", '"'):
        text = text.partition(" #")[0].strip()
    if text in ("", "~", "null"):
        return None
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def write_yaml(config: dict[str, Any]) -> str:
    """Scalars and lists of scalars as YAML; strings are quoted, which every reader understands."""
    lines = []
    for name, value in config.items():
        if isinstance(value, list):
            lines += [f"{name}:", *(f"- {json.dumps(item)}" for item in value)]
        else:
            lines.append(f"{name}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"

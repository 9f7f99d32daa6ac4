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
from monosem.base.files import write_atomic
from monosem.core.activations import BatchTopK, JumpReLU, ReLU
from monosem.core.model import SDL
from monosem.core.pairs import CrossLayer
from monosem.core.rownorm import RowNormSDL
from monosem.interop.build import assemble, block_diagonal, layered
from monosem.interop.files import Candidate, write_tensors
from monosem.interop.folding import encoder_bias, thresholds
from monosem.interop.format import FORMATS, Format, Loaded
from monosem.interop.plain import generic_metadata, kind_of, refuse, source_config

_NAME = "circuit_tracer"
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
    names = {"hook_name": config.get("feature_input_hook"), "hook_name_out": config.get("feature_output_hook")}
    names = {"model_name": config.get("model_name")} | names
    return Loaded(model, {k: v for k, v in names.items() if v} | {"source": {"format": _NAME, "config": config}})


def _stack(parts: list[Tensor | None], what: str, where: str) -> Tensor | None:
    present = [part for part in parts if part is not None]
    if len(present) not in (0, len(parts)):
        raise CheckpointError(f"{where}: {what} stands in some layers only")
    return torch.cat(present) if present else None


def _numbered(candidate: Candidate, stem: str) -> list[str]:
    names = candidate.names(f"{stem}_*.safetensors")
    if candidate.path.is_dir() and names != [f"{stem}_{i}.safetensors" for i in range(len(names))]:
        raise CheckpointError(
            f"{candidate.path}: {names} are not layers 0 to {len(names) - 1}; a layer's file is missing"
        )
    return names


def _read_set(candidate: Candidate) -> SDL:
    where, layers = str(candidate.path), [candidate.tensors(name) for name in _numbered(candidate, "layer")]
    W_E, W_D = [t.take("W_enc", 2) for t in layers], [t.take("W_dec", 2) for t in layers]
    b_E, b_D = [t.take("b_enc", 1) for t in layers], [t.take("b_dec", 1) for t in layers]
    theta = _stack([t.maybe("activation_function.threshold", 1) for t in layers], "a threshold", where)
    skips = [t.maybe("W_skip", 2) for t in layers]
    for t in layers:
        t.done()
    if len({w.shape for w in W_E}) + len({w.shape for w in W_D}) > 2:
        raise CheckpointError(f"{where}: its layers differ in size; read them one by one")
    W_skip = None
    if _stack(skips, "W_skip", where) is not None:
        n_p, n_r = W_E[0].shape[1], W_D[0].shape[1]
        if (entries := n_p * n_r * len(layers) ** 2) > _LARGEST_SKIP:
            raise RefusedError(f"{where}: its skips side by side are {entries} numbers; read layer_i.safetensors alone")
        W_skip = block_diagonal([skip for skip in skips if skip is not None])
    layout = layered(len(layers), W_E[0].shape[0], W_E[0].shape[1], W_D[0].shape[1])
    activation, act = (ReLU(), {}) if theta is None else (JumpReLU(), {"theta": theta})
    return assemble(layout, activation, W_E, W_D, torch.cat(b_E), torch.cat(b_D), where=where, W_skip=W_skip, act=act)


def _read_cross(candidate: Candidate) -> SDL:
    where = str(candidate.path)
    count = len(_numbered(candidate, "W_enc"))
    if len(_numbered(candidate, "W_dec")) != count:
        raise CheckpointError(f"{where}: {count} encoders, but another number of decoders; a layer's file is missing")
    layers = [candidate.tensors(f"W_enc_{i}.safetensors", f"W_dec_{i}.safetensors") for i in range(count)]
    W_E = [t.take(f"W_enc_{i}", 2) for i, t in enumerate(layers)]
    W_D = [t.take(f"W_dec_{i}", 3) for i, t in enumerate(layers)]
    b_E = [t.take(f"b_enc_{i}", 1) for i, t in enumerate(layers)]
    b_D = [t.take(f"b_dec_{i}", 1) for i, t in enumerate(layers)]
    theta = _stack([t.maybe(f"threshold_{i}", 1) for i, t in enumerate(layers)], "a threshold", where)
    for t in layers:
        t.done()
    latents, width = W_E[0].shape
    layout = CrossLayer().layout(count * latents, (width,) * count, (W_D[0].shape[2],) * count)
    activation, act = (ReLU(), {}) if theta is None else (JumpReLU(), {"theta": theta})
    decoder = [w.flatten(1) for w in W_D]
    return assemble(layout, activation, W_E, decoder, torch.cat(b_E), torch.cat(b_D), where=where, act=act)


def write(model: SDL, folder: Path, metadata: dict[str, Any]) -> None:
    """Write config.yaml and one file per layer (two for a cross-layer transcoder)."""
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
    layers, width = len(layout.p_widths), layout.p_widths[0]
    b_E, b_D = encoder_bias(model).chunk(layers), model.b_D.detach().chunk(layers)
    theta = None if isinstance(model.activation, ReLU) else thresholds(model, relu=False).chunk(layers)
    skips = _diagonal(model, layers, width)
    for i in range(layers):
        W_E, W_D = model.encoder.weights[i], model.decoder.weights[i]
        if kind == "cross_layer":
            tensors = {f"W_enc_{i}": W_E, f"b_enc_{i}": b_E[i], f"b_dec_{i}": b_D[i]}
            if theta is not None:
                tensors[f"threshold_{i}"] = theta[i]
            write_tensors(folder / f"W_enc_{i}.safetensors", tensors)
            write_tensors(
                folder / f"W_dec_{i}.safetensors", {f"W_dec_{i}": W_D.reshape(W_D.shape[0], layers - i, width)}
            )
            continue
        tensors = {"W_enc": W_E, "W_dec": W_D, "b_enc": b_E[i], "b_dec": b_D[i]}
        if theta is not None:
            tensors["activation_function.threshold"] = theta[i]
        if skips:
            tensors["W_skip"] = skips[i]
        write_tensors(folder / f"layer_{i}.safetensors", tensors)
    named = generic_metadata(metadata)
    config = {
        "model_name": named.get("model_name", "unknown"),
        "feature_input_hook": named.get("hook_name", "hook_resid_mid"),
        "feature_output_hook": named.get("hook_name_out", "hook_mlp_out"),
        "scan": named.get("model_name", "unknown"),
        **source_config(metadata, _NAME),
        "model_kind": "cross_layer_transcoder" if kind == "cross_layer" else "transcoder_set",
    }
    config.pop("transcoders", None)
    write_atomic(folder / "config.yaml", write_yaml(config).encode())


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
    """Read top-level `name: scalar` and lists of scalars; {} where there is no file.

    Raises: CheckpointError for anything deeper: it is not guessed at.
    """
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable text ({error}); restore it or delete it") from None
    config: dict[str, Any] = {}
    items: list[Any] | None = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#") or text == "---":
            continue
        if text.startswith("- ") and items is not None:
            items.append(_scalar(text[2:]))
            continue
        name, colon, value = text.partition(":")
        if line[0] in " \t" or not colon or (value and value[0] != " "):
            raise CheckpointError(f"{path}, line {number}: {text[:60]!r} is not `name: value`; restore it or delete it")
        value = value.strip()
        items = [] if not value else None
        config[_scalar(name)] = items if items is not None else _scalar(value)
    return config


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

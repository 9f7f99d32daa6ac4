"""Gemma Scope 1 (params.npz) and 2 (params.safetensors, transcoders and cross-layer transcoders too); read."""

import re

import torch
from torch import Tensor

from monosem.base.errors import CheckpointError, RefusedError
from monosem.core.activations import JumpReLU
from monosem.core.model import SDL
from monosem.core.pairs import CrossLayer
from monosem.interop.build import assemble, block_diagonal, sae, transcoder
from monosem.interop.files import FORMATS, Candidate, Format, Loaded, TensorFiles, Tensors

_FIRST, _SECOND = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}, {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"}


def _first(candidate: Candidate) -> str | None:
    return candidate.only("*.npz")


def _recognise_first(candidate: Candidate) -> bool:
    """One .npz file with the five arrays (the earliest ones write w_enc)."""
    name = _first(candidate)
    return name is not None and {key.lower() for key in _FIRST} <= {key.lower() for key in candidate.keys(name)}


def _read_first(candidate: Candidate) -> Loaded:
    """Read params.npz: JumpReLU, b_dec not subtracted. The path says whether it is a transcoder or of the embedding."""
    name = _first(candidate)
    assert name is not None
    path = candidate.folder / name
    t = candidate.tensors(name)
    t = t.others({key.replace("w_", "W_"): value for key, value in t.values.items()})
    W_E, W_D = t.take("W_enc", 2, turned=True), t.take("W_dec", 2)
    notes: list[str] = []
    scaling = t.maybe("scaling_factor", 1)
    if scaling is not None:
        W_D = W_D * scaling[:, None]
        notes.append("scaling_factor folded into W_D")
    across = "transcoder" in str(path.absolute())
    model = _jumprelu(t, W_E, W_D, t.take("b_dec", 1), across, None, str(path))
    unknown = ""
    if "embedding" in str(path.absolute()):
        unknown = (
            f"Gemma multiplies embeddings by sqrt(n_p); give {W_E.shape[1] ** -0.5:.6g} to read multiplied ones, else 1"
        )
    return Loaded(model, {"source": {"format": "gemma_scope", "config": {}}}, tuple(notes), unknown_scale=unknown)


def _jumprelu(
    t: Tensors, W_E: Tensor, W_D: Tensor, b_D: Tensor, across: bool, W_skip: Tensor | None, where: str
) -> SDL:
    b_E, theta = t.take("b_enc", 1), t.take("threshold", 1).clamp(min=0.0)
    t.done()
    layout = (transcoder if across else sae)(W_E, W_D)
    return assemble(layout, JumpReLU(), [W_E], [W_D], b_E, b_D, where=where, W_skip=W_skip, act={"theta": theta})


def _second(candidate: Candidate) -> list[str]:
    return [name for name in candidate.names("*.safetensors") if candidate.keys(name) >= _SECOND]


def _recognise_second(candidate: Candidate) -> bool:
    """Safetensors with w_enc, w_dec and a threshold."""
    return bool(_second(candidate))


def _read_second(candidate: Candidate) -> Loaded:
    """Read params.safetensors; or a folder of one file per layer, a cross-layer transcoder."""
    names, config = _second(candidate), candidate.json("config.json")
    metadata = {
        "model_name": config.get("model_name"),
        "hook_name": config.get("hf_hook_point_in"),
        "hook_name_out": config.get("hf_hook_point_out"),
    }
    metadata = {k: v for k, v in metadata.items() if v} | {"source": {"format": "gemma_scope_2", "config": config}}
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise CheckpointError(f"{candidate.path}: architecture {config['architecture']!r} is unknown; update monosem")
    path = candidate.folder / names[0]
    t = candidate.tensors(names[0])
    if getattr(t.values["w_dec"], "ndim", 0) == 3:
        return Loaded(_cross_layer(candidate, names), metadata)
    if len(names) > 1:
        raise CheckpointError(f"{candidate.path} holds {len(names)} models ({', '.join(names[:3])} ...); give one file")
    skip = t.maybe("affine_skip_connection", 2)
    across = skip is not None or "hf_hook_point_out" in config or "transcoder" in str(path.absolute())
    W_E, W_D, b_D = t.take("w_enc", 2, turned=True), t.take("w_dec", 2), t.take("b_dec", 1)
    return Loaded(_jumprelu(t, W_E, W_D, b_D, across, None if skip is None else skip.T, str(path)), metadata)


def _cross_layer(candidate: Candidate, names: list[str]) -> SDL:
    """The files' order is their last number; each holds one source layer's latents and its decoders to all layers."""
    names = sorted(names, key=lambda name: [int(digits) for digits in re.findall(r"\d+", name)][-1:])
    where, t = str(candidate.path), TensorFiles([candidate.tensors(name) for name in names])
    decoder = [_forward(file.take("w_dec", 3), i, names, where) for i, file in enumerate(t.files)]
    W_E = t.take("w_enc", 2, turned=True)
    b_E, b_D = (torch.cat(t.take(name, 1)) for name in ("b_enc", "b_dec"))
    theta = torch.cat(t.take("threshold", 1)).clamp(min=0.0)
    skips = t.maybe("affine_skip_connection", 2, where)
    t.done()
    layers = len(t)
    latents, width = W_E[0].shape
    layout = CrossLayer().layout(layers * latents, (width,) * layers, (decoder[-1].shape[1],) * layers)
    W_skip = None if skips is None else block_diagonal([skip.T for skip in skips])
    return assemble(layout, JumpReLU(), W_E, decoder, b_E, b_D, where=where, W_skip=W_skip, act={"theta": theta})


def _forward(w: Tensor, layer: int, names: list[str], where: str) -> Tensor:
    """The decoders of a layer's latents [latents, layers, width] to its own layer and later ones, side by side.

    Raises: RefusedError where a layer has no file, or where it writes to a layer before its own.
    """
    if w.shape[1] != len(names):
        text = f"{where}: {len(names)} file(s), but its latents write to {w.shape[1]} layers"
        raise RefusedError(f"{text}; give the folder with all of them")
    if layer and not w.is_meta and bool(w[:, :layer].any()):
        raise RefusedError(f"{where}: {names[layer]} writes to layers before its own, which no cross-layer layout has")
    return w[:, layer:].flatten(1).contiguous()


FORMATS.add("gemma_scope", Format("Gemma Scope 1", "params.npz", _recognise_first, _read_first))
FORMATS.add("gemma_scope_2", Format("Gemma Scope 2", "params.safetensors", _recognise_second, _read_second))

"""llamascopium (was lm-saes): SAEs, transcoders, crosscoders, cross-layer ones; Llama Scope's first release; read."""

import math
from typing import Any

import torch
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.errors import CheckpointError, RefusedError
from monosem.core.activations import Activation, JumpReLU, ReLU, TopK
from monosem.core.folding import fold_input_scale
from monosem.core.pairs import Crosscoder, CrossLayer, Layout
from monosem.core.rownorm import RowNorm
from monosem.core.units import ROWS
from monosem.interop.build import assemble, sae, transcoder
from monosem.interop.files import FORMATS, Candidate, Format, Loaded, Tensors

_NORM = "dataset_average_activation_norm."
_THRESHOLD = "activation_function.log_jumprelu_threshold"


def _weights(candidate: Candidate) -> str | None:
    return next((n for n in ("sae_weights.safetensors", "sae_weights.pt") if candidate.has("config.json", n)), None)


def _recognise(candidate: Candidate) -> bool:
    """config.json with sae_type, and sae_weights."""
    return _weights(candidate) is not None and "sae_type" in candidate.json("config.json")


def read(candidate: Candidate) -> Loaded:
    """Read a pretrained folder. Latents are those of the (normalised) training, x_r_hat in the units of the data."""
    config, name = candidate.json("config.json"), _weights(candidate)
    assert name is not None
    where, t = str(candidate.path), candidate.tensors(name)
    t = t.others(t.values.get("sae", {})) if name.endswith(".pt") else t
    norms = _norms(t)
    if config.get("use_glu_encoder") or "W_E_glu" in t:
        raise RefusedError(f"{where}: a gated linear unit in the encoder multiplies two linear maps; SDL has one")
    hooks_in, hooks_out = _hooks(config)
    kind, how = config["sae_type"], _normalisation(config, hooks_in == hooks_out, where)
    scale_in, scale_out = [1.0] * len(hooks_in), [1.0] * len(hooks_out)
    if how == "dataset-wise":
        scale_in, scale_out = (_scales(hooks, norms, int(config["d_model"]), where) for hooks in (hooks_in, hooks_out))
    layout, W_E, W_D, b_E, b_D = _parts(kind, config, t, hooks_in == hooks_out)
    activation, act = _activation(config, t, layout, kind, W_D, where)
    t.done()
    if kind == "crosscoder" and isinstance(activation, JumpReLU):
        layout, W_E, W_D, b_E = _per_head(layout, W_E[0], W_D[0], b_E)
    W_E = _columns(W_E, layout.encoder, layout.p_widths, scale_in, 1)
    W_D = _columns(W_D, layout.decoder, layout.r_widths, scale_out, -1)
    (b_D,) = _columns([b_D[None]], (Block(0, 1, 0, layout.n_r),), layout.r_widths, scale_out, -1)
    norm = RowNorm("rms", 0.0) if how == "token-wise" else None
    model = assemble(layout, activation, W_E, W_D, b_E, b_D[0], where=where, act=act, norm=norm)
    notes = ("average norms folded into W_E, W_D and b_D",) if how == "dataset-wise" else ()
    metadata = {"hook_name": hooks_in[0], "hook_name_out": hooks_out[0]} if kind == "sae" else {}
    return Loaded(model, metadata | {"source": {"format": "llamascopium", "config": config}}, notes)


def _norms(t: Tensors) -> dict[str, Tensor]:
    """The average norms by hook."""
    return {key.removeprefix(_NORM): t.take(key, 0) for key in list(t.values) if key.startswith(_NORM)}


def _normalisation(config: dict[str, Any], same: bool, where: str) -> str:
    """How inputs were normalised; refused with the kinds of dictionary that SDL cannot express."""
    kind, how = config["sae_type"], str(config.get("norm_activation", "dataset-wise"))
    if kind not in ("sae", "crosscoder", "clt"):
        raise RefusedError(f"{where}: sae_type {kind!r} is no sparse dictionary of one encoder and one decoder")
    if how == "batch-wise" or (how == "token-wise" and not (kind == "sae" and same)):
        raise RefusedError(f"{where}: norm_activation={how!r} makes the answer depend on more than its own input row")
    return how


def _scales(hooks: list[str], norms: dict[str, Tensor], width: int, where: str) -> list[float]:
    """sqrt(width) over the average norm at each hook."""
    for hook in hooks:
        if hook not in norms:
            raise CheckpointError(f"{where}: no average norm for {hook}, which norm_activation='dataset-wise' needs")
    return [math.sqrt(width) / float(norms[hook]) for hook in hooks]


def _hooks(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    if config["sae_type"] == "sae":
        return [config["hook_point_in"]], [config["hook_point_out"]]
    if config["sae_type"] == "crosscoder":
        return list(config["hook_points"]), list(config["hook_points"])
    return list(config.get("hook_points_in", ())), list(config.get("hook_points_out", ()))


def _parts(
    kind: str, config: dict[str, Any], t: Tensors, same: bool
) -> tuple[Layout, list[Tensor], list[Tensor], Tensor, Tensor]:
    """Layout, W_E and W_D by block, b_E [n_q], b_D [n_r] as stored."""
    if kind == "sae":
        W_E, W_D, b_E = t.take("W_E", 2, turned=True), t.take("W_D", 2), t.take("b_E", 1)
        b_D = t.take("b_D", 1) if config.get("use_decoder_bias", True) else W_D.new_zeros(W_D.shape[1])
        return (sae if same else transcoder)(W_E, W_D), [W_E], [W_D], b_E, b_D
    W_E3, b_E = t.take("W_E", 3), t.take("b_E", 2)
    heads, width, latents = W_E3.shape
    widths = (width,) * heads
    if kind == "crosscoder":
        W_D, b_D = t.take("W_D", 3), t.take("b_D", 2).flatten()
        layout = Crosscoder().layout(latents, widths, widths)
        return layout, [W_E3.permute(2, 0, 1).flatten(1)], [W_D.permute(1, 0, 2).flatten(1)], b_E.sum(0), b_D
    targets = [t.take(f"W_D.{i}", 3) for i in range(heads)]  # W_D.i [i + 1, latents, width], by target layer
    b_D = torch.cat([t.take(f"b_D.{i}", 1) for i in range(heads)])
    decoder = [torch.cat([targets[j][i] for j in range(i, heads)], dim=1) for i in range(heads)]
    return CrossLayer().layout(heads * latents, widths, widths), list(W_E3.mT), decoder, b_E.flatten(), b_D


def _activation(
    config: dict[str, Any], t: Tensors, layout: Layout, kind: str, W_D: list[Tensor], where: str
) -> tuple[Activation, dict[str, Tensor]]:
    name, with_norm = str(config.get("act_fn", "relu")).lower(), bool(config.get("sparsity_include_decoder_norm", True))
    if name == "relu":
        return ReLU(), {}
    if name == "jumprelu":
        log_theta = t.take(_THRESHOLD, 2 if kind == "clt" else 1)
        theta = log_theta.exp().flatten()
        if kind == "crosscoder":  # every head has its own gate, at its own norm
            norms = W_D[0].reshape(layout.n_q, len(layout.r_widths), -1).norm(dim=2).T
            return JumpReLU(), {"theta": (theta / norms).flatten()}
        return JumpReLU(), {"theta": theta / torch.cat([w.norm(dim=1) for w in W_D]) if with_norm else theta}
    if name == "topk" and kind == "sae":
        return TopK(int(config["top_k"]), rank_by_norm=with_norm), {}
    raise RefusedError(f"{where}: act_fn={name!r} of a {kind} depends on the batch or on each head's own ranking")


def _per_head(
    layout: Layout, W_E: Tensor, W_D: Tensor, b_E: Tensor
) -> tuple[Layout, list[Tensor], list[Tensor], Tensor]:
    """Each head gates on its own, so each gets its own copy of the latents: same encoder, that head's decoder."""
    heads, n_q, width = len(layout.r_widths), layout.n_q, layout.r_widths[0]
    decoder = tuple(Block(h * n_q, (h + 1) * n_q, h * width, (h + 1) * width) for h in range(heads))
    whole = (Block(0, heads * n_q, 0, layout.n_p),)
    split = Layout(heads * n_q, layout.p_widths, layout.r_widths, whole, decoder, shared=True)
    return split, [W_E.repeat(heads, 1)], list(W_D.chunk(heads, dim=1)), b_E.repeat(heads)


def _columns(
    parts: list[Tensor], blocks: tuple[Block, ...], widths: tuple[int, ...], scales: list[float], power: int
) -> list[Tensor]:
    """Multiply the columns of each source by scale^power, block by block, a few rows at a time."""
    factors = torch.cat([torch.full((n,), s, dtype=torch.float64) for n, s in zip(widths, scales, strict=True)])
    factors = factors if power > 0 else 1 / factors
    for w, block in zip(parts, blocks, strict=True):
        for rows in torch.split(w, ROWS) if not w.is_meta else ():
            rows.copy_(rows.double() * factors[block.columns])
    return parts


def _recognise_first(candidate: Candidate) -> bool:
    """hyperparams.json with a threshold, and checkpoints/final.safetensors."""
    return candidate.path.is_dir() and candidate.has("hyperparams.json", "checkpoints/final.safetensors")


def _read_first(candidate: Candidate) -> Loaded:
    """Read Llama Scope's first release: the one threshold stands in raw units, so it is scaled as the weights are."""
    config, t = candidate.json("hyperparams.json"), candidate.tensors("checkpoints/final.safetensors")
    W_E, W_D = t.take("encoder.weight", 2), t.take("decoder.weight", 2, turned=True)
    b_E, b_D = t.take("encoder.bias", 1), t.take("decoder.bias", 1)
    t.done()
    norm = config["dataset_average_activation_norm"]
    if norm.get("out", norm["in"]) != norm["in"]:
        raise RefusedError(f"{candidate.path}: two average norms, {norm}; this reader knows SAEs only")
    scale = math.sqrt(W_E.shape[1]) / float(norm["in"])
    theta = torch.full((W_E.shape[0],), float(config["jump_relu_threshold"]) * scale, dtype=W_E.dtype)
    model = assemble(sae(W_E, W_D), JumpReLU(), [W_E], [W_D], b_E, b_D, where=str(candidate.path), act={"theta": theta})
    notes = (f"input scale {scale:.6g} folded into the weights",)
    metadata = {"source": {"format": "llama_scope", "config": config}}
    if config.get("hook_point_in"):
        metadata |= {"hook_name": config["hook_point_in"]}
    return Loaded(fold_input_scale(model, scale, in_place=True), metadata, notes)


FORMATS.add("llamascopium", Format("llamascopium", "config.json (sae_type), sae_weights", _recognise, read))
FORMATS.add(
    "llama_scope",
    Format("Llama Scope 1", "hyperparams.json, checkpoints/final.safetensors", _recognise_first, _read_first),
)

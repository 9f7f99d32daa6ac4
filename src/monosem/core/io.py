"""The own format: a folder with model.safetensors and config.json; nothing in it is ever executed.

config.json holds `format` ("monosem.model/1"), `activation` (a call as text), `pre_bias`, `layout`
(n_q, p_widths, r_widths, encoder and decoder blocks as [first, last, left, right], shared, skip) and free
`metadata`. Tensors, latent-major: encoder.0 [latents, columns] per block, decoder.0 likewise, b_E, b_D, b_in,
W_skip, act.<name> (learned by the activation), state.<name> (its buffers).
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosem.base.errors import ArgumentError, CheckpointError
from monosem.base.files import read_json, write_atomic, write_json
from monosem.base.spec import format_call, parse_call
from monosem.core.activations import ACTIVATIONS, Activation
from monosem.core.model import SDL
from monosem.core.pairs import Layout
from monosem.kernels.blocks import Block

__all__ = [
    "FORMAT",
    "activation_from_text",
    "activation_to_text",
    "layout_from_plain",
    "layout_to_plain",
    "load_model",
    "model_tensors",
    "save_model",
    "set_model_tensors",
]

FORMAT = "monosem.model/1"


def activation_to_text(activation: Activation) -> str:
    """An activation as a call: "topk(k=32, ...)"; the inverse of `activation_from_text`."""
    for name, kind in ACTIVATIONS.items():
        if type(activation) is kind:
            return format_call(name, {f.name: getattr(activation, f.name) for f in dataclasses.fields(activation)})
    raise ArgumentError(f"{type(activation).__name__} is not registered; add it to ACTIVATIONS to save it")


def activation_from_text(text: str) -> Activation:
    """An activation from its call."""
    name, arguments = parse_call(text)
    try:
        return ACTIVATIONS[name](**arguments)
    except TypeError as error:
        raise ArgumentError(f"cannot build the activation {text!r}: {error}") from None


def layout_to_plain(layout: Layout) -> dict[str, Any]:
    """A layout as plain JSON values; the inverse of `layout_from_plain`."""

    def blocks(side: tuple[Block, ...]) -> list[list[int]]:
        return [[b.first, b.last, b.left, b.right] for b in side]

    return {
        "n_q": layout.n_q,
        "p_widths": list(layout.p_widths),
        "r_widths": list(layout.r_widths),
        "encoder": blocks(layout.encoder),
        "decoder": blocks(layout.decoder),
        "shared": layout.shared,
        "skip": layout.skip,
    }


def layout_from_plain(plain: dict[str, Any]) -> Layout:
    """A layout from plain JSON values."""
    return Layout(
        int(plain["n_q"]),
        tuple(plain["p_widths"]),
        tuple(plain["r_widths"]),
        tuple(Block(*block) for block in plain["encoder"]),
        tuple(Block(*block) for block in plain["decoder"]),
        bool(plain["shared"]),
        bool(plain["skip"]),
    )


def model_tensors(model: SDL) -> dict[str, Tensor]:
    """Every tensor of a model by its name in the format; tied decoders appear on both sides."""
    tensors = {f"encoder.{i}": w for i, w in enumerate(model.encoder.weights)}
    tensors |= {f"decoder.{i}": w for i, w in enumerate(model.decoder.weights)}
    tensors |= {"b_E": model.b_E, "b_D": model.b_D}
    if model._b_in is not None:
        tensors["b_in"] = model._b_in
    if model.W_skip is not None:
        tensors["W_skip"] = model.W_skip
    tensors |= {f"act.{name}": p for name, p in model.act.items()}
    tensors |= {f"state.{name}": b for name, b in model.activation_state().items()}
    return {name: t.detach() for name, t in tensors.items()}


def set_model_tensors(model: SDL, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors into a model; names and shapes must agree exactly."""
    own = model_tensors(model)
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or extra:
        raise CheckpointError(f"{where}: tensors missing {missing}, unexpected {extra}; it does not match its config")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(f"{where}: {name} has shape {tuple(tensors[name].shape)}, its config says {tuple(tensor.shape)}")
        with torch.no_grad():
            tensor.copy_(tensors[name])


def save_model(model: SDL, folder: str | Path, metadata: dict[str, Any] | None = None) -> Path:
    """Write a model to a folder, each file atomically; the config last, so that a folder with one is whole."""
    folder = Path(folder)
    tensors = {name: t.cpu().contiguous().clone() for name, t in model_tensors(model).items()}
    write_atomic(folder / "model.safetensors", lambda part: save_file(tensors, str(part), {"format": FORMAT}))
    config = {
        "format": FORMAT,
        "activation": activation_to_text(model.activation),
        "pre_bias": model.pre_bias,
        "dtype": str(model.b_E.dtype).removeprefix("torch."),
        "layout": layout_to_plain(model.layout),
        "metadata": metadata or {},
    }
    write_json(folder / "config.json", config)
    return folder


def load_model(folder: str | Path) -> SDL:
    """Read a model from a folder, in evaluation mode.

    Raises: CheckpointError, one clear message, when files are missing, damaged, of another kind or of a newer version.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}; give the folder that save_model or training wrote")
    config = read_json(folder / "config.json")
    version = config.get("format", "") if isinstance(config, dict) else ""
    if version != FORMAT:
        raise CheckpointError(f"{folder}/config.json has format {version!r}, this version reads {FORMAT!r}; update monosem")
    try:
        layout = layout_from_plain(config["layout"])
        model = SDL(layout, activation_from_text(config["activation"]), config["pre_bias"])
        model.to(getattr(torch, config["dtype"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}/config.json is damaged ({type(error).__name__}: {error})") from None
    try:
        tensors = load_file(str(folder / "model.safetensors"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}/model.safetensors cannot be read ({error}); the file is truncated or altered") from None
    set_model_tensors(model, tensors, str(folder))
    return model.eval()

"""The own format: a folder with model.safetensors and config.json; nothing in it is ever executed.

config.json holds `format` ("monosem.model/1"), `activation` (a call as text), `pre_bias`, `layout`
(n_q, p_widths, r_widths, encoder and decoder blocks as [first, last, left, right], shared, skip), free `metadata` and,
where they are not affine and free, `encoder` and `dictionary` (calls as text). Tensors, latent-major: encoder.0
[latents, columns] per block, decoder.0 likewise, b_E, b_D, b_in, W_skip, encoder.<name> and act.<name> (learned by the
encoder beside W_E, and by the activation), state.<name> (its buffers). `row_norm` is null or the fields of a RowNorm.
docs/format.md says it at length.
"""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.errors import ArgumentError, CheckpointError, check
from monosem.base.files import read_json, write_atomic, write_json
from monosem.base.registry import Registry
from monosem.base.spec import format_call, parse_call, spoken
from monosem.core.activations import ACTIVATIONS, Activation
from monosem.core.dictionaries import DICTIONARIES
from monosem.core.encoders import ENCODERS
from monosem.core.model import AFFINE, FREE, SDL
from monosem.core.pairs import Layout
from monosem.core.rownorm import RowNorm, RowNormSDL

Part = TypeVar("Part")

FORMAT = "monosem.model/1"
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


def activation_to_text(activation: Activation) -> str:
    """An activation as a call: "topk(k=32, ...)"; the inverse of `activation_from_text`."""
    return part_to_text(activation, ACTIVATIONS)


def activation_from_text(text: str) -> Activation:
    """An activation from its call."""
    return part_from_text(text, ACTIVATIONS)


def part_to_text(part: Part, registry: Registry[type[Part]]) -> str:
    """A registered value (activation, encoder, dictionary) as a call; the inverse of `part_from_text`."""
    for name, kind in registry.items():
        if type(part) is kind:
            return format_call(name, spoken(part))
    raise ArgumentError(f"{type(part).__name__} is no registered {registry.kind}; register it to save it")


def part_from_text(text: str, registry: Registry[type[Part]]) -> Part:
    """A registered value from its call."""
    name, arguments = parse_call(text)
    try:
        return registry[name](**arguments)
    except TypeError as error:
        raise ArgumentError(f"cannot build the {registry.kind} {text!r}: {error}") from None


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
    """A layout from plain JSON values. Raises: ArgumentError for values that are no layout."""
    n_q, p_widths, r_widths = (_integers(plain[name]) for name in ("n_q", "p_widths", "r_widths"))
    check(len(n_q) == 1 and min(n_q + p_widths + r_widths, default=0) >= 1, "a layout's sizes are at least 1")
    sides = []
    for side, widths in (("encoder", p_widths), ("decoder", r_widths)):
        blocks = tuple(Block(*_integers(block)) for block in plain[side])
        inside = all(0 <= b.first < b.last <= n_q[0] and 0 <= b.left < b.right <= sum(widths) for b in blocks)
        check(bool(blocks) and inside, f"a block of {side} lies outside [{n_q[0]}, {sum(widths)}]")
        sides.append(blocks)
    return Layout(n_q[0], p_widths, r_widths, sides[0], sides[1], plain["shared"] is True, plain["skip"] is True)


def _integers(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    check(all(type(item) is int for item in values), f"{value!r} stands where whole numbers belong")
    return tuple(values)


def model_tensors(model: SDL) -> dict[str, Tensor]:
    """Every tensor of a model by its name in the format; tied decoders appear on both sides."""
    tensors = {f"encoder.{i}": w for i, w in enumerate(model.encoder.weights)}
    tensors |= {f"decoder.{i}": w for i, w in enumerate(model.decoder.weights)}
    tensors |= {f"decoder.{name}": t for name, t in model.decoder.own.items()}
    tensors |= {"b_E": model.b_E, "b_D": model.b_D}
    if model._b_in is not None:
        tensors["b_in"] = model._b_in
    if model.W_skip is not None:
        tensors["W_skip"] = model.W_skip
    tensors |= {f"encoder.{name}": p for name, p in model.enc.items()}
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
        if tensor.shape != tensors[name].shape or not tensors[name].is_floating_point():
            raise CheckpointError(
                f"{where}: {name} is {tensors[name].dtype} of shape {tuple(tensors[name].shape)}, "
                f"its config says floating-point of shape {tuple(tensor.shape)}"
            )
        with torch.no_grad():
            tensor.copy_(tensors[name])


def cast_parameters(model: SDL, dtype: torch.dtype) -> SDL:
    """Give the learned parameters a dtype; the activation's buffers (a threshold in float64) keep theirs."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


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
        "row_norm": dataclasses.asdict(model.norm) if isinstance(model, RowNormSDL) else None,
        "metadata": metadata or {},
    }
    if model.encoder_kind != AFFINE:
        config["encoder"] = part_to_text(model.encoder_kind, ENCODERS)
    if model.dictionary != FREE:
        config["dictionary"] = part_to_text(model.dictionary, DICTIONARIES)
    write_json(folder / "config.json", config)
    return folder


def load_model(folder: str | Path) -> SDL:
    """Read a model from a folder, in evaluation mode.

    Raises: CheckpointError, one clear message, when files are missing, damaged, of another kind or of a newer version.
    """
    folder = Path(folder)
    config = load_config(folder)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no model.safetensors; give the folder that save_model or training wrote")
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); the file is truncated or altered") from None
    try:
        layout = layout_from_plain(config["layout"])
        _agree(layout, tensors, str(folder))
        activation, pre_bias = activation_from_text(str(config["activation"])), config["pre_bias"]
        check(pre_bias in ("none", "free", "tied"), f"pre_bias={pre_bias!r}; known: none, free, tied")
        norm = config.get("row_norm")
        encoder = part_from_text(str(config.get("encoder", "affine()")), ENCODERS)
        dictionary = part_from_text(str(config.get("dictionary", "free()")), DICTIONARIES)
        model = (
            SDL(layout, activation, pre_bias, encoder, dictionary)
            if norm is None
            else RowNormSDL(layout, activation, pre_bias, RowNorm(**norm))
        )
        cast_parameters(model, DTYPES[config["dtype"]])
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, MemoryError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}/config.json is damaged ({type(error).__name__}: {why})") from None
    set_model_tensors(model, tensors, str(folder))
    return model.eval()


def load_config(folder: str | Path) -> dict[str, Any]:
    """A saved model's config.json, its version checked; `metadata` is what the writer gave to save_model."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json; give the folder that save_model or training wrote")
    config = read_json(path)
    found = config.get("format") if isinstance(config, dict) else None
    if found == FORMAT:
        return dict(config)
    name, _, version = str(found).rpartition("/")
    if name == FORMAT.rpartition("/")[0] and version.isdigit():
        raise CheckpointError(f"{path} has format {found!r}, this version reads {FORMAT!r}; update monosem")
    raise CheckpointError(f"{path} has format {found!r}, not {FORMAT!r}; monosem.interop.load reads others' formats")


def _agree(layout: Layout, tensors: dict[str, Tensor], where: str) -> None:
    """Compare sizes before anything of that size is made: a wrong number must not ask for all memory."""
    shapes: dict[str, tuple[int, ...]] = {"b_E": (layout.n_q,), "b_D": (layout.n_r,)}
    for side, blocks in (("encoder", layout.encoder), ("decoder", layout.decoder)):
        shapes |= {f"{side}.{i}": block.shape for i, block in enumerate(blocks)}
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise CheckpointError(f"{where}: {name} has shape {found}, its config says {shape}; one of them is altered")

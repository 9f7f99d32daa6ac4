"""The own format: a folder with model.safetensors and config.json; nothing in it is ever executed.

config.json holds `format` ("monosem.model/1"), `activation` (a call as text), `pre_bias`, `layout`
(n_q, p_widths, r_widths, encoder and decoder blocks as [first, last, left, right], shared, skip), free `metadata` and,
where they are not affine and free, `encoder` and `dictionary` (calls as text). Tensors, latent-major: encoder.0
[latents, columns] per block, decoder.0 likewise, b_E, b_D, b_in, W_skip, encoder.<name> and act.<name> (learned by the
encoder beside W_E, and by the activation), state.<name> (its buffers). `row_norm` is null or the fields of a RowNorm.
docs/format.md says it at length.
"""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.errors import ArgumentError, CheckpointError, MonosemError, check, shortened
from monosem.base.files import json_bytes, read_json, write_together
from monosem.base.machine import find_device
from monosem.base.registry import Registry
from monosem.base.schema import Size, read
from monosem.base.spec import format_call, parse_call, spoken
from monosem.base.tensors import read_stored, read_tensors, tensor_writer
from monosem.core.activations import ACTIVATIONS, Activation
from monosem.core.dictionaries import DICTIONARIES
from monosem.core.encoders import ENCODERS
from monosem.core.model import AFFINE, FREE, SDL, PreBias
from monosem.core.pairs import Layout
from monosem.core.rownorm import RowNorm, RowNormSDL

Part = TypeVar("Part")

FORMAT = "monosem.model/1"
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


def activation_to_text(activation: Activation) -> str:
    """An activation as a call: "topk(k=32, ...)"; the inverse of `activation_from_text`."""
    return _part_to_text(activation, ACTIVATIONS)


def activation_from_text(text: str) -> Activation:
    """An activation from its call."""
    return _part_from_text(text, ACTIVATIONS)


def _part_to_text(part: Part, registry: Registry[type[Part]]) -> str:
    """A registered value (activation, encoder, dictionary) as a call; the inverse of `_part_from_text`."""
    for name, kind in registry.items():
        if type(part) is kind:
            return format_call(name, spoken(part))
    raise ArgumentError(f"{type(part).__name__} is no registered {registry.kind}; register it to save it")


def _part_from_text(text: str, registry: Registry[type[Part]]) -> Part:
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


@dataclasses.dataclass(frozen=True)
class _LayoutFields:
    n_q: Size
    p_widths: list[Size]
    r_widths: list[Size]
    encoder: list[tuple[int, int, int, int]]
    decoder: list[tuple[int, int, int, int]]
    shared: bool = False
    skip: bool = False


@dataclasses.dataclass(frozen=True)
class _ModelConfig:
    """What config.json says; `metadata` is what the writer gave to `save_model`."""

    format: str
    activation: str
    pre_bias: PreBias
    dtype: Literal["float32", "float64", "bfloat16", "float16"]
    layout: _LayoutFields
    row_norm: RowNorm | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    encoder: str = "affine()"
    dictionary: str = "free()"


def layout_from_plain(plain: dict[str, Any]) -> Layout:
    """A layout from plain JSON values. Raises: ArgumentError for values that are no layout."""
    return _layout(read(_LayoutFields, plain, "a layout", ArgumentError))


def _layout(fields: _LayoutFields) -> Layout:
    sides = []
    for side, widths in (("encoder", fields.p_widths), ("decoder", fields.r_widths)):
        blocks = tuple(Block(*block) for block in getattr(fields, side))
        inside = all(0 <= b.first < b.last <= fields.n_q and 0 <= b.left < b.right <= sum(widths) for b in blocks)
        check(bool(blocks) and inside, f"a block of {side} lies outside [{fields.n_q}, {sum(widths)}]")
        sides.append(blocks)
    widths_of = (tuple(fields.p_widths), tuple(fields.r_widths))
    return Layout(fields.n_q, *widths_of, sides[0], sides[1], fields.shared, fields.skip)


def model_tensors(model: SDL) -> dict[str, Tensor]:
    """Every tensor of a model by its name in the format; tied decoders appear on both sides."""
    return {name: t.detach() for name, t in live_tensors(model).items()}


def live_tensors(model: SDL) -> dict[str, Tensor]:
    """The same with their gradients: parameters and buffers themselves."""
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
    return tensors | {f"state.{name}": b for name, b in model.activation_state().items()}


def set_model_tensors(model: SDL, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors into a model; names and shapes must agree exactly."""
    own = model_tensors(model)
    _check_names(own, tensors, where)
    for name, tensor in own.items():
        with torch.no_grad():
            tensor.copy_(tensors[name])


def place_tensors(model: SDL, tensors: dict[str, Tensor], where: str, unchecked: bool = False) -> SDL:
    """Give a model without weights of its own (made on the device "meta") these tensors, not copies; evaluating.

    Meta tensors make an outline, a model that has shapes only.

    Raises: CheckpointError where names or shapes disagree, or, unless `unchecked`, where a number is not finite.
    """
    own = model_tensors(model)
    _check_names(own, tensors, where)
    for name in own if not unchecked else ():
        _check_finite(name, tensors[name], where)
    names = {id(live): name for name, live in live_tensors(model).items()}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                tensor = tensors[names[id(parameter)]]
                module._parameters[key] = torch.nn.Parameter(tensor, requires_grad=parameter.requires_grad)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = tensors[names[id(buffer)]].to(buffer.dtype)
    return model.eval()


def _check_names(own: dict[str, Tensor], tensors: dict[str, Tensor], where: str) -> None:
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or extra:
        raise CheckpointError(f"{where}: tensors missing {missing}, unexpected {extra}; it does not match its config")
    for name, tensor in own.items():
        given = tensors[name]
        if tensor.shape != given.shape or given.dtype not in DTYPES.values():
            raise CheckpointError(
                f"{where}: {name} is {given.dtype} of shape {tuple(given.shape)}, "
                f"its config says floating-point of shape {tuple(tensor.shape)}"
            )


def _check_finite(name: str, tensor: Tensor, where: str) -> None:
    """A threshold may be infinite: such a latent never fires."""
    low, high = (float(bound) for bound in tensor.detach().reshape(-1).aminmax())
    endless = name.startswith("act.") and "theta" in name and high == math.inf
    if not (math.isfinite(low) and (math.isfinite(high) or endless)):
        raise CheckpointError(
            f"{where}: {name} holds NaN or infinity, so that every answer would; train or export it again "
            "(unchecked=True reads it all the same)"
        )


def cast_parameters(model: SDL, dtype: torch.dtype) -> SDL:
    """Give the learned parameters a dtype; the activation's buffers (a threshold in float64) keep theirs."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def save_model(model: SDL, folder: str | Path, metadata: dict[str, Any] | None = None) -> Path:
    """Write a model to a folder, whole or not at all; the tensors carry a checksum of themselves and of the config.

    Raises: OutputError when the folder cannot be written; a model that was there is untouched then.
    """
    folder, text = Path(folder), config_bytes(model, metadata)
    about = {"format": FORMAT, "config": hashlib.sha256(text).hexdigest()}
    tensors = tensor_writer(model_tensors(model), about)
    write_together({folder / "model.safetensors": tensors, folder / "config.json": text})
    return folder


def config_bytes(model: SDL, metadata: dict[str, Any] | None = None) -> bytes:
    """config.json of a model, of all latents where it has some of them."""
    config = {
        "format": FORMAT,
        "activation": activation_to_text(model.activation),
        "pre_bias": model.pre_bias,
        "dtype": str(model.b_E.dtype).removeprefix("torch."),
        "layout": layout_to_plain(model.whole),
        "row_norm": dataclasses.asdict(model.norm) if isinstance(model, RowNormSDL) else None,
        "metadata": metadata or {},
    }
    if model.encoder_kind != AFFINE:
        config["encoder"] = _part_to_text(model.encoder_kind, ENCODERS)
    if model.dictionary != FREE:
        config["dictionary"] = _part_to_text(model.dictionary, DICTIONARIES)
    return json_bytes(config)


def load_model(
    folder: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    unchecked: bool = False,
) -> SDL:
    """Read a model from a folder, in evaluation mode; its learned parameters in their own dtype, or in `dtype`.

    `unchecked` reads what is refused otherwise: weights that are not finite, or files altered since they were written.
    Raises: CheckpointError, one clear message, when files are missing, damaged, of another kind or of a newer version.
    Warns: UncheckedWarning for files of an older version, which have no checksum.
    """
    folder, place = Path(folder), None if device is None else find_device(device)
    config, path = load_config(folder), folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no model.safetensors; give the folder that save_model or training wrote")
    model = _empty_model(config, folder)
    about, tensors = read_tensors(path, FORMAT, frozenset(["config"]), unchecked=unchecked)
    _agree(model.layout, tensors, str(folder))
    _check_names(model_tensors(model), tensors, str(folder))
    same = about.get("config") == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    if "config" in about and not (same or unchecked):
        text = "config.json and model.safetensors do not belong together: one was altered, or written by another run"
        raise CheckpointError(f"{folder}: {text}; restore both (unchecked=True reads them all the same)")
    kind = dtype or DTYPES[config.dtype]
    for name in tensors:
        tensors[name] = tensors[name].to(place, None if name.startswith("state.") else kind)
    return place_tensors(model, tensors, str(folder), unchecked)


def load_outline(folder: str | Path) -> SDL:
    """A saved model with the shapes of its tensors and none of their numbers (on the device "meta"), from its headers.

    Raises: CheckpointError as `load_model`, but for what only the numbers show.
    """
    folder = Path(folder)
    config, path = load_config(folder), folder / "model.safetensors"
    model, stored = _empty_model(config, folder), read_stored(path)
    kinds = {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in stored.items()}
    _agree(model.layout, kinds, str(folder))
    return place_tensors(cast_parameters(model, DTYPES[config.dtype]), kinds, str(folder), unchecked=True)


def _empty_model(config: _ModelConfig, folder: Path) -> SDL:
    """The model that a config describes, without memory for its weights."""
    try:
        layout, activation = _layout(config.layout), activation_from_text(config.activation)
        with torch.device("meta"):
            if config.row_norm is not None:
                return RowNormSDL(layout, activation, config.pre_bias, config.row_norm)
            encoder = _part_from_text(config.encoder, ENCODERS)
            dictionary = _part_from_text(config.dictionary, DICTIONARIES)
            return SDL(layout, activation, config.pre_bias, encoder, dictionary)
    except (MonosemError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        why = shortened(" ".join(str(error).split()), 300)
        raise CheckpointError(f"{folder}/config.json is damaged ({type(error).__name__}: {why})") from None


def load_config(folder: str | Path) -> _ModelConfig:
    """A saved model's config.json, its version and every field's type checked."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json; give the folder that save_model or training wrote")
    plain = read_json(path)
    have = str(plain.get("format") if isinstance(plain, dict) else None)
    if have == FORMAT:
        return read(_ModelConfig, plain, str(path))
    name, _, version = have.rpartition("/")
    have = repr(shortened(have, 80))
    if name == FORMAT.rpartition("/")[0] and version.isdigit():
        raise CheckpointError(f"{path} has format {have}, this version reads {FORMAT!r}; update monosem")
    raise CheckpointError(f"{path} has format {have}, not {FORMAT!r}; monosem.interop.load reads others' formats")


def _agree(layout: Layout, tensors: dict[str, Tensor], where: str) -> None:
    """Compare sizes before anything of that size is made: a wrong number must not ask for all memory."""
    shapes: dict[str, tuple[int, ...]] = {"b_E": (layout.n_q,), "b_D": (layout.n_r,)}
    for side, blocks in (("encoder", layout.encoder), ("decoder", layout.decoder)):
        shapes |= {f"{side}.{i}": block.shape for i, block in enumerate(blocks)}
    for name, shape in shapes.items():
        have = tuple(tensors[name].shape) if name in tensors else None
        if have != shape:
            raise CheckpointError(f"{where}: {name} has shape {have}, its config says {shape}; one of them is altered")

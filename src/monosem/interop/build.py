"""From the tensors of a foreign file to an SDL, and an SDL as the writer of a format sees it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from monosem.base.blocks import Block
from monosem.base.errors import RefusedError
from monosem.core.activations import Activation
from monosem.core.dictionaries import Dictionary
from monosem.core.encoders import Encoder
from monosem.core.folding import encoder_bias
from monosem.core.io import place_tensors
from monosem.core.model import AFFINE, FREE, SDL, PreBias
from monosem.core.pairs import SAE, CrossLayer, Layout, Transcoder
from monosem.core.rownorm import RowNorm, RowNormSDL


def assemble(
    layout: Layout,
    activation: Activation,
    encoder: Sequence[Tensor],
    decoder: Sequence[Tensor],
    b_E: Tensor,
    b_D: Tensor,
    *,
    where: str,
    pre_bias: PreBias = "none",
    W_skip: Tensor | None = None,
    act: dict[str, Tensor] | None = None,
    state: dict[str, Tensor] | None = None,
    norm: RowNorm | None = None,
    kinds: tuple[Encoder, Dictionary] = (AFFINE, FREE),
) -> SDL:
    """A model of these tensors, latent-major, in evaluation mode.

    Shapes: encoder[i] and decoder[i] as the layout's blocks; b_E [n_q], b_D [n_r], W_skip [n_r, n_p].
    Raises: CheckpointError where a shape disagrees.
    """
    layout = replace(layout, skip=W_skip is not None)
    with torch.device("meta"):
        own = SDL(layout, activation, pre_bias, *kinds)
        model = own if norm is None else RowNormSDL(layout, activation, pre_bias, norm)
    tensors = {f"encoder.{i}": w for i, w in enumerate(encoder)} | {f"decoder.{i}": w for i, w in enumerate(decoder)}
    tensors |= {"b_E": b_E, "b_D": b_D} | ({} if W_skip is None else {"W_skip": W_skip})
    tensors |= {f"act.{name}": t for name, t in (act or {}).items()}
    tensors |= {f"state.{name}": t for name, t in (state or {}).items()}
    return place_tensors(model, _owned(tensors, encoder[0].dtype), where, unchecked=True)


def _owned(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Contiguous tensors of one type, none of which shares its memory with another; nothing is copied without need."""
    owned: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        own = (tensor if name.startswith("state.") else tensor.to(dtype)).contiguous()
        storage = own.untyped_storage()
        if not own.is_meta and (storage.nbytes() != own.nbytes or storage.data_ptr() in storages):
            own = own.clone()
        storages.add(own.untyped_storage().data_ptr())
        owned[name] = own
    return owned


def sae(W_E: Tensor, W_D: Tensor) -> Layout:
    """The layout of an SAE with these latent-major weights."""
    return SAE().layout(W_E.shape[0], (W_E.shape[1],), (W_D.shape[1],))


def transcoder(W_E: Tensor, W_D: Tensor) -> Layout:
    """The layout of a transcoder with these latent-major weights."""
    return Transcoder().layout(W_E.shape[0], (W_E.shape[1],), (W_D.shape[1],))


def layered(layers: int, latents: int, n_p: int, n_r: int) -> Layout:
    """One transcoder per layer, side by side: block-diagonal encoder and decoder, every layer of these sizes."""

    def diagonal(width: int) -> tuple[Block, ...]:
        return tuple(Block(i * latents, (i + 1) * latents, i * width, (i + 1) * width) for i in range(layers))

    return Layout(layers * latents, (n_p,) * layers, (n_r,) * layers, diagonal(n_p), diagonal(n_r))


def block_diagonal(parts: Sequence[Tensor]) -> Tensor:
    """Matrices along a diagonal, zero elsewhere."""
    whole = parts[0].new_zeros(sum(p.shape[0] for p in parts), sum(p.shape[1] for p in parts))
    row = column = 0
    for part in parts:
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return whole


Kind = Literal["sae", "transcoder", "crosscoder", "cross_layer", "transcoder_set", "other"]


def kind_of(model: SDL) -> Kind:
    """What a model is, from its blocks."""
    layout, sources = model.layout, len(model.layout.p_widths)
    if model.encoder.is_whole and model.decoder.is_whole:
        if layout.shared:
            return "sae" if sources == 1 else "crosscoder"
        return "transcoder" if sources == 1 and len(layout.r_widths) == 1 else "other"
    if layout.shared:
        return "crosscoder" if layout.p_widths == layout.r_widths else "other"
    return _kind_by_layer(model)


def _kind_by_layer(model: SDL) -> Kind:
    """Of a model with a block of latents for every source: across layers, or each layer for itself."""
    layout, layers = model.layout, len(model.layout.p_widths)
    even = model.n_q % layers == 0 and len(set(layout.p_widths)) == len(set(layout.r_widths)) == 1
    if not even or len(layout.r_widths) != layers:
        return "other"
    blocks = (layout.encoder, layout.decoder)
    cross = CrossLayer().layout(model.n_q, layout.p_widths, layout.r_widths)
    apart = layered(layers, model.n_q // layers, layout.p_widths[0], layout.r_widths[0])
    if blocks == (cross.encoder, cross.decoder):
        return "cross_layer"
    return "transcoder_set" if blocks == (apart.encoder, apart.decoder) else "other"


def refuse(to: str, what: str, reason: str) -> NoReturn:
    """Say that a format cannot express something."""
    raise RefusedError(f"{to} cannot express {what}: {reason}")


@dataclass(frozen=True, eq=False)
class Plain:
    """A model with one block per side (an SAE, a transcoder, a crosscoder without private latents)."""

    model: SDL
    to: str

    def __post_init__(self) -> None:
        if not (self.model.encoder.is_whole and self.model.decoder.is_whole):
            refuse(self.to, f"this model ({kind_of(self.model)})", "it has one encoder and one decoder matrix")

    @cached_property
    def kind(self) -> Kind:
        """sae, transcoder or crosscoder."""
        return kind_of(self.model)

    @property
    def W_E(self) -> Tensor:
        """[n_q, n_p]."""
        return _value(self.model.encoder.weights[0])

    @property
    def W_D(self) -> Tensor:
        """Latent-major, [n_q, n_r]."""
        return _value(self.model.decoder.weights[0])

    @property
    def b_D(self) -> Tensor:
        """[n_r]."""
        return self.model.b_D.detach()

    @property
    def W_skip(self) -> Tensor | None:
        """[n_r, n_p]."""
        return None if self.model.W_skip is None else self.model.W_skip.detach()

    @property
    def norm(self) -> RowNorm | None:
        """Per-row normalisation."""
        return self.model.norm if isinstance(self.model, RowNormSDL) else None

    def act(self, name: str) -> Tensor:
        """A learned parameter of the activation."""
        return _value(self.model.act[name])

    def b_E(self, subtracted: bool) -> Tensor:
        """The encoder's bias in a format that takes b_D from the input first, or nothing."""
        return encoder_bias(self.model, self.model.b_D if subtracted else None)

    def gate(self, subtracted: bool = True) -> tuple[Tensor, Tensor]:
        """A gated encoder's two biases, of gate and magnitude, as `b_E` gives them."""
        gate = self.b_E(subtracted)
        shift = gate - self.model.b_E.detach()
        return gate, self.act("b_mag") + (self.act("r_mag").exp() * shift if bool(shift.any()) else 0.0)

    def refuse_norm(self) -> None:
        """For formats that read the input as it is."""
        if self.norm is not None:
            refuse(self.to, f"per-row normalisation ({self.norm.kind})", "it reads the input as it is")

    def refuse_skip(self) -> None:
        """For formats without a skip connection here."""
        if self.W_skip is not None:
            refuse(self.to, "W_skip", "it has no skip connection for this architecture")

    def refuse_ranking_by_norm(self) -> None:
        """For formats whose ranking sees the latents only."""
        if getattr(self.model.activation, "rank_by_norm", False):
            refuse(
                self.to,
                "ranking by z ||W_D||",
                "it ranks the latents themselves; call interop.fold_decoder_norm(model) first, which scales them",
            )


def _value(parameter: Tensor) -> Tensor:
    return parameter.detach()


def source_config(metadata: dict[str, Any], format: str) -> dict[str, Any]:
    """The configuration this model once had in the same format, else {}."""
    source = metadata.get("source")
    return dict(source.get("config", {})) if isinstance(source, dict) and source.get("format") == format else {}


NAMED = ("model_name", "hook_name", "hook_name_out", "layer", "dataset_path", "context_size")
"""What metadata calls what every format may know: the network, both sites, the layer, the texts and their length."""


def generic_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """The entries of NAMED that are known."""
    return {name: metadata[name] for name in NAMED if metadata.get(name) not in (None, "")}


def named(**values: Any) -> dict[str, Any]:
    """Metadata of what a file says; what it leaves open is left out, and nothing is guessed."""
    return {name: value for name, value in values.items() if value not in (None, "")}

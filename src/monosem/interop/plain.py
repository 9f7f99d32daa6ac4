"""A model as a writer sees it: what it is, one dense block per side, and refusals with their reason."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NoReturn

from torch import Tensor

from monosem.base.errors import RefusedError
from monosem.core.model import SDL
from monosem.core.pairs import CrossLayer
from monosem.core.rownorm import RowNorm, RowNormSDL
from monosem.interop.build import layered
from monosem.interop.folding import encoder_bias

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


def generic_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """What every format may know: model_name, hook_name, hook_name_out."""
    return {name: metadata[name] for name in ("model_name", "hook_name", "hook_name_out") if metadata.get(name)}

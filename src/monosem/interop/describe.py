"""What a file holds, in a few lines: kind, shapes, activation, norms, the share of dead latents if known."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from monosem.core.io import activation_to_text
from monosem.core.rownorm import RowNormSDL
from monosem.interop.api import read
from monosem.interop.format import FORMATS
from monosem.interop.plain import kind_of


@dataclass(frozen=True)
class Description:
    """A model's facts as (name, text) rows."""

    rows: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in self.rows)


def describe(path: str | Path, input_scale: float | None = None) -> Description:
    """Describe the model at a path; see `read`."""
    loaded = read(path, input_scale)
    model, layout = loaded.model, loaded.model.layout
    with torch.no_grad():
        encoder = model.encoder.squared_norms().sqrt()
        decoder = model.decoder.squared_norms().sqrt()
    rows = [
        ("path", str(path)),
        ("format", FORMATS[loaded.format].title),
        ("kind", kind_of(model).replace("_", " ") + (", skip" if model.W_skip is not None else "")),
        ("sizes", f"n_p={_widths(layout.p_widths)}, n_q={model.n_q}, n_r={_widths(layout.r_widths)}"),
        ("activation", activation_to_text(model.activation)),
        ("input bias", {"tied": "b_D subtracted", "free": "b_in subtracted", "none": "none"}[model.pre_bias]),
        ("dtype", str(model.b_E.dtype).removeprefix("torch.")),
        ("encoder norms", _spread(encoder)),
        ("decoder norms", _spread(decoder)),
    ]
    if isinstance(model, RowNormSDL):
        rows.append(("per-row norm", f"{model.norm.kind}, eps={model.norm.eps}, restore={model.norm.restore}"))
    for name, parameter in model.act.items():
        rows.append((name, _spread(parameter.detach())))
    for name, value in model.activation_state().items():
        rows.append((name, f"{float(value):.6g}" + (" (never set)" if float(value) < 0 else "")))
    silent = int((decoder == 0).sum())
    if silent:
        rows.append(("zero decoder columns", str(silent)))
    rows.append(("dead latents", "unknown" if loaded.dead is None else f"{loaded.dead:.2%}"))
    known = ("model_name", "hook_name", "hook_name_out")
    rows += [(name, str(loaded.metadata[name])) for name in known if loaded.metadata.get(name)]
    rows += [("note", note) for note in loaded.notes]
    return Description(tuple(rows))


def _widths(widths: tuple[int, ...]) -> str:
    same = len(set(widths)) == 1
    return str(sum(widths)) if len(widths) == 1 else f"{len(widths)} x {widths[0]}" if same else str(widths)


def _spread(values: Tensor) -> str:
    low, middle, high = float(values.min()), float(values.double().median()), float(values.max())
    return f"{low:.4g} to {high:.4g}, median {middle:.4g}"

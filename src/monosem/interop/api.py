"""load, read, save, describe: any known format, recognised by its content; monosem's own, and the Hub's folders."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.base.errors import CheckpointError, MonosemError, RefusedError, shortened
from monosem.base.machine import find_device
from monosem.core.folding import fold_input_scale
from monosem.core.io import activation_to_text, load_config, load_model, load_outline, save_model
from monosem.core.model import SDL
from monosem.core.rownorm import RowNormSDL
from monosem.interop import (  # each file adds its formats to FORMATS
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llamascopium,
    openai,
    saelens,
    sparsify,
)
from monosem.interop.build import NAMED, kind_of, refuse
from monosem.interop.files import FORMATS, Candidate, Dtype, Format, Loaded

_ = (circuit_tracer, dictionary_learning, gemma_scope, llamascopium, openai, saelens, sparsify)


def recognise(path: str | Path) -> str:
    """The name of a path's format, by its content.

    Raises: CheckpointError when there is nothing, when no format knows it, or when a file cannot be read.
    """
    return _recognise(Candidate(path))


def _recognise(candidate: Candidate) -> str:
    for name, format in FORMATS.items():
        if _guarded(candidate, format.recognise):
            return name
    here = sorted(p.name for p in candidate.folder.iterdir())[:8] if candidate.path.is_dir() else [candidate.path.name]
    entries = ""
    if len(here) == 1 and here[0].endswith((".pt", ".npz", ".safetensors")):
        entries = f" with the entries {shortened(str(sorted(_guarded(candidate, _keys(here[0])))))}"
    known = "; ".join(f"{name}: {format.shape}" for name, format in FORMATS.items())
    here_text = shortened(str(here), 300)
    raise CheckpointError(f"{candidate.path} holds {here_text}{entries}, which no known format does; known are {known}")


def _keys(name: str) -> Callable[[Candidate], frozenset[str]]:
    return lambda candidate: candidate.keys(name)


def read(path: str | Path, input_scale: float | None = None, *, dtype: Dtype = None, unchecked: bool = False) -> Loaded:
    """Read a model and what its file says beside it.

    `input_scale`: the factor that a model's inputs were multiplied by when it was trained, where the file does not
    hold it; it is folded in, so that the model reads raw inputs. `dtype`: of the weights; None: monosem's own files as
    they are, others' in float32 (half precisions widened, which is exact), or float64 where they are stored so;
    "file": as stored. `unchecked` reads numbers that are not finite, and altered files, all the same.
    Raises: CheckpointError for damaged or unknown files; RefusedError, with the reason, for what SDL cannot express.
    """
    return _read(Candidate(path, dtype, unchecked=unchecked), input_scale)


def _read(candidate: Candidate, input_scale: float | None) -> Loaded:
    name = _recognise(candidate)
    loaded: Loaded = _guarded(candidate, FORMATS[name].read)
    model, notes = loaded.model, loaded.notes
    if loaded.unknown_scale and input_scale is None:
        raise RefusedError(f"{candidate.path}: {loaded.unknown_scale}; pass input_scale")
    if input_scale is not None:
        model = fold_input_scale(model, input_scale, in_place=True)
        notes = (*notes, f"input scale {input_scale:.6g}, as given, folded into the weights")
    return replace(loaded, model=model, notes=notes, format=name, metadata=_finite(loaded.metadata))


def load(
    path: str | Path,
    input_scale: float | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: Dtype = None,
    unchecked: bool = False,
) -> SDL:
    """The model of a file or folder of any known format, in evaluation mode, on a device; see `read`.

    Reading takes the memory of the model and some 8 MB: tensors are read piece by piece, layer by layer.

    Example:
        >>> import tempfile
        >>> from monosem.methods import method
        >>> model, _ = method("relu_l1").build(8, (4,), (4,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(model, folder, format="saelens")
        ...     same = load(path)
        >>> bool((same.W_D == model.W_D).all())
        True
    """
    place = None if device is None else find_device(device)
    model = read(path, input_scale, dtype=dtype, unchecked=unchecked).model
    return model if place is None else model.to(place)


def save(model: SDL, path: str | Path, format: str = "monosem", metadata: dict[str, Any] | None = None) -> Path:
    """Write a model in a format; `metadata` as `read` gives it (model_name, hook_name, ...).

    Raises: RefusedError, with the reason, when the format cannot express the model; UnknownNameError for a format.
    """
    chosen: Format = FORMATS[format]
    if chosen.write is None:
        writable = ", ".join(name for name, format in FORMATS.items() if format.write)
        raise RefusedError(f"monosem reads {chosen.title} but does not write it; it writes {writable}")
    if chosen.encoders is not None and type(model.encoder_kind) not in chosen.encoders:
        refuse(chosen.title, f"the encoder {type(model.encoder_kind).__name__}", "its codes come from one affine map")
    chosen.write(model, Path(path), dict(metadata or {}))
    return Path(path)


def _guarded(candidate: Candidate, step: Any) -> Any:
    """What a damaged file makes a reader stumble over becomes one CheckpointError."""
    try:
        return step(candidate)
    except (CheckpointError, RefusedError):
        raise
    except (MonosemError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        kind = "" if isinstance(error, MonosemError) else f"{type(error).__name__}: "
        why = shortened(" ".join(str(error).split()), 300)
        raise CheckpointError(f"{candidate.path} is damaged or not what it seems ({kind}{why})") from error


def _finite(value: Any) -> Any:
    """Others write NaN and Infinity into JSON, where they do not belong; as text they survive."""
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _is_own(candidate: Candidate) -> bool:
    """config.json whose format begins with monosem."""
    return candidate.has("config.json") and str(candidate.json("config.json").get("format", "")).startswith(
        "monosem.model/"
    )


def _read_own(candidate: Candidate) -> Loaded:
    """Read the folder."""
    if candidate.outline:
        model = load_outline(candidate.folder)
    else:
        dtype = candidate.dtype if isinstance(candidate.dtype, torch.dtype) else None
        model = load_model(candidate.folder, dtype=dtype, unchecked=candidate.unchecked)
    return Loaded(model, load_config(candidate.folder).metadata)


def _write_own(model: SDL, folder: Path, metadata: dict[str, Any]) -> None:
    """Write the folder."""
    save_model(model, folder, metadata)


FORMATS.add("monosem", Format("monosem", "config.json, model.safetensors", _is_own, _read_own, _write_own, None))


@dataclass(frozen=True)
class Description:
    """A model's facts as (name, text) rows."""

    rows: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in self.rows)


def describe(path: str | Path, input_scale: float | None = None, *, weights: bool = False) -> Description:
    """Describe the model at a path; see `read`. Headers alone are read, unless norms of the `weights` are wanted."""
    loaded = _read(Candidate(path), input_scale) if weights else _outline(path, input_scale)
    model, layout = loaded.model, loaded.model.layout
    skip = ", skip" * (model.W_skip is not None)
    rows = [
        ("path", str(path)),
        ("format", FORMATS[loaded.format].title),
        ("kind", kind_of(model).replace("_", " ") + skip),
        ("sizes", f"n_p={_widths(layout.p_widths)}, n_q={model.n_q}, n_r={_widths(layout.r_widths)}"),
        ("activation", activation_to_text(model.activation)),
        ("input bias", {"tied": "b_D subtracted", "free": "b_in subtracted", "none": "none"}[model.pre_bias]),
        ("dtype", str(model.b_E.dtype).removeprefix("torch.")),
    ]
    if isinstance(model, RowNormSDL):
        rows.append(("per-row norm", f"{model.norm.kind}, eps={model.norm.eps}, restore={model.norm.restore}"))
    rows += [] if model.encoder.weights[0].is_meta else _of_weights(model)
    rows += _of_state(model)
    rows.append(("dead latents", "unknown" if loaded.dead is None else f"{loaded.dead:.2%}"))
    rows += [(name, str(loaded.metadata[name])) for name in NAMED if loaded.metadata.get(name)]
    rows += [("note", note) for note in loaded.notes]
    return Description(tuple((name, shortened(text, 500)) for name, text in rows))


def _outline(path: str | Path, input_scale: float | None) -> Loaded:
    """What the headers say; where a reader needs numbers for it, the whole file."""
    try:
        return _read(Candidate(path, outline=True), input_scale)
    except CheckpointError as error:
        if not isinstance(error.__cause__, (NotImplementedError, RuntimeError)):
            raise
    return _read(Candidate(path), input_scale)


def _of_state(model: SDL) -> list[tuple[str, str]]:
    """What inference reads, where it is one number."""
    known = {name: float(t) for name, t in model.activation_state().items() if not (t.ndim or t.is_meta)}
    return [(name, f"{value:.6g}" + " (never set)" * (value < 0)) for name, value in known.items()]


def _of_weights(model: SDL) -> list[tuple[str, str]]:
    with torch.no_grad():
        encoder = model.encoder.squared_norms().sqrt()
        decoder = model.decoder.squared_norms().sqrt()
    rows = [("encoder norms", _spread(encoder)), ("decoder norms", _spread(decoder))]
    rows += [(name, _spread(parameter.detach())) for name, parameter in model.act.items()]
    silent = int((decoder == 0).sum())
    return rows + ([("zero decoder columns", str(silent))] if silent else [])


def _widths(widths: tuple[int, ...]) -> str:
    same = len(set(widths)) == 1
    return str(sum(widths)) if len(widths) == 1 else f"{len(widths)} x {widths[0]}" if same else str(widths)


def _spread(values: Tensor) -> str:
    low, middle, high = float(values.min()), float(values.double().median()), float(values.max())
    return f"{low:.4g} to {high:.4g}, median {middle:.4g}"


@functools.cache
def _hub_class() -> Any:
    """HubSDL, a ModelHubMixin around an SDL (`.model`), made when huggingface_hub is there.

    It writes monosem's own format and reads every known one; a subfolder of a repository is given as
    `subfolder`, and `input_scale` as for `load`.
    """
    try:
        from huggingface_hub import ModelHubMixin, snapshot_download
    except ImportError as error:
        raise MonosemError(f"the Hub needs huggingface_hub ({error}); pip install 'monosem[hub]'") from None

    class HubSDL(ModelHubMixin, library_name="monosem", tags=["sparse-dictionary-learning"]):
        """An SDL with from_pretrained, save_pretrained and push_to_hub."""

        def __init__(self, sdl: SDL) -> None:
            self.model = sdl

        def _save_pretrained(self, save_directory: Path) -> None:
            save_model(self.model, save_directory)

        @classmethod
        def _from_pretrained(
            cls,
            *,
            model_id: str,
            subfolder: str = "",
            input_scale: float | None = None,
            device: str | None = None,
            dtype: Dtype = None,
            **options: Any,
        ) -> "HubSDL":
            folder = Path(model_id)
            if not folder.is_dir():
                known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
                wanted = f"{subfolder}/*" if subfolder else None
                given = {name: options.get(name) for name in known}
                folder = Path(snapshot_download(model_id, allow_patterns=wanted, **given))  # type: ignore[arg-type]
            return cls(load(folder / subfolder, input_scale, device=device, dtype=dtype))

    return HubSDL


def from_pretrained(name: str | Path, **options: Any) -> SDL:
    """A model from a repository on the Hub or a local folder, of any known format.

    `options`: subfolder, input_scale, device and dtype as for `load`, and those of huggingface_hub (revision, token,
    cache_dir, ...).
    """
    model: SDL = _hub_class().from_pretrained(name, **options).model
    return model


def save_pretrained(model: SDL, folder: str | Path, **options: Any) -> None:
    """Write a folder as the Hub holds it: monosem's own format and a model card."""
    _hub_class()(model).save_pretrained(folder, **options)


def push_to_hub(model: SDL, repo_id: str, **options: Any) -> str:
    """Upload a model to a repository on the Hub; the address of the commit."""
    return str(_hub_class()(model).push_to_hub(repo_id, **options))

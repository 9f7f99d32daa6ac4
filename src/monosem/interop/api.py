"""load, read, save: any known format, recognised by its content."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from monosem.base.errors import CheckpointError, MonosemError, RefusedError
from monosem.core.model import SDL
from monosem.interop import (  # each file adds its formats to FORMATS
    circuit_tracer,
    crosscoder,
    dictionary_learning,
    gemma_scope,
    llamascopium,
    openai,
    own,
    saelens,
    sparsify,
)
from monosem.interop.files import Candidate
from monosem.interop.folding import fold_input_scale
from monosem.interop.format import FORMATS, Format, Loaded

_ = (circuit_tracer, crosscoder, dictionary_learning, gemma_scope, llamascopium, openai, own, saelens, sparsify)


def recognise(path: str | Path) -> str:
    """The name of a path's format, by its content.

    Raises: CheckpointError when there is nothing, when no format knows it, or when a file cannot be read.
    """
    found = Candidate(path)
    for name, format in FORMATS.items():
        if _guarded(found, format.recognise):
            return name
    here = sorted(p.name for p in found.folder.iterdir())[:8] if found.path.is_dir() else [found.path.name]
    known = "; ".join(f"{name}: {format.shape}" for name, format in FORMATS.items())
    raise CheckpointError(f"{path} holds {here}, which no known format does; known are {known}")


def read(path: str | Path, input_scale: float | None = None) -> Loaded:
    """Read a model and what its file says beside it.

    `input_scale`: the factor that a model's inputs were multiplied by when it was trained, where the file does not
    hold it; it is folded in, so that the model reads raw inputs.
    Raises: CheckpointError for damaged or unknown files; RefusedError, with the reason, for what SDL cannot express.
    """
    name = recognise(path)
    loaded: Loaded = _guarded(Candidate(path), FORMATS[name].read)
    model, notes = loaded.model, loaded.notes
    if loaded.unknown_scale and input_scale is None:
        raise RefusedError(f"{path}: {loaded.unknown_scale}; pass input_scale")
    if input_scale is not None:
        model = fold_input_scale(model, input_scale)
        notes = (*notes, f"input scale {input_scale:.6g}, as given, folded into the weights")
    return replace(loaded, model=model, notes=notes, format=name, metadata=_finite(loaded.metadata))


def load(path: str | Path, input_scale: float | None = None) -> SDL:
    """The model of a file or folder of any known format, in evaluation mode; see `read`.

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
    return read(path, input_scale).model


def save(model: SDL, path: str | Path, format: str = "monosem", metadata: dict[str, Any] | None = None) -> Path:
    """Write a model in a format; `metadata` as `read` gives it (model_name, hook_name, ...).

    Raises: RefusedError, with the reason, when the format cannot express the model; UnknownNameError for a format.
    """
    chosen: Format = FORMATS[format]
    if chosen.write is None:
        writable = ", ".join(name for name, format in FORMATS.items() if format.write)
        raise RefusedError(f"monosem reads {chosen.title} but does not write it; it writes {writable}")
    chosen.write(model, Path(path), dict(metadata or {}))
    return Path(path)


def _guarded(found: Candidate, step: Any) -> Any:
    """What a damaged file makes a reader stumble over becomes one CheckpointError."""
    try:
        return step(found)
    except (CheckpointError, RefusedError):
        raise
    except (MonosemError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        kind = "" if isinstance(error, MonosemError) else f"{type(error).__name__}: "
        why = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{found.path} is damaged or not what it seems ({kind}{why})") from error


def _finite(value: Any) -> Any:
    """Others write NaN and Infinity into JSON, where they do not belong; as text they survive."""
    if isinstance(value, dict):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

"""What a format is: how to recognise, read and write it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monosem.base.registry import Registry
from monosem.core.model import SDL
from monosem.interop.files import Candidate


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model read from a file, and what the file says beside it.

    `metadata` holds `model_name` and `hook_name` where known, and `source`: the format and its configuration
    verbatim. `notes` say what was folded or chosen; `dead` is the share of latents known to be dead.
    `unknown_scale` says why a factor on the inputs is needed that the file does not hold.
    """

    model: SDL
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dead: float | None = None
    unknown_scale: str = ""
    format: str = ""


@dataclass(frozen=True)
class Format:
    """One file format. `write` takes the model, the folder and metadata; None where we only read.

    `shape` says which files it is, for messages and documentation.
    """

    title: str
    shape: str
    recognise: Callable[[Candidate], bool]
    read: Callable[[Candidate], Loaded]
    write: Callable[[SDL, Path, dict[str, Any]], None] | None = None


FORMATS: Registry[Format] = Registry("format")

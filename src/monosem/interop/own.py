"""monosem's own format, described in docs/format.md: a folder with config.json and model.safetensors."""

from pathlib import Path
from typing import Any

from monosem.core.io import load_config, load_model, save_model
from monosem.core.model import SDL
from monosem.interop.files import Candidate
from monosem.interop.format import FORMATS, Format, Loaded


def _recognise(found: Candidate) -> bool:
    """config.json whose format begins with monosem."""
    return found.has("config.json") and str(found.json("config.json").get("format", "")).startswith("monosem.model/")


def read(found: Candidate) -> Loaded:
    """Read the folder."""
    model = load_model(found.folder)
    metadata = load_config(found.folder).get("metadata")
    return Loaded(model, metadata if isinstance(metadata, dict) else {})


def write(model: SDL, folder: Path, metadata: dict[str, Any]) -> None:
    """Write the folder."""
    save_model(model, folder, metadata)


FORMATS.add("monosem", Format("monosem", "config.json, model.safetensors", _recognise, read, write))

"""Exchange weights with other libraries: read and write their formats so that the function stays the same."""

from monosem.core.folding import fold_decoder_norm, fold_input_scale
from monosem.interop.api import (
    Description,
    describe,
    from_pretrained,
    load,
    push_to_hub,
    read,
    recognise,
    save,
    save_pretrained,
)
from monosem.interop.files import FORMATS, Format, Loaded
from monosem.interop.saebench import SAEBenchModel

__all__ = [
    "FORMATS",
    "Description",
    "Format",
    "Loaded",
    "SAEBenchModel",
    "describe",
    "fold_decoder_norm",
    "fold_input_scale",
    "from_pretrained",
    "load",
    "push_to_hub",
    "read",
    "recognise",
    "save",
    "save_pretrained",
]

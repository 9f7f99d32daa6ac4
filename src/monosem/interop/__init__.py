"""Exchange weights with other libraries: read and write their formats so that the function stays the same."""

from monosem.interop.api import Description, describe, load, read, recognise, save
from monosem.interop.folding import fold_decoder_norm, fold_input_scale
from monosem.interop.format import FORMATS, Format, Loaded
from monosem.interop.hub import from_pretrained, push_to_hub, save_pretrained
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

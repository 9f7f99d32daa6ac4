"""A small model, rows of tokens and hostile text for the tests of the page of latents."""

import base64
import json
import zlib
from typing import Any

import numpy as np
import torch

from monosem import TensorSource, method
from monosem.core.model import SDL
from monosem.data.table import Labels
from monosem.inspect.page import _TYPES
from monosem.inspect.rows import Rows

N_Q = 24
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&<!-- $data ${x} \u2028"
_WORDS = (" cat", " dog", "ing", "\n", " the", " <b>bold</b>", " 42", " ", "\ufffd", ' "quoted"')


def model(name: str = "topk(k=2)", n_q: int = N_Q) -> SDL:
    """An untrained model of width 6."""
    return method(name).build(n_q, (6,), (6,))[0].eval()


def token_rows(word: str = " evil", count: int = 1200) -> Rows:
    """Tokens in documents of 1 to 60, in three classes; the model sees a direction per token and some noise."""
    generator = np.random.default_rng(7)
    words = (*_WORDS, word)
    token = generator.integers(0, len(words), count)
    x = generator.standard_normal((len(words), 6))[token] + 0.3 * generator.standard_normal((count, 6))
    document = np.repeat(np.arange(count), generator.integers(1, 61, count))[:count]
    first = np.flatnonzero(np.diff(document, prepend=-1))
    position = np.arange(count) - np.repeat(first, np.diff(first, append=count))
    labels = Labels(torch.from_numpy(document % 3), ("red", EVIL, "blue"))
    source = TensorSource(torch.from_numpy(x.astype(np.float32)))
    return Rows(source, labels, token, document, position, lambda ids: [words[i] for i in ids], title="samples")


def unpack(text: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the page's script makes of what `pack` made: the header, and arrays up to their shapes."""
    whole = zlib.decompress(base64.b64decode(text))
    first = 4 + int.from_bytes(whole[:4], "little")
    header, arrays = json.loads(whole[4:first]), {}
    for name, (kind, size, at) in header.pop("arrays").items():
        dtype = np.dtype(_TYPES[kind])
        planes = np.frombuffer(whole, np.uint8, size * dtype.itemsize, first + at).reshape(dtype.itemsize, size)
        arrays[name] = np.ascontiguousarray(planes.T).view(dtype).reshape(size)
    return header, arrays

"""sparsify's side: the released package's SparseCoder, as SAE, transcoder and skip transcoder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

D, F = 12, 40


def _values(coder: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        acts, indices, _ = coder.encode(x)
        latents = torch.zeros(x.shape[0], coder.num_latents).scatter_(1, indices, acts)
        return latents, coder(x).sae_out


def make(root: Path, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """One folder per setting."""
    from sparsify import SparseCoder, SparseCoderConfig

    for case, settings in {
        "topk": {},
        "topk-expansion": {"num_latents": 0, "expansion_factor": 3},
        "groupmax": {"activation": "groupmax", "k": 8},
        "skip": {"skip_connection": True},
        "transcoder": {"transcode": True},
        "skip_transcoder": {"transcode": True, "skip_connection": True},
    }.items():
        coder = SparseCoder(D, SparseCoderConfig(**{"num_latents": F, "k": 5, **settings}))
        with torch.no_grad():
            for parameter in coder.parameters():
                parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.ndim == 2 else 0.3))
        coder.save_to_disk(root / case)
        yield case, *_values(coder, x)


def read(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """Load with the package's own loader."""
    from sparsify import SparseCoder

    return _values(SparseCoder.load_from_disk(folder), x)

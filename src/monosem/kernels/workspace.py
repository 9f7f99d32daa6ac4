"""Memory that is used again at every step: fresh pages of tens of megabytes cost as much as filling them."""

import threading

import torch
from torch import Tensor

__all__ = ["workspace"]

_held = threading.local()


def workspace(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor whose memory the next call of this name takes over: use it, do not keep it."""
    known: dict[tuple[str, torch.dtype, torch.device], Tensor] = _held.__dict__.setdefault("tensors", {})
    size = 1
    for length in shape:
        size *= length
    key = (name, dtype, device)
    if key not in known or not size <= known[key].numel() <= 4 * size:
        with torch.inference_mode(False):  # memory born in inference mode could not be written outside it
            known[key] = torch.empty(size, dtype=dtype, device=device)
    return known[key][:size].view(shape)

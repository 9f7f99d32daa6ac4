"""Fingerprint of a model: cheap at any size, and different for different weights."""

import hashlib
from typing import Any

import torch
from torch import nn

SAMPLED = 1024
"""Numbers read from every parameter, evenly spread."""


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Class, number of parameters, and a sha256 over every parameter's and buffer's name, type, shape and a sample.

    Two models that differ only in numbers between the sampled ones have the same fingerprint.
    """
    total = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLED)
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(flat[::step].to("cpu", torch.float64).numpy().tobytes())
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"class": type(model).__name__, "parameters": count, "sha256": total.hexdigest()}

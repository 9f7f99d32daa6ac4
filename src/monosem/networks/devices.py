"""Where a network takes its inputs, also when it lies on several devices or in several processes, or is off-loaded."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")
_Inputs = TypeVar("_Inputs")


def input_device(model: nn.Module) -> torch.device:
    """Where a network's tokens belong: with its embedding; else with its first parameter.

    An off-loaded embedding has no place of its own ("meta"); accelerate's hook says where it runs.
    """
    embedding = _embedding(model)
    for module in (model,) if embedding is None else (embedding, model):
        running = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if running is not None:
            return torch.device(running)
        placed = (parameter.device for parameter in module.parameters() if parameter.device.type != "meta")
        device = next(placed, None)
        if device is not None:
            return device
    return CPU


def _embedding(model: nn.Module) -> nn.Module | None:
    """The module that reads tokens, of a model in the manner of transformers."""
    find = getattr(model, "get_input_embeddings", None)
    try:
        embedding = None if find is None else find()
    except NotImplementedError:
        return None
    return embedding if isinstance(embedding, nn.Module) else None


def is_split(model: nn.Module) -> bool:
    """Whether parameters lie in parts in several processes, as tensor parallelism leaves them."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, which may lie in parts in several processes; all of them call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def moved(inputs: _Inputs, device: torch.device) -> _Inputs:
    """The same inputs (a tensor, or a mapping of such) on a device; what is no tensor stays."""
    value: Any = inputs
    if isinstance(value, Mapping):
        value = {name: moved(part, device) for name, part in value.items()}
    elif isinstance(value, Tensor):
        value = value.to(device)
    return value  # type: ignore[no-any-return]

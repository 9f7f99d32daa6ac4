"""An activation applied to a matrix of pre-activations directly, without a model."""

import torch
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.core.activations import Activation, Context


def parameters(activation: Activation, n_q: int, seed: int = 0) -> dict[str, Tensor]:
    """Float64 parameters off their start, positive where a threshold needs it, and what else `at` may be asked for."""
    generator = torch.Generator().manual_seed(seed)
    table = {
        name: value.double() + 0.3 * torch.rand(n_q, generator=generator, dtype=torch.float64)
        for name, value in activation.parameters(n_q).items()
    }
    table["decoder_norm"] = 0.5 + torch.rand(n_q, generator=generator, dtype=torch.float64)
    table["b_E"] = torch.randn(n_q, generator=generator, dtype=torch.float64)
    return table | {name: value.clone() for name, value in activation.buffers(n_q).items()}


def selected(activation: Activation, z: Tensor, table: dict[str, Tensor], context: Context) -> Tensor:
    """The mask of the carried cells."""
    chosen = activation.select(activation.score(z, table.__getitem__), table.__getitem__, context)
    return chosen.mask() if isinstance(chosen, Positions) else chosen


def sigma(activation: Activation, z: Tensor, table: dict[str, Tensor], context: Context) -> Tensor:
    """The code."""
    value = activation.value(z, table.__getitem__)
    return torch.where(selected(activation, z, table, context), value, torch.zeros_like(value))

"""The definition of both operations, in plain torch with plain autograd."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.base.blocks import Block
from monosem.kernels.precision import multiply


def read(
    x: Float[Tensor, "batch n_p"], bias: Float[Tensor, " n_q"], blocks: Sequence[Block], weights: Sequence[Tensor]
) -> Float[Tensor, "batch n_q"]:
    """Pre-activations of every latent.

    Equation: z[b, j] = bias[j] + sum over blocks that hold latent j of <x[b, columns], W_block[j]>.
    """
    if len(blocks) == 1 and blocks[0].shape == (bias.numel(), x.shape[1]):
        return torch.addmm(bias, x, weights[0].T)
    z = bias.expand(x.shape[0], -1)
    for block, weight in zip(blocks, weights, strict=True):
        part = x[:, block.columns] @ weight.T
        z = z + torch.nn.functional.pad(part, (block.first, bias.numel() - block.last))
    return z


def write(
    code: Float[Tensor, "batch n_q"], width: int, blocks: Sequence[Block], weights: Sequence[Tensor]
) -> Float[Tensor, "batch n_r"]:
    """What a code writes, without bias.

    Equation: out[b, columns] = sum over blocks of code[b, latents] @ W_block.
    """
    if len(blocks) == 1 and blocks[0].shape == (code.shape[1], width):
        return multiply(code, weights[0])
    out = code.new_zeros(code.shape[0], width)
    for block, weight in zip(blocks, weights, strict=True):
        part = multiply(code[:, block.latents], weight)
        out = out + torch.nn.functional.pad(part, (block.left, width - block.right))
    return out

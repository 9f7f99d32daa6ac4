"""A block-structured weight, stored latent-major: one parameter per block."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.base.blocks import Block
from monosem.kernels.ops import row_norms


class BlockMap(nn.Module):
    """Weights [latents, columns] of each block of an [n_q, width] matrix that is zero elsewhere."""

    def __init__(self, blocks: Sequence[Block], n_q: int, width: int) -> None:
        super().__init__()
        self.blocks, self.n_q, self.width = tuple(blocks), n_q, width
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(block.shape)) for block in self.blocks)

    @property
    def own(self) -> dict[str, Tensor]:
        """Tensors that the weights are computed from, by name; none where the weights are parameters."""
        return {}

    def part(self, latents: range, columns: range) -> "BlockMap":
        """The rows of some latents on some columns, both numbered from 0 there."""
        blocks, weights = [], []
        for block, weight in zip(self.blocks, self.weights, strict=True):
            inside = block.within(latents, columns)
            if inside is not None:
                at = inside.seen_from(block.first, block.left)
                own = weight.detach()[at.latents, at.columns].contiguous().clone()
                weights.append(nn.Parameter(own, weight.requires_grad))
                blocks.append(inside.seen_from(latents.start, columns.start))
        with torch.device("meta"):
            part = BlockMap(blocks, len(latents), len(columns))
        part.weights = nn.ParameterList(weights)
        return part

    @property
    def is_whole(self) -> bool:
        """Whether one block holds the whole matrix."""
        return len(self.blocks) == 1 and self.blocks[0].shape == (self.n_q, self.width)

    def dense(self) -> Float[Tensor, "n_q width"]:
        """The whole matrix; the parameter itself where one block holds it, else a copy (differentiable)."""
        if self.is_whole:
            whole: Tensor = self.weights[0]
            return whole
        dense: Tensor = self.weights[0].new_zeros(self.n_q, self.width)
        for block, weight in zip(self.blocks, self.weights, strict=True):
            frame = (block.left, self.width - block.right, block.first, self.n_q - block.last)
            dense = dense + nn.functional.pad(weight, frame)
        return dense

    def norms(self) -> Float[Tensor, " n_q"]:
        """||W[j]||, per latent; differentiable (0 at a row of zeros)."""
        if self.is_whole:
            return row_norms(self.weights[0])
        frames = [(block.first, self.n_q - block.last) for block in self.blocks]
        parts = [nn.functional.pad(row_norms(w), frame) for w, frame in zip(self.weights, frames, strict=True)]
        norms: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        return norms

    def squared_norms(self, columns: slice | None = None) -> Float[Tensor, " n_q"]:
        """sum over (some) columns of W[j]^2, per latent; differentiable."""
        total: Tensor = self.weights[0].new_zeros(self.n_q)
        left, right = (0, self.width) if columns is None else (columns.start, columns.stop)
        for block, weight in zip(self.blocks, self.weights, strict=True):
            a, b = max(left, block.left), min(right, block.right)
            if a < b:
                part = weight[:, a - block.left : b - block.left].pow(2).sum(1)
                total = total + nn.functional.pad(part, (block.first, self.n_q - block.last))
        return total

    @torch.no_grad()
    def set_rows(self, latents: Tensor, rows: Float[Tensor, "k width"]) -> None:
        """Overwrite the rows of some latents; columns outside their blocks are left at zero."""
        for block, weight in zip(self.blocks, self.weights, strict=True):
            inside = (latents >= block.first) & (latents < block.last)
            weight[latents[inside] - block.first] = rows[inside, block.columns].to(weight.dtype)

    @torch.no_grad()
    def along_rows(self, latents: Tensor, x: Float[Tensor, "k width"]) -> Float[Tensor, " k"]:
        """<W[latents[i]], x[i]> for each i."""
        total = x.new_zeros(latents.numel())
        for block, weight in zip(self.blocks, self.weights, strict=True):
            inside = (latents >= block.first) & (latents < block.last)
            total[inside] += (weight[latents[inside] - block.first] * x[inside, block.columns]).sum(1)
        return total

    @torch.no_grad()
    def scale_rows(self, factors: Float[Tensor, " n_q"]) -> None:
        """Multiply every latent's row by its factor, in place."""
        for block, weight in zip(self.blocks, self.weights, strict=True):
            weight.mul_(factors[block.latents, None])

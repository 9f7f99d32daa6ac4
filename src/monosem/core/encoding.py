"""Encode tile by tile of rows: z of a whole batch never exists where only some of its cells are carried.

A tile is one encoder product into memory that every tile uses again. What is selected of it leaves with its z; where
the first tile carries more than DENSE_ABOVE of its cells, z of the whole batch is computed instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.core.activation import Activation, At, Context
from monosem.core.selection import DENSE_ABOVE, Top, top_of_row
from monosem.kernels.blocks import Block
from monosem.kernels.workspace import workspace

__all__ = ["TILE", "Chosen", "Encoder", "Picked"]

TILE = 256
"""Rows of a tile: enough for the product to run at full speed."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Carried cells and z there."""

    at: Positions
    z: Float[Tensor, " nnz"]

    @staticmethod
    def of(at: Positions, z: Float[Tensor, "rows n_q"]) -> "Chosen":
        """These cells of z."""
        return Chosen(at, z.reshape(-1)[at.row * z.shape[1] + at.col])

    @staticmethod
    def joined(parts: Sequence["Chosen"]) -> "Chosen":
        """The cells of tiles of rows, one below the other."""
        if len(parts) == 1:
            return parts[0]
        return Chosen(Positions.below([part.at for part in parts]), torch.cat([part.z for part in parts]))


@dataclass(frozen=True, eq=False)
class Picked:
    """What a batch carries: its code's cells and each request's; or, where that is not sparse, z of every cell.

    `dense`: z is given because the code itself is dense.
    """

    code: Chosen | None
    extra: dict[Top, Chosen]
    z: Float[Tensor, "batch n_q"] | None
    dense: bool = False


@dataclass(frozen=True, eq=False)
class Encoder:
    """What one forward pass encodes with; nothing here has a gradient."""

    activation: Activation
    blocks: Sequence[Block]
    weights: Sequence[Tensor]
    bias: Float[Tensor, " n_q"]
    at: Callable[[Positions | None], At]
    context: Context

    def product(self, x: Tensor, out: Float[Tensor, "rows n_q"]) -> Tensor:
        """z of some rows, into `out`."""
        if len(self.blocks) == 1 and self.blocks[0].shape == (out.shape[1], x.shape[1]):
            return torch.mm(x, self.weights[0].T, out=out).add_(self.bias)
        out.copy_(self.bias.expand_as(out))
        for block, weight in zip(self.blocks, self.weights, strict=True):
            out[:, block.latents].addmm_(x[:, block.columns], weight.T)
        return out

    def every(self, x: Float[Tensor, "batch n_p"], known: Tensor | None = None) -> Float[Tensor, "batch n_q"]:
        """z of every cell; `known` are its first rows."""
        z = x.new_empty(x.shape[0], self.bias.numel())
        start = 0 if known is None else known.shape[0]
        if known is not None:
            z[:start] = known
        self.product(x[start:], z[start:])
        return z

    def pick(
        self, x: Float[Tensor, "batch n_p"], requests: Sequence[Top], dead: Bool[Tensor, " n_q"] | None
    ) -> Picked:
        """The cells that the code and each request carry."""
        n_q, batch = self.bias.numel(), x.shape[0]
        among = {r: _among(r, dead, n_q, x.device) for r in requests}
        if any(min(r.k, n_q if m is None else int(m.sum())) > DENSE_ABOVE * n_q for r, m in among.items()):
            return Picked(None, {}, self.every(x))
        fold = self.activation.fold(self.context, batch)
        code: list[Chosen] = []
        extra: dict[Top, list[Chosen]] = {r: [] for r in requests}
        tile = workspace("z", (min(TILE, batch), n_q), x.dtype, x.device)
        for start in range(0, max(batch, 1), TILE):
            rows = x[start : start + TILE]
            z = self.product(rows, tile[: rows.shape[0]])
            score = self.activation.score(z, self.at(None))
            chosen = fold.update(score, self.at(None))
            if not isinstance(chosen, Positions) or chosen.nnz > DENSE_ABOVE * z.numel():
                if start == 0:
                    return Picked(None, {}, self.every(x, z), dense=True)
                chosen = chosen if isinstance(chosen, Positions) else Positions.from_mask(chosen)
            code.append(Chosen.of(chosen, z))
            for r in requests:
                extra[r].append(Chosen.of(top_of_row(score, r.k, among[r]), z))
        whole = Chosen.joined(code)
        keep = fold.finish(self.activation.score(whole.z, self.at(whole.at)))
        if keep == "again":
            return Picked(None, {}, self.every(x))
        if isinstance(keep, Tensor):
            whole = Chosen(whole.at.subset(keep), whole.z[keep])
        return Picked(whole, {r: Chosen.joined(parts) for r, parts in extra.items()}, None)


def _among(request: Top, dead: Tensor | None, n_q: int, device: torch.device) -> Tensor | None:
    if not request.dead:
        return None
    return torch.zeros(n_q, dtype=torch.bool, device=device) if dead is None else dead

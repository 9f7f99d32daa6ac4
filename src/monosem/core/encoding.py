"""Encode tile by tile: z of a whole batch never exists where only some of its cells are carried.

A tile is one encoder product into memory that every tile uses again. What is selected of it leaves with its z; where
a sample, or the first tile, carries more than DENSE_ABOVE of its cells, z of the whole batch is computed instead.
Tiles are columns (latents) where a rule on z selects, since W then goes through the product once; else rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.base.sparse import Positions
from monosem.core.activation import Activation, At, Context, Fold
from monosem.core.columns import SAMPLE_ROWS, Ranked, crowded, floors_of, positions, select_by_columns, step_of_sample
from monosem.core.selection import DENSE_ABOVE, SAMPLE, Above, Largest, Rule, Top, top_of_row
from monosem.kernels.blocks import Block
from monosem.kernels.gpu.launch import serves
from monosem.kernels.gpu.select import encode_tops
from monosem.kernels.native.calls import usable
from monosem.kernels.native.certified import Halved
from monosem.kernels.native.select import above, top
from monosem.kernels.precision import in_bfloat16, product
from monosem.kernels.workspace import recycled, workspace

TILE = 256
"""Rows of a tile of rows: enough for the product to run at full speed."""


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
    halved: Halved | None = None
    """The encoder in both precisions, where bfloat16 products propose what is selected."""
    low: bool = False
    """The same on a GPU."""

    @cached_property
    def whole(self) -> bool:
        """Whether one weight holds the encoder of every latent."""
        return len(self.blocks) == 1 and self.blocks[0].shape == (self.bias.numel(), self.weights[0].shape[1])

    @cached_property
    def direct(self) -> bool:
        """Whether compiled kernels may select by a rule on z itself."""
        return self.activation.has_rule and self.activation.scores_z() and usable(self.bias, *self.weights)

    def unbiased(self, x: Tensor, out: Float[Tensor, "rows n_q"], low: bool = False) -> Tensor:
        """z of some rows without its bias, into `out`; `low`: in bfloat16."""
        if self.whole:
            return out.copy_(product(x, self.weights[0].T)) if low else torch.mm(x, self.weights[0].T, out=out)
        out.zero_()
        for block, weight in zip(self.blocks, self.weights, strict=True):
            out[:, block.latents].addmm_(x[:, block.columns], weight.T)
        return out

    def _streamed(self, x: Tensor, rule: Rule | None, among: dict[Top, Tensor | None]) -> Picked | None:
        """On a GPU, the k largest of every row and every request from one product that is never stored whole."""
        n_q = self.bias.numel()
        if not (isinstance(rule, Largest) and self.whole and self.activation.scores_z()):
            return None
        wanted = [(self.bias, rule.k)]
        for request, mask in among.items():
            bias = self.bias if mask is None else self.bias.masked_fill(~mask, -torch.inf)
            wanted.append((bias, min(request.k, n_q if mask is None else int(mask.sum()))))
        found = [
            Chosen(Positions.from_rows(top.index, n_q), top.value.reshape(-1))
            for top in encode_tops(x, self.weights[0], wanted, low=self.low)
        ]
        return Picked(found[0], dict(zip(among, found[1:], strict=True)), None)

    def every(self, x: Float[Tensor, "batch n_p"], known: Tensor | None = None) -> Float[Tensor, "batch n_q"]:
        """z of every cell; `known` are its first rows."""
        z = recycled((x.shape[0], self.bias.numel()), x)
        start = 0 if known is None else known.shape[0]
        if known is not None:
            z[:start] = known
        self.unbiased(x[start:], z[start:], in_bfloat16()).add_(self.bias)
        return z

    def pick(self, x: Float[Tensor, "batch n_p"], requests: Sequence[Top], dead: Bool[Tensor, " n_q"] | None) -> Picked:
        """The cells that the code and each request carry."""
        n_q, batch = self.bias.numel(), x.shape[0]
        among = {r: _among(r, dead, n_q, x.device) for r in requests}
        if any(min(r.k, n_q if m is None else int(m.sum())) > DENSE_ABOVE * n_q for r, m in among.items()):
            return Picked(None, {}, self.every(x))
        fold = self.activation.fold(self.context, batch)
        if serves(x, *self.weights):
            streamed = self._streamed(x, fold.rule(self.at(None)), among)
            if streamed is not None:
                return streamed
        if self.halved is not None and batch:
            return self._certified(x, fold, among) or replace(self, halved=None).pick(x, requests, dead)
        if self.direct and self.whole and batch and usable(x):
            if fold.rule(self.at(None)) is None:  # few latents may be most of the code: ask for little, then for more
                fold.look(self.sample(x).reshape(-1), batch, batch * n_q, slack=3.0)
            found = self._by_columns(x, fold, among)
            if found is not None:
                return found
        return self._by_tiles(x, fold, requests, among, dead)

    def sample(self, x: Float[Tensor, "batch n_p"]) -> Float[Tensor, "some_rows some_latents"]:
        """z of some latents, evenly spaced, at some rows, evenly spaced."""
        step = step_of_sample(self.bias.numel())
        some = x[:: max(1, x.shape[0] // SAMPLE_ROWS)]
        return (some @ self.weights[0][::step].T).add_(self.bias[::step])

    def _by_columns(self, x: Float[Tensor, "batch n_p"], fold: Fold, among: dict[Top, Tensor | None]) -> Picked | None:
        """One product, latents by latents; None where a row has fewer numbers (NaN) than it is to carry."""
        rule, n_q = fold.rule(self.at(None)), self.bias.numel()
        assert rule is not None
        if isinstance(rule, Above) and (
            crowded(rule, self.sample(x)) if rule.most is None else rule.most > DENSE_ABOVE * x.shape[0] * n_q
        ):
            return Picked(None, {}, self.every(x), dense=True)
        found = select_by_columns(x, self.weights[0], self.bias, [rule, *(Ranked(r.k, m) for r, m in among.items())])
        if found is None:
            return None
        code, *extra = (Chosen(at, z) for at, z in found)
        kept = self._finished(code, fold)
        if kept is None:
            return self._by_columns(x, fold, among)
        return Picked(kept, dict(zip(among, extra, strict=True)), None)

    def _certified(self, x: Tensor, fold: Fold, among: dict[Top, Tensor | None]) -> Picked | None:
        """bfloat16 products propose and exact values decide; None where cells are many, or NaN."""
        halved, n_q, cells = self.halved, self.bias.numel(), x.shape[0] * self.bias.numel()
        assert halved is not None
        if fold.rule(self.at(None)) is None:
            fold.look(halved.sample(x, SAMPLE), x.shape[0], cells)
        rule = fold.rule(self.at(None))
        if isinstance(rule, Largest):
            code = _chosen(halved.top(x, rule.k), n_q)
        else:
            assert isinstance(rule, Above)
            code = _chosen(halved.above(x, floors_of(rule), int(DENSE_ABOVE * cells) + 8), n_q)
        if code is None:
            return None
        kept = self._finished(code, fold)
        if kept is None:
            return self._certified(x, fold, among)
        extra: dict[Top, Chosen] = {}
        for r, mask in among.items():
            found = _chosen(halved.top(x, min(r.k, n_q)), n_q) if mask is None else self._dead(x, r.k, mask)
            if found is None:
                return None
            extra[r] = found
        return Picked(kept, extra, None)

    def _dead(self, x: Tensor, k: int, mask: Tensor) -> Chosen:
        """The largest of some latents, whose z alone is computed."""
        latents, parts = mask.nonzero().squeeze(1), []
        weight, bias = self.weights[0].index_select(0, latents), self.bias[latents]
        for start in range(0, x.shape[0], TILE):
            z = torch.addmm(bias, x[start : start + TILE], weight.T)
            at = top_of_row(z, min(k, latents.numel()))
            parts.append(Chosen(Positions(at.crow, latents[at.col], mask.numel()), Chosen.of(at, z).z))
        return Chosen.joined(parts)

    def _finished(self, code: Chosen, fold: Fold) -> Chosen | None:
        """What is left of a batch's cells; None where the fold has lowered what it asks of one."""
        keep = fold.finish(self.activation.score(code.z, self.at(code.at)))
        if isinstance(keep, str):
            return code if keep == "all" else None
        return Chosen(code.at.subset(keep), code.z[keep])

    def _by_tiles(
        self,
        x: Float[Tensor, "batch n_p"],
        fold: Fold,
        requests: Sequence[Top],
        among: dict[Top, Tensor | None],
        dead: Tensor | None,
    ) -> Picked:
        code: list[Chosen] = []
        extra: dict[Top, list[Chosen]] = {r: [] for r in requests}
        for start in range(0, max(x.shape[0], 1), TILE):
            tile = _Tile(self, x[start : start + TILE], start == 0)
            chosen = tile.code(fold)
            if chosen is None:
                return Picked(None, {}, self.every(x, tile.z if start == 0 else None), dense=True)
            code.append(chosen)
            for r in requests:
                extra[r].append(tile.request(r, among[r]))
        kept = self._finished(Chosen.joined(code), fold)
        if kept is None:
            return self._by_tiles(x, fold, requests, among, dead)
        return Picked(kept, {r: Chosen.joined(parts) for r, parts in extra.items()}, None)


class _Tile:
    """Some rows: their z, or what selects from them without it.

    Where the activation's rule is on z itself, compiled kernels add the bias while they select.
    """

    def __init__(self, encoder: Encoder, rows: Tensor, first: bool) -> None:
        self.encoder, self.rows, self.first = encoder, rows, first
        self.n_q, self.cells = encoder.bias.numel(), rows.shape[0] * encoder.bias.numel()

    @cached_property
    def raw(self) -> Float[Tensor, "rows n_q"]:
        """z without its bias, in memory that the next tile uses again."""
        shape = (self.rows.shape[0], self.n_q)
        return self.encoder.unbiased(self.rows, workspace("z", shape, self.rows.dtype, self.rows.device))

    @cached_property
    def z(self) -> Float[Tensor, "rows n_q"]:
        """z; `raw` is gone then."""
        return self.raw.add_(self.encoder.bias)

    def code(self, fold: Fold) -> Chosen | None:
        """The code's cells; None where they are many, or bfloat16 cannot tell."""
        e = self.encoder
        rule = fold.rule(e.at(None)) if e.direct else None
        if isinstance(rule, Largest):
            found = self._top(rule.k, None)
            if found is not None:
                return found
        elif isinstance(rule, Above):
            return self._above(rule)
        chosen = fold.update(e.activation.score(self.z, e.at(None)), e.at(None))
        if self.first and (not isinstance(chosen, Positions) or chosen.nnz > DENSE_ABOVE * self.cells):
            return None
        return Chosen.of(chosen if isinstance(chosen, Positions) else Positions.from_mask(chosen), self.z)

    def _top(self, k: int, among: Tensor | None) -> Chosen | None:
        return _chosen(top(self.raw, k, among, self.encoder.bias), self.n_q)

    def _above(self, rule: Above) -> Chosen | None:
        """Only the first tile may say that cells are too many."""
        room = int(DENSE_ABOVE * self.cells) + 8 if self.first else self.cells
        return _chosen(above(self.raw, floors_of(rule), room, self.encoder.bias), self.n_q)

    def request(self, r: Top, among: Tensor | None) -> Chosen:
        """A request's cells."""
        e = self.encoder
        latents = None if among is None else among.nonzero().squeeze(1)
        k = min(r.k, self.n_q if latents is None else latents.numel())
        if e.direct and k and "z" not in self.__dict__:
            found = self._top(k, latents)
            if found is not None:
                return found
        return Chosen.of(top_of_row(e.activation.score(self.z, e.at(None)), r.k, among), self.z)


def _among(request: Top, dead: Tensor | None, n_q: int, device: torch.device) -> Tensor | None:
    if not request.dead:
        return None
    return torch.zeros(n_q, dtype=torch.bool, device=device) if dead is None else dead


def _chosen(found: tuple[Tensor, ...] | None, n_q: int) -> Chosen | None:
    return None if found is None else Chosen(positions(found, n_q), found[-1].reshape(-1))

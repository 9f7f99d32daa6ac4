"""A model whose latents lie in several processes: what each has, and what is selected of all of them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from monosem.base.blocks import Block
from monosem.base.errors import RefusedError, check
from monosem.base.group import Group
from monosem.base.selection import Above, Custom, Request, Rule, TopK
from monosem.base.sparse import Code, DenseCode, Positions, SparseCode
from monosem.core.pairs import Layout
from monosem.kernels.ops import Mask, Score, Selection, carried, kth, subset, top_index

if TYPE_CHECKING:
    from monosem.core.model import SDL


def edges(n_q: int, size: int) -> list[int]:
    """Where the latents of each of `size` processes begin, and where the last ones end; sizes differ by one at most.

    Example:
        >>> edges(10, 4)
        [0, 2, 5, 7, 10]
    """
    check(n_q >= size, f"n_q={n_q} latents do not reach for {size} processes; start fewer")
    return [n_q * rank // size for rank in range(size + 1)]


class Share(NamedTuple):
    """What one of several processes has: the latents [first, last), and of W_D their columns.

    With `columns` it has these coordinates of x_r, and of W_D those of every latent's column.
    """

    first: int
    last: int
    columns: tuple[int, int] | None = None


def share_of(model: "SDL") -> Share:
    """What a model has of the whole."""
    columns = (model.columns.start, model.columns.stop) if model.targets.size > 1 else None
    return Share(model.first, model.first + model.n_q, columns)


def column_edges(layout: Layout, size: int) -> list[int]:
    """Where the coordinates of x_r of each of `size` processes begin, and where the last ones end.

    Each has as many weights of W_D, to a column: a late target of a cross-layer transcoder has more than an early one.
    """
    weights = torch.zeros(layout.n_r, dtype=torch.float64)
    for block in layout.decoder:
        weights[block.columns] += block.last - block.first
    upto = weights.cumsum(0)
    inner = [int(torch.searchsorted(upto, float(upto[-1]) * rank / size)) + 1 for rank in range(1, size)]
    cuts = [0, *inner, layout.n_r]
    rises = all(left < right for left, right in pairwise(cuts))
    check(rises, f"n_r={layout.n_r} coordinates do not reach for {size} processes; start fewer")
    return cuts


def cut(model: "SDL", first: int, last: int, group: Group) -> None:
    """Leave a model, in place, the latents [first, last), numbered from 0: what this process of a group has.

    Where the group shares by targets, W_D, b_D and W_skip keep their columns of x_r, of all latents.
    Raises: RefusedError for an encoder or a dictionary that is more than rows of its own for each latent; by targets
        for one weight, or one bias, on both sides.
    """
    rows = model.encoder_kind.affine and model.dictionary.free
    what = f"{type(model.encoder_kind).__name__} and {type(model.dictionary).__name__}"
    check(rows, f"only an affine encoder and a free dictionary lie in several processes, not {what}", RefusedError)
    tied = model.encoder.weights is model.decoder.weights
    model.group, model.first, own = group, first, range(first, last)
    if model.targets.size > 1:
        both = "what is tied is read by latents and written by targets"
        check(not tied and model.pre_bias != "tied", f"{both}; share by latents, or untie it", RefusedError)
        model.columns = range(*column_edges(model.layout, group.size)[group.rank :][:2])
    model.decoder = model.decoder.part(own if model.targets.size == 1 else range(model.n_q), model.columns)
    model.encoder = model.encoder.part(own, range(model.layout.n_p))
    if tied:
        model.encoder.weights = model.decoder.weights
    left, right = model.columns.start, model.columns.stop
    widths = tuple(max(0, min(part.stop, right) - max(part.start, left)) for part in model.layout.r_slices)
    blocks, columns = model.encoder.blocks, model.decoder.blocks
    model.layout = replace(model.layout, n_q=last - first, r_widths=widths, encoder=blocks, decoder=columns)

    def mine(vector: nn.Parameter, at: range = own) -> nn.Parameter:
        return nn.Parameter(vector.detach()[at.start : at.stop].clone(), vector.requires_grad)

    model.b_E = mine(model.b_E)
    model.act = nn.ParameterDict({name: mine(vector) for name, vector in model.act.items()})
    if model.targets.size > 1:
        model.b_D = mine(model.b_D, model.columns)
        model.W_skip = None if model.W_skip is None else mine(model.W_skip, model.columns)


_BLOCK = re.compile(r"(?:.*\.)?(encoder|decoder)\.(\d+)(?:\..*)?")
_BY_COLUMNS = re.compile(r"(?:(?:model|adam)\.)?(b_D|W_skip)(\..*)?")
_COMMON = re.compile(r"(?:(?:model|adam)\.)?(b_in|state|encoder\.[a-z]\w*|decoder\.[a-z]\w*)(\..*)?")
"""Tensors with a row for each coordinate of x_r, and those without a row for each latent."""


def whole_name(model: "SDL", name: str) -> str:
    """A tensor of the own format under the name that it has in the whole model: blocks are numbered there."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    side, share = match[1], share_of(model)
    here = [i for i, _ in enumerate(getattr(model.whole, side)) if all(region(model.whole, f"{side}.{i}", share))]
    return f"{side}.{here[int(match[2])]}"


Region = tuple[range, ...]
"""The rows of a tensor, and of a block the columns."""


def region(whole: Layout, name: str, share: Share) -> Region:
    """Which part of a tensor of the whole model a share has; () of one that all processes have alike."""
    match, latents, columns = _BLOCK.fullmatch(name), range(share.first, share.last), range(whole.n_r)
    if share.columns is not None:
        columns = range(*share.columns)
    if match is None:
        return (columns,) if _BY_COLUMNS.fullmatch(name) else () if _COMMON.fullmatch(name) else (latents,)
    block: Block = getattr(whole, match[1])[int(match[2])]
    if match[1] == "encoder":
        columns = range(whole.n_p)
    elif share.columns is not None:
        latents = range(whole.n_q)
    inside = block.within(latents, columns)
    if inside is None:
        return range(0), range(0)
    at = inside.seen_from(block.first, block.left)
    return range(at.first, at.last), range(at.left, at.right)


def of_all(code: Code, model: "SDL") -> Code:
    """The code of all latents that W_D here writes, from each process's own.

    Sparse where all of them are: of each cell its latent and its value go to the others, 8 bytes, and their gradients
    of the value come back.
    """
    group = model.targets
    if group.size == 1:
        return code
    if bool(group.any(torch.tensor([not code.is_sparse]))):
        values = code.values if isinstance(code, DenseCode) else replace(code, leading=None).to_dense()
        return DenseCode(group.joined(values.T.contiguous()).T)
    assert isinstance(code, SparseCode)
    at = code.at
    counts = torch.stack(group.parts(at.crow.diff().int())).long()
    row = torch.arange(at.batch, device=at.col.device).repeat(group.size).repeat_interleave(counts.flatten())
    order = row.argsort(stable=True)  # row by row, and there by latents
    latents, values = group.gather((at.col + model.first).int()).long(), group.joined(code.values)
    crow = torch.cat([at.crow[:1], counts.sum(0).cumsum(0)])
    return SparseCode(Positions(crow, latents[order], model.whole.n_q), values[order])


def over_shards(chosen: Selection, asked: Sequence[Rule | Request], score: Score | None, group: Group) -> Selection:
    """What is selected of all latents, here: out of what each process selects of its own by the same rule.

    A cell that is selected of all latents is selected of its own process's: those are candidates, whose scores alone
    (4 bytes each) go to the other processes. Ties go to the lower latent as in one process, for the largest of a
    batch row by row. `asked`: the rule, then the requests; `score`: what is ranked, where that is not z.
    Raises: RefusedError for a rule that needs all latents in one place.
    """
    rule, *tops = (each for each in asked if isinstance(each, TopK | Above | Custom))
    parts = [_of_all(part, each, chosen.z, score, group) for part, each in zip(
        (chosen.code, *chosen.extra), (rule, *tops), strict=True)]  # fmt: skip
    needed = len(tops) + 1 < len(asked) or not all(isinstance(part, SparseCode) for part in parts)
    code, *extra = parts
    requested = tuple(part for part in extra if part is not None)
    return Selection(code, requested, chosen.z if needed else None, chosen.fell_back)


def _of_all(
    part: SparseCode | Mask | None, rule: Rule | Request, z: Tensor | None, score: Score | None, group: Group
) -> SparseCode | Mask | None:
    if isinstance(rule, Above) and rule.most is None:
        return part
    grouped = isinstance(rule, TopK) and rule.groups > 1
    text = "it selects among groups of latents, or by a rule of its own, and needs all latents in one process"
    check(isinstance(rule, TopK | Above) and not grouped, text, RefusedError)
    assert part is not None
    at = part.at if isinstance(part, SparseCode) else Positions.from_mask(part)
    if isinstance(part, SparseCode):
        values = part.values
    else:
        assert z is not None
        values = z[part]
    ranked = values if score is None else score(values, at)
    if isinstance(rule, TopK):
        selected = _among_rows(at, ranked, rule.k, group)
    else:
        assert isinstance(rule, Above)
        selected = _among_batch(at, ranked, rule.most or 0, group)
    cells = subset(SparseCode(at, values), selected)
    return cells if z is None else carried(cells.at, z)


def _among_rows(at: Positions, score: Float[Tensor, " nnz"], k: int, group: Group) -> Bool[Tensor, " nnz"]:
    """Which cells, as many in each row, are among the k largest of the row in all processes."""
    shape = (at.batch, at.nnz // max(at.batch, 1))
    order = at.col.view(shape).argsort(1)
    own = score.view(shape).gather(1, order)
    columns, mine = group.place(own.T.contiguous())
    everyone = columns.T.contiguous()
    best = top_index(everyone, min(k, everyone.shape[1]))
    chosen = torch.zeros_like(everyone, dtype=torch.bool).scatter_(1, best, True)
    return torch.empty_like(order, dtype=torch.bool).scatter_(1, order, chosen[:, mine]).view(-1)


def _among_batch(at: Positions, score: Float[Tensor, " nnz"], most: int, group: Group) -> Bool[Tensor, " nnz"]:
    """Which cells are among the `most` largest of the batch in all processes."""
    everyone = group.gather(score)
    if everyone.numel() <= most or not most:
        return torch.full_like(score, bool(most), dtype=torch.bool)
    least = kth(everyone, most)
    chosen, room = score >= least, most - int((everyone > least).sum())
    if int((everyone == least).sum()) > room:  # row by row the lower latent, and lower ranks have lower latents
        tied = score == least
        cell = (at.row[tied] * group.size + group.rank) * 2**32 + at.col[tied]
        chosen[tied] = cell <= group.gather(cell).kthvalue(room).values
    return chosen

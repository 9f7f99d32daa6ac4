"""A model whose latents lie in several processes: what each has, and what is selected of all of them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from monosem.base.blocks import Block
from monosem.base.errors import RefusedError, check
from monosem.base.group import Group
from monosem.base.selection import Above, Custom, Request, Rule, TopK
from monosem.base.sparse import Positions, SparseCode
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


def cut(model: "SDL", first: int, last: int, group: Group) -> None:
    """Leave a model, in place, the latents [first, last), numbered from 0: what this process of a group has.

    Raises: RefusedError for an encoder or a dictionary that is more than rows of its own for each latent.
    """
    rows = model.encoder_kind.affine and model.dictionary.free
    what = f"{type(model.encoder_kind).__name__} and {type(model.dictionary).__name__}"
    check(rows, f"only an affine encoder and a free dictionary lie in several processes, not {what}", RefusedError)
    tied = model.encoder.weights is model.decoder.weights
    model.decoder = model.decoder.part(first, last)
    model.encoder = model.encoder.part(first, last)
    if tied:
        model.encoder.weights = model.decoder.weights
    blocks, columns = model.encoder.blocks, model.decoder.blocks
    model.layout = replace(model.layout, n_q=last - first, encoder=blocks, decoder=columns)

    def mine(vector: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(vector.detach()[first:last].clone(), vector.requires_grad)

    model.b_E = mine(model.b_E)
    model.act = nn.ParameterDict({name: mine(vector) for name, vector in model.act.items()})
    model.group, model.first = group, first


_BLOCK = re.compile(r"(?:.*\.)?(encoder|decoder)\.(\d+)(?:\..*)?")


def whole_name(model: "SDL", name: str) -> str:
    """A tensor of the own format under the name that it has in the whole model: blocks are numbered there."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    here = [i for i, b in enumerate(getattr(model.whole, match[1])) if _inside(b, model.first, model.first + model.n_q)]
    return f"{match[1]}.{here[int(match[2])]}"


def rows_within(whole: Layout, name: str, first: int, last: int) -> range:
    """Which rows of a tensor of the whole model, one that has a row for each latent, the latents [first, last) have."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        return range(first, last)
    block = getattr(whole, match[1])[int(match[2])]
    return range(max(first, block.first) - block.first, max(min(last, block.last), block.first) - block.first)


def _inside(block: Block, first: int, last: int) -> bool:
    return max(block.first, first) < min(block.last, last)


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

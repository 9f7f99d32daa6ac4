"""From rows to a code: the one path of a forward pass, from x to its selection to its latents."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monosem.base.selection import Request, Rule, TopK
from monosem.base.sparse import Code, DenseCode, Positions, SparseCode
from monosem.core.activation import At, Context
from monosem.core.encoders import View
from monosem.core.shards import over_shards
from monosem.kernels.ops import Mask, Product, Score, Selection, rank, read, select

if TYPE_CHECKING:
    from monosem.core.model import SDL

Encoded = tuple[Code, Code, dict[Request, Code]]
"""The code, z along it, and what each request brought."""


def encode(model: "SDL", x: Tensor, requests: Sequence[Request], dead: Tensor | None, context: Context) -> Encoded:
    """Select and read.

    The plain way (`path="reference"`, or an encoder or dictionary of a kind that the kernels do not know) ranks z of
    every cell, made by autograd, and carries dense codes; else `select` decides, and `read` gives its cells gradients.
    """
    at, asked = _at(model), [_resolved(request, dead, model) for request in requests]
    with torch.no_grad():
        rule = model.activation.rule(at(None), context, x.shape[0])
    way = _plain if model.plain else _by_cells
    selection, z = way(model, x, rule, asked, at)
    tops = [request for request in requests if isinstance(request, TopK)]
    extra: dict[Request, Code] = {
        request: _as_code(part, z) for request, part in zip(tops, selection.extra, strict=True)
    }
    code, cells = _latents(model, selection.code, z)
    if len(tops) < len(requests):  # every cell
        assert z is not None
        extra |= {r: cells if isinstance(cells, DenseCode) else DenseCode(z) for r in requests if r not in extra}
    return code, cells, extra


@torch.no_grad()
def scores(model: "SDL", x: Tensor, rule: Rule) -> Tensor:
    """The scores that a rule selects of rows, whatever the activation's own rule."""
    at = _at(model)
    selection, z = (_plain if model.plain else _by_cells)(model, x, rule, (), at)
    code = selection.code
    if isinstance(code, SparseCode):
        return model.group.gather(model.activation.score(code.values, at(code.at)))
    assert code is not None
    assert z is not None
    return model.group.gather(model.activation.score(z, at(None))[code])


def _by_cells(
    model: "SDL", x: Tensor, rule: Rule, requests: Sequence[Request], at: Callable[[Positions | None], At]
) -> tuple[Selection, Tensor | None]:
    """The selection with differentiable z, and z of every cell where it was computed."""
    blocks, weights, bare = model.layout.encoder, list(model.encoder.weights), model.pre_bias == "none"
    with torch.no_grad():
        centred = x if bare else x - model.b_in
        chosen = _selected(model, Product(centred, model.b_E, blocks, weights), rule, requests, _score(model, at))
        model.fell_back = chosen.fell_back
    if x.requires_grad:
        centred = x if bare else x - model.b_in.detach()
    parts = [*chosen.extra, chosen.code]
    cells = [part for part in parts if isinstance(part, SparseCode)]
    values = read(cells, chosen.z, centred, model.group.shared(model.b_in), model.b_E, blocks, weights)
    rest = iter(values)
    *extra, code = [part.with_values(next(rest)) if isinstance(part, SparseCode) else part for part in parts]
    z = None if chosen.z is None else values[-1]
    return Selection(code, tuple(part for part in extra if part is not None), z), z


def _selected(
    model: "SDL", product: Product, rule: Rule, requests: Sequence[Request], score: Score | None
) -> Selection:
    """What is selected of this process's latents, and of all where others have some."""
    implicit = model.activation.vanishes and not model.activation_state()
    chosen = select(product, rule, requests, score, low=model.selection == "bf16", implicit=implicit)
    return chosen if model.group.size == 1 else over_shards(chosen, (rule, *requests), score, model.group)


def _plain(
    model: "SDL", x: Tensor, rule: Rule, requests: Sequence[Request], at: Callable[[Positions | None], At]
) -> tuple[Selection, Tensor | None]:
    """The same, all of it dense."""
    score, tops = _score(model, at), [request for request in requests if isinstance(request, TopK)]

    def sigma(z: Tensor) -> Tensor:
        value: Tensor = model.activation.value(z, model.along(DenseCode(z)))
        return torch.where(_mask(rank(z.detach(), rule, (), score).code), value, torch.zeros_like(value))

    view = View(model.encoder, model.decoder, model.b_in, model.b_E, model.b_D, dict(model.enc.items()), sigma)
    z = model.encoder_kind.pre_activations(x, view)
    chosen = rank(z.detach(), rule, tops, score)
    return Selection(_mask(chosen.code), tuple(_mask(part) for part in chosen.extra), z), z


def _latents(model: "SDL", chosen: SparseCode | Mask | None, z: Tensor | None) -> tuple[Code, Code]:
    """sigma(z) on what was chosen, and z along it."""
    activation = model.activation
    if isinstance(chosen, SparseCode):
        return chosen.with_values(activation.value(chosen.values, model.along(chosen))), chosen
    assert z is not None
    cells, sums = DenseCode(z), None
    if model.plain:
        value = activation.value(z, model.along(cells))
    else:
        value, sums = activation.summed(z, model.along(cells))
    if chosen is not None and not activation.vanishes:
        value, sums = torch.where(chosen, value, torch.zeros_like(value)), None
    return DenseCode(value, sums), cells


def _as_code(part: SparseCode | Mask, z: Tensor | None) -> Code:
    if isinstance(part, SparseCode):
        return part
    assert z is not None
    return DenseCode(torch.where(part, z, torch.zeros_like(z)))


def _mask(part: SparseCode | Mask | None) -> Mask:
    assert part is not None
    return part.at.mask() if isinstance(part, SparseCode) else part


def _score(model: "SDL", at: Callable[[Positions | None], At]) -> Score | None:
    if model.activation.scores_z():
        return None
    return lambda z, cells: model.activation.score(z, at(cells))


def _resolved(request: Request, dead: Tensor | None, model: "SDL") -> Request:
    """A request with the mask of the dead in place of their name."""
    if not isinstance(request, TopK) or request.among is None:
        return request
    among = torch.zeros_like(model.b_E, dtype=torch.bool) if dead is None else dead
    return TopK(request.k, among if request.among == "dead" else request.among, request.groups)


def _at(model: "SDL") -> Callable[[Positions | None], At]:
    """`at(name)` for cells without values (None: every cell), without gradient; the norms are taken once."""
    with torch.no_grad():
        norms = model.decoder_norm() if model.activation.needs_decoder_norm() else None
    return lambda at: partial(laid, model, None if at is None else SparseCode(at, model.b_E[:0]), norms)


def laid(model: "SDL", code: Code | None, norms: Tensor | None, name: str) -> Tensor:
    """What an activation calls `name`, laid along a code (None: every cell)."""
    state = model.activation_state()
    if name in state and state[name].ndim == 0:
        return state[name]
    if name == "decoder_norm":
        assert norms is not None
        vector = norms
    else:
        vector = model.b_E if name == "b_E" else state[name] if name in state else model.act[name]
    return vector[None, :] if code is None else code.along(vector)

"""Steering and ablation: a network runs with some latents edited, and is untouched where nothing is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from monosem.base.errors import RefusedError, ShapeError, check
from monosem.core.activation import Context
from monosem.core.model import SDL
from monosem.core.rownorm import RowNormSDL
from monosem.networks.edits import Edit, change, edited_latents, latent_values
from monosem.networks.rewrite import Places, Reading, Rewrite, places, rewriting
from monosem.networks.sites import Site, as_it_is_elsewhere


@contextmanager
def steer(
    model: nn.Module,
    sdl: SDL,
    at: str,
    *edits: Edit,
    to: str | None = None,
    rows: Float[Tensor, "batch n_p"] | None = None,
) -> Iterator[None]:
    """A context in which the network runs with latents edited; contexts nest.

    Equation: x_r + W_D (e(x_q) - x_q), x_q the code of what the pass itself reads, e the edits in order. The rest of
        x_r, which the code does not explain, stays. A row whose latents do not change keeps every bit, and when none
        changes the tensor itself goes on. dtype is kept.
    Gradient: that of the equation; through x_q into x_p, through an amount that is a tensor; W_D is a constant.
    `at`, `to`: sites, as `places` reads them. `edits`: add, clamp, scale, zero. Positions count over the whole
    sequence, through `generate` too: a cache among the network's arguments says how many tokens went before. A model
    that reads several sites has the values of its latents only when all of them have been read: adding needs no values;
    else it needs latents that read no later site than they write (a cross-layer transcoder with an activation that
    takes each latent for itself), or `rows`: x_p of the same input, from a pass without edits.
    Raises: ArgumentError for a latent that is not there; ShapeError for sites that do not fit; RefusedError (in the
        pass) when values are not known, or positions are not: a cache that does not tell how many tokens it keeps.

    Example:
        >>> from monosem.methods import method
        >>> from monosem.networks.edits import add
        >>> sdl, _ = method("topk(k=2)").build(6, (4,), (4,))
        >>> layer, x = nn.Sequential(nn.Linear(4, 4)), torch.ones(1, 4)
        >>> with steer(layer, sdl, "0:out", add(3, 2.0)):
        ...     steered = layer(x)
        >>> bool(torch.allclose(steered, layer(x) + 2.0 * sdl.W_D[:, 3]))
        True
    """
    where = places(sdl, model, at, to)
    steering = _Steering(sdl, where, edits, rows)
    with steering.watching(model), rewriting(model, steering.changes() if edits else ()):
        yield


class _Steering:
    """What the hooks of one `steer` share."""

    def __init__(self, sdl: SDL, where: Places, edits: Sequence[Edit], rows: Tensor | None) -> None:
        self.sdl, self.where, self.edits = sdl, where, edits
        self.latents = edited_latents(edits, sdl.n_q)
        self.columns = _columns(sdl, self.latents)
        self.reading, self.past = Reading(sdl), 0
        self.inside: nn.Module | None = None  # the module whose call began the pass
        self.needs_values = any(edit.kind != "add" for edit in edits)
        self.learned = any(isinstance(edit.amount, Tensor) and edit.amount.requires_grad for edit in edits)
        self.given = None if rows is None else rows.to(sdl.b_E)
        self.given_values = None if rows is None or not self.needs_values else self._encode(rows.to(sdl.b_E))

    def changes(self) -> list[tuple[Site, Rewrite]]:
        """Every read before the write at the same site."""
        reads = [(site, partial(self.read, number)) for number, site in enumerate(self.where.reads)]
        return [*reads, *((site, partial(self.write, number)) for number, site in enumerate(self.where.writes))]

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Every module that holds a site tells when it is called, as `generate` calls an encoder by itself."""
        paths = {site.module for site in (*self.where.reads, *self.where.writes)}
        above = {path[:end] for path in paths for end, sign in enumerate(path) if sign == "."}
        handles = []
        try:
            for path in {"", *above, *paths} if self.edits else ():
                module, begin = model.get_submodule(path), partial(self.begin, path == "")
                handles.append(module.register_forward_pre_hook(as_it_is_elsewhere(begin), with_kwargs=True))
                handles.append(module.register_forward_hook(as_it_is_elsewhere(self.end), always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, whole: bool, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """The network or a part of it is called; unless it is inside another call, a pass begins."""
        if self.inside is not None:
            return
        if any(edit.by_position for edit in self.edits):
            self.past = _past(module, whole, [*args, *kwargs.values()])
        self.reading.seen = {}
        self.inside = module

    def end(self, module: nn.Module, *_: Any) -> None:
        """The call that began the pass is over."""
        if module is self.inside:
            self.inside = None

    def read(self, source: int, x: Tensor) -> Tensor:
        """Keep what is read."""
        self.reading.see(source, x)
        return x

    def write(self, target: int, x: Tensor) -> Tensor:
        """The equation, at one target."""
        here = self.sdl.layout.r_slices[target]
        columns = self.columns[here]
        check(
            x.shape[-1] == columns.shape[0],
            f"{self.where.writes[target]} has width {x.shape[-1]}, the model writes {columns.shape[0]}; choose its own "
            "site",
            ShapeError,
        )
        leading = tuple(x.shape[:-1])
        x_p = self._x_p(x)
        if self.needs_values:
            values = self._values(target, x_p)
        else:
            values = columns.new_zeros(x[..., 0].numel(), self.latents.numel())
        delta = change(values, self.latents, self.edits, leading, self.past)
        moved: Bool[Tensor, " batch"] = (delta.detach() != 0).any(1)
        learned = self.learned and torch.is_grad_enabled()
        if not learned and not bool(moved.any()):
            return x
        push = delta @ columns.T
        if isinstance(self.sdl, RowNormSDL) and self.sdl.norm.restore:
            assert x_p is not None
            push = push * self.sdl.norm.units(x_p)[0]
        push = push.reshape(x.shape).to(x.device)
        new = (x.to(torch.promote_types(x.dtype, push.dtype)) + push).to(x.dtype)
        return new if learned else torch.where(moved.reshape(*leading, 1).to(x.device), new, x)

    def _x_p(self, x: Tensor) -> Tensor | None:
        """The rows that the values come from; None where nothing asks for them."""
        if not self.needs_values and not isinstance(self.sdl, RowNormSDL):
            return None
        x_p = self.reading.rows() if self.given is None else self.given
        check(
            x_p.shape[0] == x[..., 0].numel(),
            f"the values come from {x_p.shape[0]} rows, the pass writes {x[..., 0].numel()}; rows must be of this "
            "very input",
            ShapeError,
        )
        return x_p

    def _encode(self, x_p: Tensor) -> Tensor:
        return latent_values(self.sdl.forward(x_p, context=Context()).code, self.latents)

    def _values(self, target: int, x_p: Tensor | None) -> Float[Tensor, "batch touched"]:
        """The latents' values; they must be settled by the sites read so far."""
        if self.given_values is not None:
            return self.given_values
        assert x_p is not None
        if self.reading.missing:
            self._settled(target)
        return self._encode(x_p)

    def _settled(self, target: int) -> None:
        """Refuse values that sites still to come decide."""
        sdl, later = self.sdl, self.reading.missing
        remedy = "add() needs no values; else give rows, x_p of the same input from a pass without edits"
        where = f"{self.where.writes[target]} is written before {self.where.reads[later[0]]} is read"
        if sdl.activation.pattern_kind != "independent":
            raise RefusedError(f"{where}, and the activation ranks latents of all sites together; {remedy}")
        here = self.columns[sdl.layout.r_slices[target]]
        writes = {j for i, j in enumerate(self.latents.tolist()) if bool((here[:, i] != 0).any())}
        unsettled = sorted(writes & _readers(sdl, later))
        if unsettled:
            raise RefusedError(f"{where}, which latent {unsettled[0]} reads too; {remedy}")


def _readers(sdl: SDL, sources: Sequence[int]) -> set[int]:
    """The latents that read any of some sources."""
    edges = [sum(sdl.layout.p_widths[:number]) for number in range(len(sdl.layout.p_widths) + 1)]
    readers: set[int] = set()
    for block in sdl.layout.encoder:
        if any(block.left < edges[s + 1] and edges[s] < block.right for s in sources):
            readers |= set(range(block.first, block.last))
    return readers


def _past(module: nn.Module, whole: bool, arguments: Sequence[Any]) -> int:
    """How many tokens went through before a pass. Raises: RefusedError when that cannot be known."""
    if whole:
        past = tokens_before(arguments)
        why = "no argument tells how many tokens went through before"
    else:  # the parts before this one may have filled the cache
        past = None if any(map(is_cache, arguments)) else 0
        why = "it is only a part of the network and has a cache"
    if past is None:
        raise RefusedError(
            f"positions of edits are unknown when {type(module).__name__} is called so: {why}; call the network that "
            "was given, with no cache or one that has get_seq_length, or give edits without positions"
        )
    return past


def _columns(sdl: SDL, latents: Int[Tensor, " touched"]) -> Float[Tensor, "n_r touched"]:
    """W_D's columns of some latents, as constants; no dense copy of the whole."""
    columns = sdl.b_D.detach().new_zeros(sdl.layout.n_r, latents.numel())
    for block, weight in zip(sdl.decoder.blocks, sdl.decoder.weights, strict=True):
        inside = ((latents >= block.first) & (latents < block.last)).nonzero()[:, 0]
        chosen = (latents[inside] - block.first).to(weight.device)
        columns[block.columns, inside.to(weight.device)] = weight.detach()[chosen].T
    return columns


def is_cache(value: Any) -> bool:
    """Whether a value tells how many tokens it keeps, as transformers' caches do; the keyword that carries it changes
    with versions, so that it is known by what it can do."""
    return callable(getattr(value, "get_seq_length", None))


def tokens_before(arguments: Iterable[Any]) -> int | None:
    """Tokens of the sequence that went through a network before the pass with these arguments.

    0 without a cache. None when it cannot be known: a cache keeps states instead of tokens, two caches disagree, or an
    argument that does not count tokens (a list of tensors, say) may carry them.
    """
    arguments = list(arguments)
    try:
        counts = {int(value.get_seq_length()) for value in arguments if is_cache(value)}
    except (NotImplementedError, ValueError):
        return None
    if counts:
        return counts.pop() if len(counts) == 1 else None
    carried = (not isinstance(value, Tensor) and _holds_states(value) for value in arguments)
    return None if any(carried) else 0


def _holds_states(value: Any) -> bool:
    """Whether states [batch, ..., width] lie in a value; an encoder's output, a dataclass, is of no earlier pass."""
    if isinstance(value, Tensor):
        return value.ndim > 2 and value.is_floating_point()
    if isinstance(value, Mapping):
        return not is_dataclass(value) and any(map(_holds_states, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_states, value))
    return any(map(_holds_states, getattr(value, "__dict__", {}).values()))

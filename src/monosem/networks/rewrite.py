"""Where a model reads and writes in a network, and hooks that put another tensor in a place."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monosem.base.errors import DataError, ShapeError, check
from monosem.core.model import SDL
from monosem.networks.sites import Site, as_it_is_elsewhere, find_sites, first_tensor

Rewrite = Callable[[Tensor], Tensor]
"""What takes a site's tensor and gives the one that goes on; the same object means no change."""


@dataclass(frozen=True)
class Places:
    """The sites that hold the sources of x_p and those that hold the sources of x_r, in order."""

    reads: tuple[Site, ...]
    writes: tuple[Site, ...]


def places(sdl: SDL, model: nn.Module, at: str, to: str | None = None) -> Places:
    """Where a model's sources lie in a network.

    `at` alone: an SAE or a crosscoder writes where it reads; of the sites of a transcoder, as "layer.mlp:in,out", the
    first n are read and the others written, but inputs are read and outputs written where that settles it. With `to`,
    `at` is read and `to` is written.
    Raises: ShapeError when sites and sources differ in number.

    Example:
        >>> from monosem.methods import method
        >>> sdl, _ = method("topk_transcoder(k=2)").build(6, (4,), (3,))
        >>> where = places(sdl, nn.Sequential(nn.Linear(4, 3)), "0:in,out")
        >>> str(where.reads[0]), str(where.writes[0])
        ('0:in', '0:out')
    """
    n, m, shared = len(sdl.layout.p_widths), len(sdl.layout.r_widths), sdl.layout.shared
    sites = find_sites({"": model}, at)
    if to is not None:
        where = Places(sites, find_sites({"": model}, to))
    elif shared:
        where = Places(sites, sites)
    else:
        inputs = tuple(site for site in sites if site.side == "in")
        outputs = tuple(site for site in sites if site.side == "out")
        by_side = (len(inputs), len(outputs)) == (n, m)
        where = Places(inputs, outputs) if by_side else Places(sites[:n], sites[n:])
    have = (len(where.reads), len(where.writes))
    check(
        have == (n, m),
        f"{at!r}{'' if to is None else f' to {to!r}'} means {have[0]} sites to read and {have[1]} to write; this model "
        f"reads {n} and writes {m} (widths {sdl.layout.p_widths} and {sdl.layout.r_widths}); name so many",
        ShapeError,
    )
    return where


@contextmanager
def rewriting(model: nn.Module, changes: Sequence[tuple[Site, Rewrite]]) -> Iterator[None]:
    """While it is open, the tensor at each site passes through its function, in the order given.

    Of attention heads, [batch, time, heads, d_head], the function sees [batch, time, heads d_head].
    A function that returns its argument leaves the network's own objects in place. Raises (in the forward pass):
    ShapeError when a site holds no tensor, or a function changes its shape or dtype.
    """
    handles = []
    try:
        for site, change in changes:
            target = model.get_submodule(site.module)

            def before(_: nn.Module, args: Any, kwargs: Any, site: Site = site, change: Rewrite = change) -> Any:
                if first_tensor(args) is not None:
                    new = _changed(args, site, change)
                    return None if new is args else (new, kwargs)
                new = _changed(kwargs, site, change)
                return None if new is kwargs else (args, new)

            def after(_: nn.Module, args: Any, out: Any, site: Site = site, change: Rewrite = change) -> Any:
                new = _changed(out, site, change)
                return None if new is out else new

            handles.append(
                target.register_forward_pre_hook(as_it_is_elsewhere(before), with_kwargs=True)
                if site.side == "in"
                else target.register_forward_hook(as_it_is_elsewhere(after))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _changed(value: Any, site: Site, change: Rewrite) -> Any:
    """The value with its first tensor changed; the value itself when that stays the same object."""
    old = first_tensor(value)
    check(old is not None, f"{site} gives no tensor but {type(value).__name__}; choose another site", ShapeError)
    assert old is not None
    rows = old.flatten(2) if old.ndim == 4 else old  # heads side by side
    new = change(rows)
    if new is rows:
        return value
    new = new.reshape(old.shape) if new.shape == rows.shape else new
    check(
        new.shape == old.shape and new.dtype == old.dtype,
        f"{site} holds {old.dtype} of shape {tuple(old.shape)}, its replacement is {new.dtype} of shape "
        f"{tuple(new.shape)}; they must agree",
        ShapeError,
    )
    if isinstance(value, Tensor):
        return new
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        for name, part in value.items():
            if part is old:
                changed[name] = new
        return changed
    parts = [new if part is old else part for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


class Reading:
    """The sources of x_p as a forward pass reaches them; a source that is seen again begins a new pass."""

    def __init__(self, sdl: SDL) -> None:
        self.sdl = sdl
        self.seen: dict[int, Tensor] = {}
        self.leading: tuple[int, ...] = ()

    def see(self, source: int, x: Tensor) -> None:
        """One source's tensor [*leading, width]."""
        if source in self.seen:
            self.seen = {}
        width = self.sdl.layout.p_widths[source]
        check(
            x.shape[-1] == width,
            f"the site of source {source} has width {x.shape[-1]}, the model reads {width}; choose its own site",
            ShapeError,
        )
        self.leading = tuple(x.shape[:-1])
        self.seen[source] = x.reshape(-1, width).to(self.sdl.b_E)

    @property
    def missing(self) -> tuple[int, ...]:
        """The sources that this pass has not reached."""
        return tuple(source for source in range(len(self.sdl.layout.p_widths)) if source not in self.seen)

    def rows(self) -> Tensor:
        """x_p [rows, n_p]; a source that was not reached is zero. Raises: DataError when none was."""
        check(
            bool(self.seen), "the pass writes before it reads; call the model that was given, from its start", DataError
        )
        batch = next(iter(self.seen.values())).shape[0]
        widths = enumerate(self.sdl.layout.p_widths)
        parts = [self.seen[i] if i in self.seen else self.sdl.b_E.new_zeros(batch, width) for i, width in widths]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

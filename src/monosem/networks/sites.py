"""Sites: places in a network, "model.layers.5.mlp:in,out", and the hooks that read several in one forward pass."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monosem.base.errors import ArgumentError, DataError, ShapeError, check

__all__ = ["Capture", "Side", "Site", "capture", "find_sites", "first_tensor", "match", "parse_sites"]

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Site:
    """The input or the output of one module; `model` names one of several models, "" where there is one."""

    module: str
    side: Side
    model: str = ""

    def __str__(self) -> str:
        """As it is written: "model.layers.5.mlp:in", "tuned/encoder.layer.5:out"."""
        return f"{self.model}/{self.module}:{self.side}" if self.model else f"{self.module}:{self.side}"


def parse_sites(text: str) -> tuple[tuple[str, Side], ...]:
    """The grammar: "PATH:in,out; PATH:out". In a path * and ? and [12] match within one name, ** across dots.

    Example:
        >>> parse_sites("model.layers.5.mlp:in,out; model.norm:out")
        (('model.layers.5.mlp', 'in'), ('model.layers.5.mlp', 'out'), ('model.norm', 'out'))
    """
    found: list[tuple[str, Side]] = []
    for part in (part.strip() for part in text.split(";")):
        if not part:
            continue
        path, colon, sides = part.rpartition(":")
        remedy = f'cannot read the site "{part}"; write a module and its side, as "model.layers.5.mlp:in,out"'
        check(bool(colon and path), remedy)
        for side in (side.strip() for side in sides.split(",")):
            check(side in ("in", "out"), f"{remedy} (a side is in or out, not {side!r})")
            found.append((path, "in" if side == "in" else "out"))
    check(bool(found), 'no site is given; write one as "model.layers.5.mlp:in,out"')
    return tuple(found)


def match(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The names among `known` that a text of sites means, in the order of `known` within each part.

    Raises: ArgumentError for a part that means none.
    """
    chosen: dict[str, None] = {}
    for path, side in parse_sites(text):
        wanted = f"{path}:{side}"
        found = [name for name in known if name == wanted] or [name for name in known if _fits(name, wanted)]
        check(bool(found), f"no site {wanted!r}; known: {_few(known)}")
        chosen |= dict.fromkeys(found)
    return tuple(chosen)


def find_sites(models: Mapping[str, nn.Module], text: str) -> tuple[Site, ...]:
    """The sites that a text means in one model (named "") or in several; "tuned/PATH:out" means one of several.

    Without a model's name, every model is meant. Raises: ArgumentError, with modules of similar name.
    """
    chosen: dict[Site, None] = {}
    for path, side in parse_sites(text):
        named = path.partition("/")
        within = [named[0]] if named[1] and named[0] in models else list(models)
        pattern = named[2] if named[1] and named[0] in models else path
        for model in within:
            names = [name for name, _ in models[model].named_modules()]
            found = [pattern] if pattern in names else [name for name in names if _fits(name, pattern)]
            if not found:
                tail = pattern.rpartition(".")[2]
                like = [name for name in names if name.endswith(tail)] or names[1:]
                of = f" of model {model!r}" if model else ""
                raise ArgumentError(f"no module{of} is called {pattern!r}; there are {_few(like)}")
            chosen |= dict.fromkeys(Site(name, side, model) for name in found)
    return tuple(chosen)


class _Enough(Exception):
    """Stops a forward pass when every site has been read."""


class Capture:
    """What the hooks saw in the last forward pass."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)
        self.seen: dict[Site, Tensor] = {}

    def add(self, site: Site, value: Any, stop: bool) -> None:
        """Keep the first tensor of a value; `stop` ends the pass after the last site."""
        if site in self.seen:  # a module that runs twice in one pass: the first time counts
            return
        tensor = first_tensor(value)
        if tensor is None:
            raise ShapeError(f"{site} gives no tensor but {type(value).__name__}; choose another module or side")
        self.seen[site] = tensor.detach().clone()  # what follows may work in place
        if stop and len(self.seen) == len(self.sites):
            raise _Enough

    def run(self, module: nn.Module, inputs: Any) -> dict[Site, Tensor]:
        """One forward pass without gradients: `inputs` are keyword arguments (a mapping) or one argument."""
        self.seen = {}
        try:
            with torch.inference_mode():
                module(**inputs) if isinstance(inputs, Mapping) else module(inputs)
        except _Enough:
            pass
        missing = [str(site) for site in self.sites if site not in self.seen]
        check(not missing, f"the forward pass never reached {_few(missing)}; choose other sites", DataError)
        return {site: self.seen[site] for site in self.sites}


@contextmanager
def capture(module: nn.Module, sites: Sequence[Site], stop: bool = True) -> Iterator[Capture]:
    """Hooks on a module's sites, removed on leaving; with `stop`, a pass ends as soon as all have been seen.

    Example:
        >>> layer = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with capture(layer, find_sites({"": layer}, "0:in,out")) as seen:
        ...     [tuple(x.shape) for x in seen.run(layer, torch.zeros(4, 2)).values()]
        [(4, 2), (4, 3)]
    """
    seen, handles = Capture(sites), []
    try:
        for site in sites:
            target = module.get_submodule(site.module)

            def before(_: nn.Module, args: Any, kwargs: Any, site: Site = site) -> None:
                seen.add(site, args if first_tensor(args) is not None else kwargs, stop)

            def after(_: nn.Module, args: Any, out: Any, site: Site = site) -> None:
                seen.add(site, out, stop)

            handles.append(
                target.register_forward_pre_hook(before, with_kwargs=True)
                if site.side == "in"
                else target.register_forward_hook(after)
            )
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(value: Any) -> Tensor | None:
    """The value if it is a tensor, else the first floating-point tensor in a tuple, list or mapping (one deep)."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        named = value.get("hidden_states")
        parts: Sequence[Any] = [named] if isinstance(named, Tensor) else list(value.values())
    else:
        parts = value if isinstance(value, (tuple, list)) else []
    tensors = [part for part in parts if isinstance(part, Tensor)]
    floats = [part for part in tensors if part.is_floating_point()]
    return next(iter(floats or tensors), None)


def _fits(name: str, pattern: str) -> bool:
    parts = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    known = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    text = "".join(
        known.get(part, part if part.startswith("[") and part.endswith("]") else re.escape(part)) for part in parts
    )
    return re.fullmatch(text, name) is not None


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

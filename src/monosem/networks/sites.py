"""Sites: places in a network, "model.layers.5.mlp:in,out", and the hooks that read several in one forward pass."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monosem.base.errors import ArgumentError, DataError, MonosemError, ShapeError, check
from monosem.data.store import Side, few, fits, parse_sites


@dataclass(frozen=True)
class Site:
    """The input or the output of one module; `model` names one of several models, "" where there is one."""

    module: str
    side: Side
    model: str = ""

    def __str__(self) -> str:
        """As it is written: "model.layers.5.mlp:in", "tuned/encoder.layer.5:out"."""
        return f"{self.model}/{self.module}:{self.side}" if self.model else f"{self.module}:{self.side}"


def find_sites(models: Mapping[str, nn.Module], text: str) -> tuple[Site, ...]:
    """The sites that a text means in one model (named "") or in several; "tuned/PATH:out" means one of several.

    Without a model's name, every model is meant. Raises: ArgumentError, with modules of similar name.
    """
    chosen: dict[Site, None] = {}
    for path, side in parse_sites(text):
        name, slash, rest = path.partition("/")
        one = bool(slash) and name in models
        for model in [name] if one else models:
            modules = [module for module, _ in models[model].named_modules()]
            matches = _matching(modules, rest if one else path, model)
            chosen |= dict.fromkeys(Site(module, side, model) for module in matches)
    return tuple(chosen)


def _matching(modules: Sequence[str], pattern: str, model: str) -> list[str]:
    """The modules that a pattern means. Raises: ArgumentError, with modules of similar name."""
    matches = [pattern] if pattern in modules else [name for name in modules if fits(name, pattern)]
    if not matches:
        tail = pattern.rpartition(".")[2]
        like = [name for name in modules if name.endswith(tail)] or modules[1:]
        of = f" of model {model!r}" if model else ""
        raise ArgumentError(f"no module{of} is called {pattern!r}; there are {few(like)}")
    return matches


_here = threading.local()  # .reader: the Capture that runs a forward pass in this thread


def as_it_is_elsewhere(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that changes a network, but not what another thread captures of it, as a stream that runs ahead does."""
    opened = threading.get_ident()

    def acting(*args: Any, **kwargs: Any) -> Any:
        captured = getattr(_here, "reader", None) is not None
        return None if captured and threading.get_ident() != opened else hook(*args, **kwargs)

    return acting


class _Enough(Exception):
    """Stops a forward pass when every site has been read."""


class _Capture:
    """What the hooks saw in the last forward pass."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = tuple(sites)
        self.seen: dict[Site, Tensor] = {}

    def add(self, site: Site, value: Any, stop: bool) -> None:
        """Keep the first tensor of a value; `stop` ends the pass after the last site."""
        if getattr(_here, "reader", None) is not self:  # a pass of another thread
            return
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
        before, _here.reader = getattr(_here, "reader", None), self
        try:
            with torch.inference_mode():
                module(**inputs) if isinstance(inputs, Mapping) else module(inputs)
        except _Enough:
            pass
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, MonosemError | torch.OutOfMemoryError):
                raise
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise DataError(f"{type(module).__name__} refuses the batch ({why}); give what it takes") from error
        finally:
            _here.reader = before
        missing = [str(site) for site in self.sites if site not in self.seen]
        check(not missing, f"the forward pass never reached {few(missing)}; choose other sites", DataError)
        return {site: self.seen[site] for site in self.sites}


@contextmanager
def capture(module: nn.Module, sites: Sequence[Site], stop: bool = True) -> Iterator[_Capture]:
    """Hooks on a module's sites, removed on leaving; with `stop`, a pass ends as soon as all have been seen.

    Example:
        >>> layer = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with capture(layer, find_sites({"": layer}, "0:in,out")) as seen:
        ...     [tuple(x.shape) for x in seen.run(layer, torch.zeros(4, 2)).values()]
        [(4, 2), (4, 3)]
    """
    seen, handles = _Capture(sites), []
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

"""Everything that a method's text can name, with its arguments: what one needs to write a new method."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from monosem.base.calls import REQUIRED, Call, arguments, plain
from monosem.base.registry import Registry
from monosem.base.schedule import SCHEDULES
from monosem.core.activations import ACTIVATIONS
from monosem.core.constraints import CONSTRAINTS
from monosem.core.dictionaries import DICTIONARIES
from monosem.core.encoders import ENCODERS
from monosem.core.pairs import PAIRINGS
from monosem.losses.objective import TERMS
from monosem.methods.optimisers import OPTIMISERS
from monosem.methods.parts import SETTINGS
from monosem.methods.recipes import METHODS


@dataclass(frozen=True)
class Entry:
    """A name, what it is in one sentence, and its arguments with their defaults (REQUIRED: none).

    `where`: in what place of a text it stands. `choices`: all values of an argument that takes some words only.
    """

    name: str
    summary: str
    arguments: Mapping[str, Any]
    where: str
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The name with its arguments, as text; `...` stands where a value has to be given, | between choices.

        Example:
            >>> next(entry.text for entry in catalogue()["activations"] if entry.name == "topk")
            'topk(k=..., rank_by_norm=False, k_start=None, anneal=0.0)'
        """
        if not self.arguments:
            return self.name
        return str(Call(self.name, named={name: self._value(name) for name in self.arguments}))

    def _value(self, name: str) -> Any:
        value = self.arguments[name]
        if name in self.choices:
            return _Shown("|".join(map(repr, dict.fromkeys((*({value} - {REQUIRED}), *self.choices[name])))))
        return _Shown("...") if value is REQUIRED else plain(value, SCHEDULES)


class _Shown(str):
    """What stands in the place of a value, without quotes."""

    def __repr__(self) -> str:
        return str(self)


def catalogue() -> dict[str, tuple[Entry, ...]]:
    """Every kind of thing, in the order of a text, and what is registered of it, loaded parts included."""
    rows = tuple(Entry(name, recipe.summary, recipe.defaults, "head") for name, recipe in METHODS.items())
    pairs = tuple(
        replace(entry_of(name, type(pairing), "after @"), arguments=dataclasses.asdict(pairing))
        for name, pairing in PAIRINGS.items()
    )
    return {
        "methods": rows,
        "activations": _kind(ACTIVATIONS, "head"),
        "terms": _kind(TERMS, "after +"),
        "constraints": _kind(CONSTRAINTS, "after |"),
        "encoders": _kind(ENCODERS, "after |"),
        "dictionaries": _kind(DICTIONARIES, "after |"),
        "optimisers": _kind(OPTIMISERS, "after |"),
        "settings": tuple(entry_of(name, make, "after |") for name, make in SETTINGS.items()),
        "pairings": pairs,
        "schedules": _kind(SCHEDULES, "in place of a weight"),
    }


def _kind(registry: Registry[Any], where: str) -> tuple[Entry, ...]:
    return tuple(entry_of(name, kind, where) for name, kind in registry.items())


def entry_of(name: str, make: Callable[..., Any], where: str = "") -> Entry:
    """The first sentence of a docstring, on one line, and the arguments."""
    hints = typing.get_type_hints(make)
    choices = {n: typing.get_args(hint) for n, hint in hints.items() if typing.get_origin(hint) is typing.Literal}
    words = " ".join((make.__doc__ or "").strip().partition("\n\n")[0].split())
    return Entry(name, words.partition(". ")[0].removesuffix("."), arguments(make), where, choices)

"""A registry: names to values, with a suggestion for a misspelt name."""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from monosem.base.card import grid
from monosem.base.errors import ArgumentError, UnknownNameError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """An ordered mapping from names to values of one kind.

    Example:
        >>> shapes = Registry[int]("shape")
        >>> shapes.add("square", 4)
        4
        >>> shapes["square"]
        4
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, value: T) -> T:
        """Register `value` as `name` and return it; a name is registered once."""
        if name in self._items:
            raise ArgumentError(f"the {self.kind} {name!r} is registered already; choose another name")
        self._items[name] = value
        return value

    def register(self, name: str) -> Callable[[T], T]:
        """The same as a decorator."""
        return lambda value: self.add(name, value)

    def __getitem__(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._items, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self._items)}"
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {hint}") from None

    def __repr__(self) -> str:
        return f"{len(self)} x {self.kind}: {', '.join(self)}"

    def _repr_html_(self) -> str:
        summaries = {name: getattr(value, "summary", "") or _first_line(value) for name, value in self.items()}
        return grid([self.kind, ""], summaries.items())

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def _first_line(value: object) -> str:
    return (inspect.getdoc(value if inspect.isroutine(value) or inspect.isclass(value) else type(value)) or "").split(
        "\n"
    )[0]

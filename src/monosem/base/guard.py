"""Arguments against their annotations: a wrong one is an ArgumentError of one line that says what belongs there."""

import collections.abc
import difflib
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from monosem.base.errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R")

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "str": "text",
    "Tensor": "a tensor",
    "NoneType": "None",
    "Path": "a path",
    "Iterable": "an iterable",
    "Callable": "a function",
    "Module": "a torch module",
    "Mapping": "a mapping",
    "SDL": "a dictionary",
    "Result": "what fit returned",
}
_ONE_OF = (Union, types.UnionType)
_LOOKED_AT = 64
"""Items of a sequence that are looked at."""


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """A function that checks what it is called with against its annotations, before it is called.

    Raises: ArgumentError that names the argument, what it is, and what belongs there.
    Example:
        >>> @guarded
        ... def half(n: int) -> float:
        ...     return n / 2
        >>> half("4")
        Traceback (most recent call last):
        monosem.base.errors.ArgumentError: half: n='4'; give a whole number
    """
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:
        try:
            return typing.get_type_hints(function)
        except NameError:  # one of them is known to type checkers only, and is not checked
            return function.__annotations__

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        where = function.__qualname__.rpartition(".")[0] if function.__name__ == "__init__" else function.__name__
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise ArgumentError(f"{where}: {error}{closest(kwargs, signature.parameters)}") from None
        for name, value in given.items():
            kind = signature.parameters[name].kind
            items: Any = value if kind is inspect.Parameter.VAR_POSITIONAL else (value,)
            for item in () if kind is inspect.Parameter.VAR_KEYWORD else items:
                _refuse(f"{where}: {name}", item, hints().get(name, Any))
        return function(*args, **kwargs)

    return checked


def guard_fields(value: Any) -> None:
    """The same for a dataclass's fields, called first in its `__post_init__`."""
    hints = typing.get_type_hints(type(value))
    for field in fields(value):
        _refuse(f"{type(value).__name__}: {field.name}", getattr(value, field.name), hints[field.name])


def _refuse(name: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise ArgumentError(f"{name}={shown(value)}; give {_words(hint)}")


def closest(names: str | Iterable[str], known: Iterable[str]) -> str:
    """What to write in the place of names that are not known: the nearest one, or all.

    Example:
        >>> closest("stps", ["steps", "lr"])
        '; did you mean steps?'
    """
    known = [name for name in known if name not in ("self", "args", "kwargs")]
    given = [names] if isinstance(names, str) else [name for name in names if name not in known]
    near = [match for name in given for match in difflib.get_close_matches(name, known, n=1)]
    return f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known)}"


def shown(value: Any) -> str:
    """A value in few words.

    Example:
        >>> import torch
        >>> shown(torch.zeros(2, 3)), shown([1] * 100)
        ('a float32 tensor [2, 3]', 'a list of 100')
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = "tensor" if type(value).__module__.startswith("torch") else "array"  # torch is not imported for it
        return f"a {str(value.dtype).removeprefix('torch.')} {kind} {list(value.shape)}"
    text = " ".join((str(value) if isinstance(value, Path) else repr(value)).split())
    if len(text) <= 60:
        return text
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (list, tuple, dict)) else "")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says; what an annotation says in ways not known here is taken to fit."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, (TypeVar, ParamSpec, str)):
        return True
    if origin in _ONE_OF:
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is not None:
        return callable(value) if origin is collections.abc.Callable else _fits_container(value, origin, args)
    return _is_one(value, type(None) if hint is None else hint)


def _is_one(value: Any, kind: Any) -> bool:
    """Whether a value is of a class; any number that stands for it will do, True is no number."""
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    if hasattr(kind, "dim_str"):
        import jaxtyping  # it brings numpy, which `monosem train --help` does without

        with jaxtyping.jaxtyped("context"):  # its axes are its own, not those of a function of the caller's
            return isinstance(value, kind)
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be asked
        return True


def _fits_container(value: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    """Whether a value is a container of a kind, with items of theirs; of a long one, the first items are asked."""
    if not isinstance(origin, type):
        return True
    if not isinstance(value, origin) or isinstance(value, str):
        return False
    items: Any = value
    if origin is tuple and args[-1] is not Ellipsis:
        return len(items) == len(args) and all(_fits(item, arg) for item, arg in zip(items, args, strict=True))
    if isinstance(value, Mapping):
        return all(_fits(item, args[1]) for item in islice(value.values(), _LOOKED_AT))
    return not isinstance(value, Sequence) or all(_fits(item, args[0]) for item in value[:_LOOKED_AT])


def _words(hint: Any) -> str:
    """What belongs there, for people."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in _ONE_OF:
        words = dict.fromkeys(_words(arg) for arg in args)
        return " or ".join(sorted(words, key=lambda word: word == "None"))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if hasattr(hint, "dim_str") and hasattr(hint, "dtypes"):  # jaxtyping's arrays
        return _array_words(hint)
    kind = origin or hint
    if args and inspect.isclass(kind) and issubclass(kind, Sequence):
        inside = dict.fromkeys(_words(arg).removeprefix("a ") for arg in args if arg is not Ellipsis)
        return f"a {kind.__name__.lower()}, each item {' or '.join(inside)}"
    name = getattr(kind, "__name__", str(hint))
    return _WORDS.get(name, f"a {name}")


def _array_words(hint: Any) -> str:
    kinds = {"float32": "real numbers", "int64": "whole numbers", "bool": "booleans"}
    kind = next((words for name, words in kinds.items() if name in hint.dtypes), "numbers")
    return f"a tensor [{', '.join(str(hint.dim_str).split())}] of {kind}"

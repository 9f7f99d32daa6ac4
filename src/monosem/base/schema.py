"""Dataclasses read from JSON: a file holds what its reader declares, or the error names the field."""

import dataclasses
import functools
import math
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from monosem.base.errors import CheckpointError, MonosemError, shortened

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """A bound on a number, as Annotated[int, AtLeast(1)]."""

    least: float


@dataclasses.dataclass(frozen=True)
class Matches:
    """What a text looks like, as Annotated[str, Matches("[0-9a-f]{64}", "a sha256")]."""

    pattern: str
    means: str


Count = Annotated[int, AtLeast(0)]
Size = Annotated[int, AtLeast(1)]
Sha256 = Annotated[str, Matches("[0-9a-f]{64}", "a sha256")]


class _Misfit(Exception):
    """A value that does not fit, at its path; caught by `read`."""

    def __init__(self, path: str, value: Any, wanted: str) -> None:
        self.path, self.value, self.wanted = path, value, wanted


def read(kind: Callable[..., Kind], value: Any, where: str, error: type[MonosemError] = CheckpointError) -> Kind:
    """A dataclass, or a list or dict of such, from plain JSON values.

    Fields with a default may be absent, unknown ones are refused. Types: bool, int, float (finite; a whole number will
    do), str, None, Any, Literal, unions, list, tuple, dict with text keys, other dataclasses, and Annotated with
    `AtLeast` or `Matches`.
    Raises: `error`, which names `where` (the file) and the path of the field, as "shards[3].rows".
    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Shard:
        ...     rows: Size
        >>> read(Shard, {"rows": 3}, "manifest.json")
        Shard(rows=3)
        >>> read(Shard, {"rows": "3"}, "manifest.json")
        Traceback (most recent call last):
        monosem.base.errors.CheckpointError: manifest.json: rows is '3', not a whole number; restore the file
    """
    try:
        whole: Kind = _value(kind, value, "")
        return whole
    except _Misfit as misfit:
        path = misfit.path.lstrip(".") or "it"
        text = f"{where}: {path} is {shortened(repr(misfit.value), 80)}, not {misfit.wanted}; restore the file"
    raise error(text)


def _value(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _object(kind, value, path)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in _READERS:
        return _READERS[origin](inner, value, path)
    return _scalar(kind, value, path)


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """(type, whether it must be there) of every field."""
    hints = get_type_hints(kind, include_extras=True)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    }


def _object(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise _Misfit(path, value, "an object")
    fields = _fields(kind)
    for name in value:
        if name not in fields:
            raise _Misfit(f"{path}.{shortened(str(name), 60)}", value[name], "a field that is known here")
    for name, (_, needed) in fields.items():
        if needed and name not in value:
            raise _Misfit(f"{path}.{name}", _Missing(), "to be left out")
    return kind(**{name: _value(fields[name][0], item, f"{path}.{name}") for name, item in value.items()})


class _Missing:
    def __repr__(self) -> str:
        return "missing"


def _list(inner: tuple[Any, ...], value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Misfit(path, value, "a list")
    return [_value(inner[0], item, f"{path}[{i}]") for i, item in enumerate(value)]


def _tuple(inner: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_list(inner, value, path))
    if not isinstance(value, list) or len(value) != len(inner):
        raise _Misfit(path, value, f"a list of {len(inner)}")
    return tuple(_value(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(inner, value, strict=True)))


def _dict(inner: tuple[Any, ...], value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Misfit(path, value, "an object")
    return {name: _value(inner[1], item, f"{path}.{shortened(name, 60)}") for name, item in value.items()}


def _literal(inner: tuple[Any, ...], value: Any, path: str) -> Any:
    if not any(value == known and type(value) is type(known) for known in inner):
        raise _Misfit(path, value, "one of " + ", ".join(map(repr, inner)))
    return value


def _union(inner: tuple[Any, ...], value: Any, path: str) -> Any:
    """The first kind that fits; where none does, what the kind of the same shape says, or else all of them."""
    misfits = []
    for kind in inner:
        try:
            return _value(kind, value, path)
        except _Misfit as misfit:
            misfits.append(misfit)
    deeper = next((misfit for misfit in misfits if misfit.path != path), None)
    raise deeper or _Misfit(path, value, " or ".join(dict.fromkeys(misfit.wanted for misfit in misfits)))


def _annotated(inner: tuple[Any, ...], value: Any, path: str) -> Any:
    plain = _value(inner[0], value, path)
    for rule in inner[1:]:
        if isinstance(rule, AtLeast) and plain < rule.least:
            raise _Misfit(path, value, f"{rule.least:g} or more")
        if isinstance(rule, Matches) and re.fullmatch(rule.pattern, plain) is None:
            raise _Misfit(path, value, rule.means)
    return plain


_READERS: dict[Any, Callable[[tuple[Any, ...], Any, str], Any]] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    Literal: _literal,
    Union: _union,
    types.UnionType: _union,
    Annotated: _annotated,
}
_SCALARS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    types.NoneType: "null",
}


def _scalar(kind: Any, value: Any, path: str) -> Any:
    kind = types.NoneType if kind is None else kind
    if kind is float and type(value) is int and abs(value) < 2**63:
        return value
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _Misfit(path, value, _SCALARS[kind])
    return value

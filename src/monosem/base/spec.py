"""Specifications: frozen dataclasses as canonical JSON, their hash, and calls written as text."""

import ast
import dataclasses
import hashlib
import json
from typing import Any

from monosem.base.errors import ArgumentError

TACIT = {"tacit": True}
"""Metadata of a dataclass's field that a specification leaves out at its default: one added later changes no digest."""

ELSEWHERE = {"elsewhere": True}
"""Metadata of a field that says where something lies and not what it is: no specification names it."""


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as plain JSON values; a dataclass carries its class name as `type`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{name: to_plain(field) for name, field in spoken(value).items()}}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): to_plain(item) for name, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ArgumentError(f"{value!r} ({type(value).__name__}) cannot stand in a specification; use plain values")


def spoken(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that a specification names: all but those that are tacit and at their default."""
    given = {f: getattr(value, f.name) for f in dataclasses.fields(value)}
    named = {f: v for f, v in given.items() if not f.metadata.get("elsewhere")}
    return {f.name: v for f, v in named.items() if not (f.metadata.get("tacit") and v == f.default)}


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, NaN refused."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Parse "name" or "name(a=1, b=(2, 3))"; values are literals, nothing is executed.

    Example:
        >>> parse_call("topk(k=32)")
        ('topk', {'k': 32})
    """
    remedy = f"cannot read {text!r}; write a name with keyword literals, like 'topk(k=32)'"
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            raise ArgumentError(remedy)
        names = [k.arg for k in node.keywords]
        if None in names or len(set(names)) < len(names):  # **spread, or a name twice
            raise ArgumentError(remedy)
        return node.func.id, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except (SyntaxError, ValueError) as error:
        raise ArgumentError(f"{remedy} ({error})") from None


def format_call(name: str, arguments: dict[str, Any]) -> str:
    """The inverse of `parse_call`.

    Example:
        >>> format_call("topk", {"k": 32})
        'topk(k=32)'
    """
    inside = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
    return f"{name}({inside})" if inside else name

"""Values as text: a name with arguments, `topk(k=32)`, several of them joined by + - | @; nothing is executed."""

import ast
import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from monosem.base.errors import ArgumentError, UnknownNameError
from monosem.base.registry import Registry

T = TypeVar("T")

Section = Literal["terms", "parts", "pairing"]

REQUIRED = inspect.Parameter.empty
"""Stands for the default of an argument that has none."""

_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.BitOr: "|", ast.MatMult: "@"}
_OPENS: dict[str, Section] = {"|": "parts", "@": "pairing"}
_REMEDY = "write names with literal arguments, like 'topk(k=32) + ortho(0.25) | unit_norm @ crosscoder(private=0.05)'"


@dataclass(frozen=True)
class Call:
    """A name with arguments: literals, tuples of them, or calls again.

    Example:
        >>> str(Call("l1", (0.5,), {"norm": "none"}))
        "l1(0.5, norm='none')"
    """

    name: str
    positional: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = [*map(_show, self.positional), *(f"{name}={_show(value)}" for name, value in self.named.items())]
        return f"{self.name}({', '.join(inside)})" if inside else self.name

    def bound(self, known: Sequence[str], what: str) -> dict[str, Any]:
        """The arguments by name; those without one take the names of `known` in turn.

        Raises: ArgumentError for an unknown or doubled name, with the nearest known one.
        """
        if len(self.positional) > len(known):
            raise ArgumentError(f"{what} takes {len(known)} arguments, {len(self.positional)} are given: {self}")
        arguments = dict(zip(known, self.positional, strict=False))
        for name, value in self.named.items():
            if name in arguments:
                raise ArgumentError(f"{what} is given {name} twice: {self}")
            if name not in known:
                raise ArgumentError(
                    f"{what} takes {', '.join(known) or 'no arguments'}; {name} is unknown{near(name, known)}"
                )
            arguments[name] = value
        return arguments


@dataclass(frozen=True)
class Edit:
    """A call that changes what stands before it: added, or taken away with `remove`."""

    section: Section
    call: Call
    remove: bool = False


def near(name: str, known: Sequence[str]) -> str:
    """ "; did you mean ...?" where a known name is near, else nothing."""
    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _show(value: Any) -> str:
    """A literal, a tuple or a call as text that `read` reads back."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_show, value))}{',' * (len(value) == 1)})"
    return str(value) if isinstance(value, Call) else repr(value)


def read(text: str) -> tuple[Call, tuple[Edit, ...]]:
    """The head of a text and its edits, from left to right; every operator joins what stands on both its sides.

    `+` and `-` add to and take from the section that they stand in: terms first, parts after `|`, a pairing after `@`.
    Raises: ArgumentError for anything but names, literals and these operators.
    Example:
        >>> head, edits = read("topk(4) + l1(0.1) | - unit_norm @ crosscoder")
        >>> head, [(edit.section, str(edit.call), edit.remove) for edit in edits]
        (Call(name='topk', positional=(4,), named={}),
         [('terms', 'l1(0.1)', False), ('parts', 'unit_norm', True), ('pairing', 'crosscoder', False)])
    """
    try:
        words = list(_in_order(ast.parse(f"({text.strip()})", mode="eval").body))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArgumentError(f"cannot read {text!r}: {_REMEDY} ({error})") from None
    head, section, edits, opened = words[0], "terms", [], "+"
    if not isinstance(head, Call):
        raise ArgumentError(f"cannot read {text!r}: it begins with {head!r}; {_REMEDY}")
    for word in words[1:]:
        if isinstance(word, Call):
            edits.append(Edit(section, word, opened == "-"))  # type: ignore[arg-type]
        else:
            section, opened = _OPENS.get(word, section), word
    return head, tuple(edits)


def read_call(text: str) -> Call:
    """One call. Raises: ArgumentError where the text is more than that."""
    head, edits = read(text)
    if edits:
        raise ArgumentError(f"cannot read {text!r}: one name with its arguments belongs here")
    return head


def _in_order(node: ast.expr) -> Iterator[Call | str]:
    """Calls and the operators between them, as they stand in the text."""
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield from _in_order(node.left)
        yield _OPERATORS[type(node.op)]
        yield from _in_order(node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "-"
        yield from _in_order(node.operand)
    else:
        value = _value(node)
        if not isinstance(value, Call):
            raise ValueError(f"{value!r} is no name")
        yield value


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return Call(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        names = [keyword.arg for keyword in node.keywords]
        if None in names or len(set(names)) < len(names):  # **spread, or a name twice
            raise ValueError("an argument stands twice")
        named = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
        return Call(node.func.id, tuple(map(_value, node.args)), named)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(map(_value, node.elts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):  # 1 / 32
        return ast.literal_eval(node.left) / ast.literal_eval(node.right)
    return ast.literal_eval(node)


def arguments(kind: Any) -> dict[str, Any]:
    """The arguments that text can give to a dataclass or a function, and their defaults (REQUIRED: none).

    Example:
        >>> from monosem.base.schedule import Ramp
        >>> arguments(Ramp)["end"]
        1.0
    """
    return {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}


def build(call: Call, registry: Registry[type[T]], values: Registry[Any]) -> T:
    """The value that a call names; calls among its arguments are looked up in `values`.

    Raises: UnknownNameError, with a suggestion; ArgumentError for an argument that is unknown, missing or of the wrong
        type.
    """
    kind = registry[call.name]
    given = call.bound(list(arguments(kind)), call.name)
    made: T = construct(kind, given, values, f"the {registry.kind} {call.name}")
    return made


def construct(make: Any, given: Mapping[str, Any], values: Registry[Any], what: str) -> Any:
    """make(**given), every argument of the type that `make` asks for."""
    filled = {name: resolved(value, values) for name, value in given.items()}
    hints = typing.get_type_hints(vars(make).get("__init__", make))
    for name, value in filled.items():
        if name in hints and not _fits(value, hints[name]):
            raise ArgumentError(f"cannot build {what}: {name}={value!r}, it must be {_words(hints[name])}")
    missing = [name for name, default in arguments(make).items() if default is REQUIRED and name not in filled]
    if missing:
        raise ArgumentError(f"cannot build {what}: {', '.join(missing)} is missing; give it, as {missing[0]}=...")
    return make(**filled)


def resolved(value: Any, values: Registry[Any]) -> Any:
    """A value with every call in it built."""
    if isinstance(value, Call):
        if not (value.positional or value.named or value.name in values):
            hint = near(value.name, list(values)) or f"; known: {', '.join(values)}"
            raise UnknownNameError(f"unknown {values.kind} {value.name!r}; a word stands in quotes{hint}")
        return build(value, values, values)
    return tuple(resolved(item, values) for item in value) if isinstance(value, tuple) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may stand where an annotation is; what it does not know may."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        kind = inner[0] if inner else Any
        return isinstance(value, tuple) and all(_fits(item, kind) for item in value)
    if isinstance(value, bool) and hint in (int, float):
        return False
    return isinstance(value, (int, float) if hint is float else hint) if isinstance(hint, type) else True


def _words(hint: Any) -> str:
    """An annotation in an error's words."""
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_words(part) for part in typing.get_args(hint))
    return (
        "None" if hint is type(None) else getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
    )


def tacit(value: Any, name: str) -> bool:
    """Whether a dataclass's argument is one that goes without saying at its default, and has it."""
    fields = {field.name: field for field in dataclasses.fields(value)}
    silent = bool(fields[name].metadata.get("tacit"))
    return silent and bool(getattr(value, name) == fields[name].default)


def call_of(value: Any, registry: Registry[type[T]], values: Registry[Any]) -> Call:
    """A registered dataclass as a call with every argument; the inverse of `build`."""
    for name, kind in registry.items():
        if type(value) is kind:
            return Call(
                name,
                named={key: plain(getattr(value, key), values) for key in arguments(kind) if not tacit(value, key)},
            )
    raise ArgumentError(f"{type(value).__name__} is no registered {registry.kind}; register it to name it in text")


def plain(value: Any, values: Registry[Any]) -> Any:
    """A value with every registered dataclass in it as a call; the inverse of `resolved`."""
    if dataclasses.is_dataclass(value):
        return call_of(value, values, values)
    return tuple(plain(item, values) for item in value) if isinstance(value, tuple) else value


def spoken(call: Call, defaults: Mapping[str, Any]) -> Call:
    """The call without arguments that are the defaults.

    Example:
        >>> str(spoken(Call("l1", named={"weight": 0.5, "norm": "decoder"}), {"norm": "decoder"}))
        'l1(weight=0.5)'
    """
    more = {name: value for name, value in call.named.items() if name not in defaults or defaults[name] != value}
    return Call(call.name, call.positional, more)

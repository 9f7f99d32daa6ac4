"""A method as TOML: every call of its text is a table, its arguments are the table's entries.

    [method.topk]               # the head
    k = 32
    [terms.ortho]               # what + adds
    weight = 0.25
    [parts.unit_norm]           # what stands after |
    [pairing.crosscoder]        # what stands after @
    private = 0.05

`without = ["auxk"]`, above the tables, takes away what the head has. A schedule is a table in place of a number:
`weight = { ramp = { start = 0.0, stop = 0.5 } }`.
"""

import tomllib
from pathlib import Path
from typing import Any

from monosem.base.calls import Call, Edit, read
from monosem.base.errors import ArgumentError, CheckpointError, check
from monosem.base.files import read_text
from monosem.losses.objective import TERMS

_TABLES = ("method", "terms", "parts", "pairing")


def read_toml(path: Path) -> tuple[Call, tuple[Edit, ...]]:
    """The head and the edits that a file says. Raises: ArgumentError for a file that says no method."""
    try:
        plain = tomllib.loads(read_text(path))
    except (CheckpointError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ArgumentError(f"{path} cannot be read as TOML: {error}") from None
    unknown = sorted(set(plain) - {*_TABLES, "without"})
    check(not unknown, f"{path} holds {', '.join(unknown)}; a method has {', '.join(_TABLES)} and 'without'")
    heads = _calls(plain, "method", path)
    check(len(heads) == 1, f"{path} names {len(heads)} methods; one table [method.NAME] belongs there")
    away = [Call(str(name)) for name in plain.get("without", ())]
    edits = [Edit("terms" if call.name in TERMS else "parts", call, remove=True) for call in away]
    for section in ("terms", "parts", "pairing"):
        edits += [Edit(section, call) for call in _calls(plain, section, path)]
    return heads[0], tuple(edits)


def _calls(plain: dict[str, Any], section: str, path: Path) -> list[Call]:
    tables = plain.get(section, {})
    good = isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())
    check(good, f"{path}: [{section}] holds tables, one a name, as [{section}.NAME]")
    return [Call(name, named={key: _value(value) for key, value in table.items()}) for name, table in tables.items()]


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        check(
            len(value) == 1, f"{value} stands where a value belongs; a schedule is one name, as {{ ramp = {{ ... }} }}"
        )
        ((name, inside),) = value.items()
        check(
            isinstance(inside, dict), f"{name} stands where a value belongs; give its arguments, as {{ {name} = {{}} }}"
        )
        return Call(name, named={key: _value(item) for key, item in inside.items()})
    return tuple(map(_value, value)) if isinstance(value, list) else value


def to_toml(text: str) -> str:
    """A method's text as TOML. An argument None has no place in TOML: it is left out, as its default.

    Example:
        >>> print(to_toml("topk(k=4) - auxk @ crosscoder(private=0.05)"))
        without = ["auxk"]
        [method.topk]
        k = 4
        [pairing.crosscoder]
        private = 0.05
    """
    head, edits = read(text)
    away = [f'"{edit.call.name}"' for edit in edits if edit.remove]
    tables = [("method", head), *((edit.section, edit.call) for edit in edits if not edit.remove)]
    lines = [f"without = [{', '.join(away)}]"] if away else []
    for section, call in tables:
        if call.positional:
            raise ArgumentError(f"{call} has arguments without a name; take the method's spec, which names all of them")
        lines += [f"[{section}.{call.name}]"]
        lines += [f"{name} = {_show(value)}" for name, value in call.named.items() if value is not None]
    return "\n".join(lines)


def _show(value: Any) -> str:
    if isinstance(value, Call):
        inside = ", ".join(f"{name} = {_show(item)}" for name, item in value.named.items())
        return f"{{ {value.name} = {{ {inside} }} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_show, value))}]"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else repr(value)

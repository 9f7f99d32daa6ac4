"""Packed files: many JSON objects in one compressed file, a line each; what many of them share stands once.

The first line is the header: the format, its version, the kind of object, how many there are, and the shared parts.
Every further line is an object, in which a shared part is the number of its entry in the header, and a table of
numbers (metrics by name, each with its baselines) is the number of its columns and the values. The same objects
always give the same bytes.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monosem.base.errors import CheckpointError, shortened
from monosem.base.files import parse_json, plain_file, write_atomic

PACKED = ".jsonl.gz"
"""How the name of a packed file ends."""
_FORMAT, _VERSION = "monosem-packed", 1
_LONGEST, _LARGEST = 1 << 26, 1 << 30
"""Bytes of a line, and of a whole file when expanded, beyond which a file is refused."""


_DAMAGE = (
    CheckpointError, OSError, EOFError, zlib.error, ValueError, RecursionError, LookupError, TypeError, AttributeError,
    StopIteration, MemoryError,
)  # fmt: skip


class _Packed(NamedTuple):
    """A packed file that was read: its header, and its objects with the lines on which they stand."""

    header: dict[str, Any]
    lines: list[tuple[int, dict[str, Any]]]


def write_packed(
    path: str | Path,
    kind: str,
    objects: Sequence[Mapping[str, Any]],
    shared: Sequence[str] = (),
    table: str = "",
    **more: Any,
) -> Path:
    """Write objects as one packed file, atomically. `shared`: dotted paths of parts that stand once; `table`: the
    entry that is a table of numbers; `more` is added to the header."""
    store = _Shared()
    lines = [_encoded(one, shared, table, store) for one in objects]
    header = {"format": _FORMAT, "version": _VERSION, "kind": kind, "count": len(lines)}
    header |= {"parts": list(shared), "table": table, "shared": store.entries, **more}
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0, filename="") as file:
        for line in (header, *lines):
            file.write(_text(line).encode() + b"\n")
    return write_atomic(path, buffer.getvalue())


def read_packed(path: str | Path, kind: str) -> _Packed:
    """Read a packed file whole.

    Raises:
        CheckpointError: it is damaged, too large, or holds another kind; the message names file, line and remedy.
    """
    number, header = 1, dict[str, Any]()
    lines: list[tuple[int, dict[str, Any]]] = []
    try:
        plain_file(path, _LARGEST)
        for text in _lines(path):
            one = parse_json(text.decode())
            if not isinstance(one, dict):
                raise ValueError("it is no object")
            if number == 1:
                header = _checked(one, kind)
            else:
                lines.append((number, _decoded(one, header)))
            number += 1
        if not header or len(lines) != header["count"]:
            raise ValueError(f"it has {len(lines)} objects of {header.get('count', 'an unknown number')}")
    except _DAMAGE as error:
        remedy = "restore it from version control, or pack its loose files again"
        raise CheckpointError(
            f"{path}, line {number}, is damaged ({shortened(str(error)) or type(error).__name__}); {remedy}"
        ) from None
    return _Packed(header, lines)


class _Shared:
    """Parts that were met, numbered by name in the order of their first use."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Any]] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    def number(self, name: str, part: Any) -> int:
        entries = self.entries.setdefault(name, [])
        number = self._numbers.setdefault((name, _text(part)), len(entries))
        if number == len(entries):
            entries.append(part)
        return number


def _encoded(one: Mapping[str, Any], shared: Sequence[str], table: str, store: _Shared) -> dict[str, Any]:
    line = dict(one)
    for path in shared:
        *above, last = path.split(".")
        inner = line
        for name in above:
            inner[name] = dict(inner[name])
            inner = inner[name]
        inner[last] = store.number(path, inner[last])
    if table:
        rows = sorted(line[table].items())
        columns = [[name, sorted(row)] for name, row in rows]
        line[table] = [store.number(table, columns), [row[who] for _, row in rows for who in sorted(row)]]
    return line


def _decoded(line: dict[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    for path in header["parts"]:
        *above, last = path.split(".")
        inner = line
        for name in above:
            inner = inner[name]
        inner[last] = _entry(header["shared"][path], inner[last])
    if header["table"]:
        number, values = line[header["table"]]
        columns, rest = _entry(header["shared"][header["table"]], number), iter(values)
        line[header["table"]] = {name: {who: next(rest) for who in sides} for name, sides in columns}
        if len(values) != sum(len(sides) for _, sides in columns):
            raise ValueError(f"{header['table']} has {len(values)} values, not one for each of its columns")
    return line


def _entry(entries: list[Any], number: Any) -> Any:
    if not isinstance(number, int) or not 0 <= number < len(entries):
        raise ValueError(f"it asks for entry {number!r} of {len(entries)} shared ones")
    return entries[number]


def _checked(header: dict[str, Any], kind: str) -> dict[str, Any]:
    known = {"format": _FORMAT, "version": _VERSION, "kind": kind}
    for name, wanted in known.items():
        if header.get(name) != wanted:
            raise ValueError(f"its header says {name} {header.get(name)!r}, not {wanted!r}")
    return header


def _lines(path: str | Path) -> Iterator[bytes]:
    """The lines of a compressed file; a line or a file that expands beyond the limits is refused."""
    size = 0
    with gzip.open(path, "rb") as file:
        while line := file.readline(_LONGEST + 1):
            size += len(line)
            if len(line) > _LONGEST or size > _LARGEST:
                raise ValueError(f"it expands beyond {_LONGEST} bytes a line or {_LARGEST} in all")
            yield line


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)

"""Markdown pages that are made from records: what lies between two markers, and tables."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from monosem.base.errors import DataError, check
from monosem.base.files import write_atomic


def between(text: str, name: str, new: str) -> str:
    """`text` with `new` as everything between the markers of `name`.

    Raises:
        DataError: a marker is missing, occurs twice, or the end comes first.

    Example:
        >>> between("a <!-- begin x -->old<!-- end x --> b", "x", "new")
        'a <!-- begin x -->\\nnew\\n<!-- end x --> b'
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    once = text.count(begin) == text.count(end) == 1 and end not in before
    check(once, f"the page needs {begin} and, after it, {end}, each once; add them around what is generated", DataError)
    return f"{before}{begin}\n{new.strip()}\n{end}{after}"


def fill(path: str | Path, parts: Mapping[str, str]) -> None:
    """Replace the named parts of a page, all or none."""
    text = Path(path).read_text()
    for name, new in parts.items():
        text = between(text, name, new)
    write_atomic(path, text.encode())


def table(rows: Iterable[Sequence[object]], numbers: bool = False) -> str:
    """A Markdown table; the first row is its head. `numbers`: all columns but the first are aligned right.

    Example:
        >>> print(table([("method", "L0"), ("topk", 4)]))
        | method | L0 |
        | --- | --- |
        | topk | 4 |
    """
    head, *body = ([str(cell) for cell in row] for row in rows)
    rule = ["---", *(["---:" if numbers else "---"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))

"""The page writer: parts of a page between markers, Markdown tables, and where the numbers of a page come from."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monosem.base.errors import DataError, check
from monosem.base.files import write_atomic
from monosem.bench.records import outdated


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


def write_generated(path: str | Path, name: str, text: str) -> None:
    """Write a page that is generated as a whole, with the command that made it."""
    note = f"<!-- Generated from records by `python -m studies pages {name}`; do not edit. -->"
    write_atomic(path, f"{note}\n\n{text}".encode())


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


def provenance(records: Iterable[Mapping[str, Any]], packages: Sequence[str] = ("torch",)) -> str:
    """Processors and devices, versions of `packages`, and commits of every record; each record has an `env`.

    Example:
        >>> env = {"cpu": "A CPU", "torch": "2.13.0"}
        >>> provenance([{"env": env | {"commit": c}} for c in ("0123456789abcdef", "fedcba9876543210")])
        'A CPU; torch 2.13.0; commits 0123456789ab, fedcba987654'
    """
    records = list(records)
    devices = {str(record.get("config", {}).get("device", "cpu")) for record in records} - {"cpu"}
    machines = ", ".join(sorted({str(record["env"]["cpu"]) for record in records} | devices))
    versions = []
    for package in packages:
        present = sorted({str(record["env"][package]) for record in records if package in record["env"]})
        versions += [f"{package.replace('_', '-')} {', '.join(present)}"] if present else []
    commits = sorted({_short(record["env"]["commit"]) for record in records})
    words = [machines, ", ".join(versions), f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"]
    older = outdated(record for record in records if "method" in record and "seed" in record)
    return "; ".join([*words, *([f"older bits: {older}"] if older else [])])


def _short(commit: str | None) -> str:
    """Twelve digits, and the mark of a changed tree."""
    return "unknown" if commit is None else commit[:12] + "+dirty" * commit.endswith("+dirty")

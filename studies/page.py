"""Pages that are generated as a whole, and where their numbers come from."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monosem.base import write_atomic
from monosem.bench import outdated

MOST_COMMITS = 6
"""More commits than these are counted; their names stand in the records."""


def write_generated(path: str | Path, name: str, text: str) -> None:
    """Write a page that is generated as a whole, with the command that made it."""
    note = f"<!-- Generated from records by `python -m studies pages {name}`; do not edit. -->"
    write_atomic(path, f"{note}\n\n{text}".encode())


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
    words = [machines, ", ".join(versions), _commits({_short(record["env"]["commit"]) for record in records})]
    older = outdated(record for record in records if "method" in record and "seed" in record)
    return "; ".join([*words, *([f"older bits: {older}"] if older else [])])


def _commits(commits: set[str]) -> str:
    if len(commits) > MOST_COMMITS:
        return f"{len(commits)} commits"
    return f"commit{'s' * (len(commits) > 1)} {', '.join(sorted(commits))}"


def _short(commit: str | None) -> str:
    """Twelve digits, and the mark of a changed tree."""
    return "unknown" if commit is None else commit[:12] + "+dirty" * commit.endswith("+dirty")

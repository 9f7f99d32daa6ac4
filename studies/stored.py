"""Records that are not runs of the bench: new ones loose under runs/records, the committed ones in one packed file.

What a study stores comes from here too: runs that its record lacks.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from monosem.base import DataError, check, read_json, write_json
from monosem.bench import read_packed, write_packed

RECORDS = Path(__file__).with_name("records")
"""The committed records: packed files, runs of the bench by what they belong to, all else in one."""
LOOSE, COMMITTED = Path("runs/records"), RECORDS / "other.jsonl.gz"
_KIND = "documents"


def packed(name: str) -> Path:
    """The packed file of that name, as "study-paper"."""
    return RECORDS / f"{name}.jsonl.gz"


def stored(name: str) -> Any | None:
    """The record of that name, as "search/nano", a loose one before a committed one; None where there is neither."""
    path = LOOSE / f"{name}.json"
    return read_json(path) if path.is_file() else read_documents(COMMITTED).get(name)


def stored_below(name: str) -> list[Any]:
    """Every record NAME/..., by name, without those of folders in it."""
    loose = {f"{name}/{path.stem}" for path in (LOOSE / name).glob("*.json")}
    packed = {one for one in read_documents(COMMITTED) if one.rpartition("/")[0] == name}
    return [stored(one) for one in sorted(loose | packed)]


def store(name: str, record: Mapping[str, Any]) -> None:
    """Write a loose record of that name, whole or not at all."""
    write_json(LOOSE / f"{name}.json", record)


def run_missing(name: str, about: dict[str, Any], runs: Iterable[tuple[str, Callable[[], Any]]]) -> None:
    """Run what the record of that name lacks, one run after the other, and store it after each; `about` is its head."""
    record: dict[str, Any] = {"runs": {}} | (stored(name) or {}) | about
    for key, run in runs:
        if key not in record["runs"]:
            record["runs"][key] = run()
            store(name, record)
            print(key, flush=True)


def read_documents(path: Path) -> dict[str, Any]:
    """Everything in a packed file of such records, by name; {} where there is no such file."""
    return _documents(path, path.stat().st_mtime_ns) if path.is_file() else {}


@lru_cache(maxsize=2)
def _documents(path: Path, changed: int) -> dict[str, Any]:
    return {line["name"]: line["value"] for _, line in read_packed(path, _KIND).lines}


def pack_documents(path: Path, folder: Path) -> list[str]:
    """Add every JSON file below a folder to a packed file, in place of those of the same name; returns all names."""
    files = sorted(folder.rglob("*.json"))
    check(bool(files), f"{folder} holds no JSON files; name the folder that the studies wrote to", DataError)
    new = {file.relative_to(folder).with_suffix("").as_posix(): read_json(file) for file in files}
    every = read_documents(path) | new
    write_packed(path, _KIND, [{"name": name, "value": every[name]} for name in sorted(every)])
    return sorted(every)

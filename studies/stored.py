"""Records that are not runs of the bench: one JSON file each, below records/."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosem.base.files import read_json, write_json

RECORDS = Path("records")


def stored(name: str) -> Any | None:
    """What `records/NAME.json` holds; None where it has not been made."""
    path = RECORDS / f"{name}.json"
    return read_json(path) if path.is_file() else None


def stored_below(name: str) -> list[Any]:
    """Every record of `records/NAME/`, by file name, without those of folders in it."""
    return [read_json(path) for path in sorted((RECORDS / name).glob("*.json"))]


def store(name: str, record: Mapping[str, Any]) -> None:
    """Write `records/NAME.json`, whole or not at all."""
    write_json(RECORDS / f"{name}.json", record)

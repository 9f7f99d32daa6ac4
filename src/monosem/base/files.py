"""Files are written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monosem.base.errors import CheckpointError


def write_atomic(path: str | Path, write: bytes | Callable[[Path], None]) -> Path:
    """Write `path` so that a reader, or a crash at any moment, sees the old file or the new one.

    `write` is the content, or a function that writes it to the temporary path it is given.
    The temporary file lies in the same folder, is flushed to disk, then renamed over `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        os.close(handle)
        if callable(write):
            write(temporary)
        else:
            temporary.write_bytes(write)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON with sorted keys, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    return write_atomic(path, (text + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a damaged one is a CheckpointError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); restore it or delete it") from None

"""Files are written whole or not at all, by one process at a time; what is read has a limit before it takes memory."""

import json
import os
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from monosem.base.errors import CheckpointError, OutputError, check, shortened

LARGEST_JSON = 1 << 26
"""Bytes of a JSON file that is read; parsed, it takes up to some thirty times as much memory."""

Write = bytes | Callable[[Path], None]
"""The content of a file, or a function that writes it to the path that it is given."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """What the system says against an output becomes one OutputError that names it."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise OutputError(f"{path} cannot be written ({why}); free the disk, or choose another place") from None


def write_atomic(path: str | Path, write: Write) -> Path:
    """Write `path` so that a reader, or a crash at any moment, sees the old file or the new one.

    The temporary file lies in the same folder, is flushed to disk, then renamed over `path`.
    Raises: OutputError when it cannot be written; what was there before is untouched then.
    """
    return write_together({Path(path): write})[0]


def write_together(files: Mapping[Path, Write]) -> list[Path]:
    """Write several files: all are on disk before the first is renamed, so that a full disk leaves all the old ones.

    A crash between two renames leaves a mixture; files that belong together name each other's checksum.
    Raises: OutputError as `write_atomic`.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            with writing(path):
                if path.is_dir():
                    raise OutputError(f"{path} is a folder; give another name")
                path.parent.mkdir(parents=True, exist_ok=True)
                parts[path] = _part(path)
                _fill(parts[path], write)
        for path, part in parts.items():
            with writing(path):
                os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    for folder in {path.parent for path in files}:
        _flush(folder)
    return list(files)


def _part(path: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    return Path(name)


def _fill(part: Path, write: Write) -> None:
    if callable(write):
        write(part)
    else:
        part.write_bytes(write)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.chmod(part, 0o644)


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_bytes(value: Any) -> bytes:
    """`value` as indented JSON with sorted keys; NaN and infinity are refused."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as `json_bytes` gives it, atomically."""
    return write_atomic(path, json_bytes(value))


def read_json(path: str | Path, largest: int = LARGEST_JSON, finite: bool = True) -> Any:
    """Read a JSON file; one that is damaged, no plain file, or of more than `largest` bytes is a CheckpointError.

    NaN and infinity, which are no JSON, are refused, unless others' files may hold them (`finite` False).
    """
    try:
        plain_file(path, largest)
        return parse_json(Path(path).read_text(encoding="utf-8"), finite)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        why = shortened(str(error) or type(error).__name__)
        raise CheckpointError(f"{path} is not readable JSON ({why}); restore it or delete it") from None


def read_text(path: str | Path, largest: int = LARGEST_JSON) -> str:
    """The text of a file. Raises: CheckpointError for no plain file, for no UTF-8, or for over `largest` bytes."""
    try:
        plain_file(path, largest)
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); check the path") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None


def parse_json(text: str, finite: bool = True) -> Any:
    """A value from JSON text. Raises: ValueError for what is none, or for NaN and infinity with `finite`."""
    return json.loads(text, parse_constant=_refuse if finite else None)


def _refuse(name: str) -> float:
    raise ValueError(f"it holds {name}")


def plain_file(path: str | Path, largest: int | None = None) -> int:
    """The size of a file. Raises: CheckpointError for what is none (a pipe would never end), or is too large."""
    size = os.stat(path)
    check(stat.S_ISREG(size.st_mode), f"{path} is no plain file; give one", CheckpointError)
    fits = largest is None or size.st_size <= largest
    check(fits, f"{path} has {size.st_size:,} bytes, at most {largest or 0:,} are read", CheckpointError)
    return size.st_size


_CLAIMS: dict[Path, int] = {}
"""Folders that this process has claimed, and by which thread."""


@contextmanager
def claim(folder: str | Path) -> Iterator[Path]:
    """The folder as this thread's own, made if need be, for as long as the context is open; claims nest.

    The lock is the system's, on the file .lock: it ends with the process, however that dies. Where the file system
    has no locks there is none. A folder that was made here and stayed empty is removed again.
    Raises: OutputError when nothing can be written there, or another process writes there: it is named.
    """
    folder = Path(folder)
    whole = Path(os.path.realpath(folder))
    if _CLAIMS.get(whole) == threading.get_ident():
        yield folder
        return
    made = []
    with writing(folder):
        made = [path for path in (whole, *whole.parents) if not path.exists()]
        whole.mkdir(parents=True, exist_ok=True)
        lock = _locked(whole / ".lock")
    try:
        with writing(folder):
            command = " ".join(Path(word).name for word in sys.argv[:2])
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()} ({command})\n".encode(), 0)
        _CLAIMS[whole] = threading.get_ident()
        yield folder
    finally:
        _CLAIMS.pop(whole, None)
        (whole / ".lock").unlink(missing_ok=True)
        os.close(lock)
        with suppress(OSError):  # it holds something, as it should
            for path in made:
                path.rmdir()


def check_output(folder: str | Path) -> None:
    """Try an output before the work that leads to it. Raises: OutputError as `claim`."""
    with claim(folder):
        pass


def _locked(path: Path) -> int:
    """A file that is open and locked, and still has this name: whoever had it before may have removed it."""
    import fcntl

    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 300, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(file)
            text = f"{path.parent} is in use by {holder}; wait for it, or choose another folder"
            raise OutputError(text) from None
        except OSError:  # a file system without locks
            return file
        if path.exists() and os.path.samestat(os.fstat(file), os.stat(path)):
            return file
        os.close(file)

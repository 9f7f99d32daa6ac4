"""Parts of your own: a Python file or an installed package that registers terms, activations, encoders and the like.

Nothing is loaded unless it is asked for by `load`, by `monosem --load` or for a worker of a process that did; a model
or a record names no file. A record carries the hash of what was loaded when it was made.
"""

import hashlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path

from monosem.base.errors import ArgumentError

GROUP = "monosem.parts"
"""The entry points of packages that bring parts."""

_LOADED: dict[str, tuple[str, str]] = {}
"""By name: (what was asked for, sha256 of its source)."""


def load(*sources: str) -> None:
    """Run Python files (`mine.py`) or modules of installed packages (the names of their entry points), once each.

    What they register can then be named in the text of a method like anything else.
    Raises: ArgumentError where there is no such file or entry point, it fails, or another file of that name is loaded.
    """
    for source in sources:
        name, path, module = _located(source)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if name in _LOADED:
            if _LOADED[name][1] != digest:
                raise ArgumentError(f"another {name} is loaded already; give {path} another name, or start anew")
            continue
        if module is None:
            _run(name, path)
        else:
            importlib.import_module(module)
        _LOADED[name] = (source if module else str(path), digest)


def sources() -> tuple[str, ...]:
    """What is loaded, as it was asked for: another process loads the same by it."""
    return tuple(source for source, _ in _LOADED.values())


def loaded() -> dict[str, dict[str, str]]:
    """{"loaded": sha256 by name} for a record; empty where nothing is loaded."""
    return {"loaded": {name: digest for name, (_, digest) in _LOADED.items()}} if _LOADED else {}


def _located(source: str) -> tuple[str, Path, str | None]:
    """The name, the source file and, for an entry point, the module of what is asked for."""
    if source.endswith(".py"):
        path = Path(source).resolve()
        if not path.is_file():
            raise ArgumentError(f"there is no file {source} to load")
        return path.stem, path, None
    known = {point.name: point for point in entry_points(group=GROUP)}
    if source not in known:
        raise ArgumentError(
            f"no installed package has an entry point {source!r} in {GROUP}; known: {', '.join(known) or 'none'}. "
            "A file ends in .py"
        )
    spec = importlib.util.find_spec(known[source].module)
    if spec is None or spec.origin is None:
        raise ArgumentError(f"the entry point {source!r} names {known[source].module}, which is not there")
    return source, Path(spec.origin), known[source].module


def _run(name: str, path: Path) -> None:
    module_name = f"monosem_loaded.{name}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # a dataclass looks its module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ArgumentError(f"{path} cannot be loaded ({type(error).__name__}: {error})") from error

"""The shared library of the C kernels: compiled on first use by the machine's C compiler, kept in the user's cache.

Nothing is compiled at import. Without a compiler (or with MONOSEM_NATIVE=0) there is no library and every caller
takes its plain torch path: same values within rounding, slower.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

SOURCES = ("cells.c", "rank.c", "rows.c", "certified.c", "dense.c", "team.c")
_HEADERS = ("cells.h",)
_FLAGS = (
    "-O3",
    "-march=native",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
    "-std=gnu11",
    *(("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()),  # where it has them
)
_reason: list[str] = []


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "monosem" / "native"


def _machine() -> str:
    """What a build for this machine depends on: its instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return platform.machine() + "".join(next((line for line in lines if line.startswith(("flags", "Features"))), ""))


def _compiler() -> str | None:
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def _compile(compiler: str, sources: list[Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    try:
        command = [compiler, *_FLAGS, "-o", name, *map(str, sources), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        os.replace(name, target)  # whole or not at all, also when two processes build at once
    finally:
        Path(name).unlink(missing_ok=True)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (see `why_absent`)."""
    if os.environ.get("MONOSEM_NATIVE", "1") == "0":
        _reason.append("MONOSEM_NATIVE=0")
        return None
    compiler = _compiler()
    sources = [Path(str(files(__package__) / name)) for name in SOURCES]
    headers = [(files(__package__) / name).read_text() for name in _HEADERS]
    key = hashlib.sha256()
    for part in (_machine(), str(compiler), *_FLAGS, *(source.read_text() for source in sources), *headers):
        key.update(part.encode())
    target = _folder() / f"kernels-{key.hexdigest()[:20]}.so"
    try:
        if not target.exists():
            if compiler is None:
                _reason.append("no C compiler (cc, gcc or clang) on the path")
                return None
            _compile(compiler, sources, target)
        found = ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError) as error:
        _reason.append(f"{error}: {getattr(error, 'stderr', '') or ''}".strip())
        return None
    return found


def build_name() -> str:
    """Which kernels compute: the compiled build's name (a hash of source, flags, compiler, processor), or "torch"."""
    found = library()
    return "torch" if found is None else Path(found._name).stem


@cache
def kernel_hash() -> str:
    """What the compiled kernels were made from, by source, flags and compiler; "none" where torch computes.

    Unlike `build_name` it says nothing of the processor, so that it compares across machines.
    """
    compiler = _compiler()
    if library() is None or compiler is None:
        return "none"
    made = subprocess.run([compiler, "--version"], check=False, capture_output=True, text=True, timeout=10).stdout
    texts = [(files(__package__) / name).read_text() for name in (*SOURCES, *_HEADERS)]
    return hashlib.sha256("\0".join([made.partition("\n")[0], *_FLAGS, *texts]).encode()).hexdigest()[:20]


def why_absent() -> str:
    """Why `library` is None; empty where it is there."""
    return _reason[0] if library() is None and _reason else ""

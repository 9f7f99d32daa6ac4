"""The shared library of the C kernels: compiled on first use by the machine's C compiler, kept in the user's cache.

Nothing is compiled at import. Without a compiler (or with MONOSEM_NATIVE=0) there is no library and every caller
takes its plain torch path: same values within rounding, slower. So it does, with one warning, where anything goes
wrong: a file in the cache is used only if its bytes are those that were compiled and its answers are right.
"""

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
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
_log = logging.getLogger("monosem")
_reason: list[str] = []


def _cache() -> Path | None:
    """The user's cache, made where that is possible; None for a user without a home."""
    with suppress(OSError, RuntimeError):  # RuntimeError: no HOME, and no entry for this user
        folder = Path(os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")) / "monosem" / "native"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return None


def _own() -> Path:
    """A folder of this process alone, where there is no cache to write into."""
    folder = Path(tempfile.mkdtemp(prefix="monosem-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _machine() -> str:
    """What a build for this machine depends on: its instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return platform.machine() + "".join(next((line for line in lines if line.startswith(("flags", "Features"))), ""))


def _compiler() -> str | None:
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def _flags() -> tuple[str, ...]:
    """The compiler's flags, and more of them from MONOSEM_NATIVE_FLAGS (as `make sanitize` gives)."""
    return (*_FLAGS, *os.environ.get("MONOSEM_NATIVE_FLAGS", "").split())


def _compile(compiler: str, folder: Path, name: str) -> Path:
    """Compile into a file that is named after its own bytes: whole or not at all, also when two processes build."""
    handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
    try:
        sources = [str(files(__package__) / source) for source in SOURCES]
        command = [compiler, *_flags(), "-o", part, *sources, "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=120)
        target = folder / f"{name}-{_bytes_of(Path(part))}.so"
        os.fsync(handle)
        os.replace(part, target)
        return target
    finally:
        os.close(handle)
        Path(part).unlink(missing_ok=True)


def _bytes_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _texts(names: Sequence[str]) -> list[str]:
    return [(files(__package__) / name).read_text(encoding="utf-8") for name in names]


def _built(compiler: str | None, name: str) -> Path | None:
    """The library's file, from the cache if a whole one is there; None without a compiler."""
    folder = _cache()
    for known in sorted(folder.glob(f"{name}-*.so")) if folder else ():
        with suppress(OSError):
            if known.stem == f"{name}-{_bytes_of(known)}":
                return known
            known.unlink()  # a build that a crash cut short, or a disk altered
    if compiler is None:
        return None
    _log.warning("monosem compiles its kernels for this processor, once: some ten seconds")
    return _compile(compiler, folder if folder and os.access(folder, os.W_OK | os.X_OK) else _own(), name)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (see `why_absent`)."""
    if os.environ.get("MONOSEM_NATIVE", "1") == "0":
        _reason.append("MONOSEM_NATIVE=0")
        return None
    try:
        path = _built(_compiler(), _name())
        if path is None:
            _reason.append("no C compiler (cc, gcc or clang) on the path")
            return None
        made = ctypes.CDLL(str(path))
        wrong = wrong_answer(made, symbols(_texts(SOURCES)))
        if wrong is not None:
            raise OSError(f"{path}: {wrong} gives a wrong answer, or is missing")
        return made
    except Exception as error:
        _reason.append(f"{error}: {getattr(error, 'stderr', '') or ''}".strip())
        warnings.warn(f"torch computes what compiled kernels would, slower: {_reason[-1][:500]}", stacklevel=2)
        return None


@cache
def _name() -> str:
    """The name of the build for this machine: a hash of source, flags, compiler, processor."""
    parts = (_machine(), str(_compiler()), *_flags(), *_texts((*SOURCES, *_HEADERS)))
    return f"kernels-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:20]}"


def build_name() -> str:
    """Which kernels compute: the compiled build's name (a hash of source, flags, compiler, processor), or "torch"."""
    return "torch" if library() is None else _name()


@cache
def kernel_hash() -> str:
    """What the compiled kernels were made from, by source, flags and compiler; "none" where torch computes.

    Unlike `build_name` it says nothing of the processor, so that it compares across machines.
    """
    compiler = _compiler()
    if library() is None or compiler is None:
        return "none"
    version = [compiler, "--version"]
    made = subprocess.run(version, check=False, capture_output=True, text=True, errors="replace", timeout=10).stdout
    texts = _texts((*SOURCES, *_HEADERS))
    return hashlib.sha256("\0".join([made.partition("\n")[0], *_flags(), *texts]).encode()).hexdigest()[:20]


def why_absent() -> str:
    """Why `library` is None; empty where it is there."""
    return _reason[0] if library() is None and _reason else ""


_F, _I, _N = ctypes.c_float, ctypes.c_int64, ctypes.c_int32


def symbols(sources: Sequence[str]) -> list[str]:
    """The functions that C sources export."""
    return [name for text in sources for name in re.findall(r"^(?:void|int64_t) (monosem_\w+)\(", text, re.MULTILINE)]


def wrong_answer(library: ctypes.CDLL, names: Sequence[str]) -> str | None:
    """The first function that is missing, or whose answer is wrong; None where all is well."""
    missing = next((name for name in names if not hasattr(library, name)), None)
    return missing or next((name for name, right in _answers(library) if not right), None)


def _answers(c: ctypes.CDLL) -> list[tuple[str, bool]]:
    """Two rows of cells (0, 1), (0, 2) and (1, 1) with values 2, 3, 5, and W = [[1, 2], [3, 4], [5, 6]]."""
    crow, col, values = (_I * 3)(0, 2, 3), (_I * 3)(1, 2, 1), (_F * 3)(2, 3, 5)
    weight, starts, row, cell = (_F * 6)(1, 2, 3, 4, 5, 6), (_I * 4)(), (_N * 3)(), (_I * 3)()
    c.monosem_latent_major(crow, col, _I(0), _I(2), _I(3), starts, row, cell)
    order = [list(starts), list(row), list(cell)] == [[0, 0, 2, 3], [0, 1, 0], [0, 2, 1]]
    out, products, bags = (_F * 4)(), (_F * 3)(), (_F * 6)()
    cells, latents, wide = (starts, row, cell), (_I(0), _I(3)), _I(2)
    c.monosem_scatter(*cells, *latents, values, weight, wide, wide, out, wide)
    c.monosem_inner(*cells, *latents, (_F * 4)(1, 0, 0, 1), wide, weight, wide, wide, products)
    c.monosem_bags(*cells, *latents, values, (_F * 4)(1, 0, 0, 1), wide, wide, bags, wide)
    numbers, largest, z, value, sums = (_F * 5)(3, -1, 4, 1, 5), _F(), (_F * 4)(1, -2, 3, 0), (_F * 4)(), (_F * 2)()
    c.monosem_count.restype = _I
    nonzero = c.monosem_count(z, _I(0), _I(4))
    c.monosem_kth_largest(numbers, _I(5), _I(2), ctypes.byref(largest))
    c.monosem_jump(z, None, value, wide, _I(0), wide, sums)
    return [
        ("monosem_latent_major", order),
        ("monosem_scatter", list(out) == [21, 26, 15, 20]),
        ("monosem_inner", list(products) == [3, 5, 4]),
        ("monosem_bags", list(bags) == [0, 0, 2, 5, 3, 0]),
        ("monosem_count", nonzero == 3),
        ("monosem_kth_largest", largest.value == 4),
        ("monosem_jump", list(value) + list(sums) == [1, 0, 3, 0, 4, 0]),
    ]

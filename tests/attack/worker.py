"""One call of the command line in a forked process with limits on time and memory, and what came of it."""

import hashlib
import os
import resource
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monosem.cli.app import app

CPU_SECONDS, WALL_SECONDS = 30, 90
MEMORY = 1 << 30
"""Bytes that a call may take beyond those of a process that has imported everything."""
LONGEST = 3000
"""Characters of a message beyond which it counts as too long."""
GOOD = ("accepted", "named error")


@dataclass(frozen=True)
class Ended:
    """How a call ended: the outcome in a word or two, its exit code, and the end of what it said."""

    outcome: str
    code: int
    said: str


def run(words: Sequence[str], scratch: Path, marker: Path, disk: int | None = None) -> Ended:
    """Call the command line; `disk`: bytes of the largest file that may be written, as on a disk that is full then."""
    printed = scratch / "printed.txt"
    child = os.fork()
    if child == 0:
        os._exit(_serve(words, printed, disk))
    code = _wait(child)
    said = printed.read_bytes()[-20000:].decode("utf-8", "replace") if printed.exists() else ""
    size = printed.stat().st_size if printed.exists() else 0
    return Ended("code executed" if marker.exists() else _outcome(code, said, size), code, said[-1500:])


def _serve(words: Sequence[str], printed: Path, disk: int | None) -> int:
    """The child's whole life; its exit code."""
    os.setpgid(0, 0)
    with printed.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", errors="backslashreplace", closefd=False) for fd in (1, 2))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (_data() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if disk is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))
    code = 70
    try:
        app(list(words), prog_name="monosem")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        pass
    return code


def _data() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


def _wait(child: int) -> int:
    """The exit code, negative for a signal; -1000 for a call that was still there after WALL_SECONDS."""
    handle, code = os.pidfd_open(child), -1000
    try:
        if select.select([handle], [], [], WALL_SECONDS)[0]:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(handle)
    if code == -1000:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return code


def _outcome(code: int, said: str, size: int) -> str:
    if code < 0:
        return "over the time limit" if code in (-1000, -signal.SIGXCPU) else f"signal {-code}"
    if "Traceback (most recent call last)" in said or code == 70:
        return "traceback"
    if size > 20 * LONGEST or max(map(len, said.splitlines() or [""])) > LONGEST:
        return "long message"
    if code == 0:
        return "accepted"
    return "named error" if "error: " in said or "Usage: " in said else f"exit {code} without a word"


def fingerprints(folder: Path) -> dict[str, str]:
    """sha256 of every plain file below a folder; of links and others their kind."""
    prints = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            prints[str(path)] = f"link {os.readlink(path)}"
        elif path.is_file() and path.stat().st_size < 1 << 28:
            prints[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return prints


def fresh(folder: Path) -> Path:
    """An empty folder of this name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder

"""The command line: parsing only, everything it does lives in the layers below."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_signals: list[int] = []
"""Ctrl-C and SIGTERM that have come: a KeyboardInterrupt alone may be lost, or become another error, in others' C."""


class Stopped(SystemExit):
    """The end of a command that a signal stopped; `guarded` says so, and what to do."""

    def __init__(self, remedy: str = "") -> None:
        super().__init__(stopped() or 130)
        self.remedy = remedy


def stopped() -> int:
    """The exit code after a signal, 130 for Ctrl-C and 143 for SIGTERM; 0 where none came."""
    return 128 + _signals[0] if _signals else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    _signals.append(number)
    raise KeyboardInterrupt


def _lost(lost: Any) -> None:
    """End here after an interrupt inside a destructor, from which nothing can be raised; files are whole anyway."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(stopped() or 130)
    sys.__unraisablehook__(lost)


def _on_signals(handler: Any) -> None:
    """Who is told of Ctrl-C and SIGTERM, unless the caller wants them ignored, as nohup does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def guarded(start: Callable[[], None]) -> None:
    """Call a command line that ends with one line and the code of `stopped` when a signal comes."""
    _on_signals(_interrupt)
    sys.unraisablehook = _lost
    try:
        start()
    except BaseException as end:
        _on_signals(signal.SIG_DFL)  # Python's own end has nothing to say
        if not stopped() or (isinstance(end, SystemExit) and not end.code):  # it was done already
            raise
        print(f"interrupted{end.remedy if isinstance(end, Stopped) else ''}", file=sys.stderr)
        sys.exit(stopped())


def _start() -> None:
    try:
        from monosem.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(f'error: the command line needs {error.name}; pip install "monosem[cli]"', file=sys.stderr)
        sys.exit(2)
    app()


def main() -> None:
    """The console entry point `monosem`."""
    guarded(_start)

"""The terminal: where results, messages and errors go, and how each looks."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from monosem.base.errors import MonosemError
from monosem.cli import Stopped, stopped

CONTINUES = frozenset(["bench", "harvest", "sample", "study", "train"])
"""Commands that go on where they stopped when they are called again."""
EXTRAS = {
    "PIL": "report",
    "matplotlib": "report",
    "pyarrow": "data",
    "scipy": "bench",
    "tokenizers": "real",
    "transformers": "real",
}
"""The extra that installs a package."""
RENAMED: Mapping[str, Mapping[str, str]] = {
    "harvest": {
        "--model": "--network",
        "--at": "--read",
        "--batch": "--batch-tokens",
        "--field": "--text-key",
        "--labels": "--labels-key",
    },
    "sample": {"--model": "--network"},
    "evaluate": {"--at": "--read", "--to": "--write", "--field": "--text-key"},
    "steer": {"--at": "--read", "--to": "--write"},
    "train": {"--batch": "--batch-size", "--store": "--data"},
    "discover": {"--store": "--data"},
    "from-classes": {"--store": "--data"},
    "score-classes": {"--store": "--data", "--model": "no option: write the dictionary's path alone"},
}
"""By command: options of earlier versions, and what to write today."""

_quiet = False


def out() -> Console:
    """Results: standard output."""
    return Console(highlight=False)


def err() -> Console:
    """Messages and progress: standard error, silent under --quiet."""
    return Console(stderr=True, highlight=False, quiet=_quiet)


@contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """No messages and no progress inside, if `quiet`; errors are shown all the same."""
    global _quiet
    log = logging.getLogger("monosem")
    before, level = _quiet, log.level
    _quiet = quiet
    if quiet:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _quiet = before
        log.setLevel(level)


def say(text: str, style: str = "") -> None:
    """One message on one line, however narrow the terminal."""
    err().print(Text(text, style=style), soft_wrap=True)


def set_threads(threads: int | None) -> None:
    """Torch threads, where a number is given."""
    if threads is not None:
        import torch

        if threads < 1:
            fail(f"--threads {threads}; it must be at least 1")
        torch.set_num_threads(threads)


def check_device(name: str) -> None:
    """Refuse what torch does not know as a device; whether it is here is said where it is used."""
    import torch

    try:
        torch.device(name)
    except RuntimeError:
        fail(f"--device {name} is no device that torch knows; write cpu, cuda or cuda:1")


def split_names(text: str | None) -> list[str] | None:
    """The names in "cat,dog"; None without a text."""
    return None if text is None else [name.strip() for name in text.split(",")]


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong on one line and stop with an exit code."""
    line = Text.assemble(("error: ", "bold red"), (" ".join(message.split()), "red"))
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)
    raise typer.Exit(code)


def every_nth(index: str) -> slice:
    """What --index I/N asks for: every N-th run from the I-th on, one task of an array."""
    first, _, every = index.partition("/")
    if not (first.isdecimal() and every.isdecimal() and int(first) < int(every)):
        fail(f'--index {index!r}; write I/N with I from 0 to N - 1, as "0/8"')
    return slice(int(first), None, int(every))


@contextmanager
def rate_bar(total: int | None) -> Iterator[Callable[[int, int], None]]:
    """A bar of (rows, tokens) of this call so far: rows of the total, tokens a second, time left."""
    import time

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    began, of = time.perf_counter(), "" if total is None else f" of {total:,}"
    columns = (BarColumn(bar_width=16), TextColumn("{task.description}"), TimeElapsedColumn(), *_left(total))
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(rows: int, tokens: int) -> None:
            rate = tokens / max(time.perf_counter() - began, 1e-9)
            bar.update(task, completed=rows, description=f"{rows:,}{of} rows  {rate:,.0f} tokens/s")

        yield advance


@contextmanager
def sample_bar(total: int, done: int) -> Iterator[Callable[[float], None]]:
    """A bar of finished texts, with fractions; `done` were there before."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=16), TextColumn("{task.description}"), TimeElapsedColumn(), *_left(total))
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(f"{done:,} of {total:,} texts", total=total, completed=done)
        yield lambda texts: bar.update(task, completed=texts, description=f"{texts:,.0f} of {total:,} texts")


def _left(total: int | None) -> tuple[Any, ...]:
    """Columns with the time left, where that can be known."""
    from rich.progress import TextColumn, TimeRemainingColumn

    return () if total is None else (TextColumn("[dim]left[/]"), TimeRemainingColumn())


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """monosem's own warnings are for the user, on one line; others keep Python's form."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any
        ) -> None:
            if category.__module__.startswith("monosem."):
                err().print(Text.assemble(("warning: ", "bold yellow"), (str(message), "yellow")), soft_wrap=True)
            else:
                usual(message, category, filename, lineno, *rest, **more)

        warnings.showwarning = show
        yield


def _usage(error: Any, path: str) -> NoReturn:
    """What the parser refuses in the command of a path, on one line with the remedy."""
    command = error.ctx.info_name if error.ctx else None
    today = RENAMED.get(command or "", {}).get(getattr(error, "option_name", ""))
    if today:
        fail(f"{command} no longer takes {error.option_name}; it is {today}")
    path, what = error.ctx.command_path if error.ctx else path, error.format_message().rstrip(".?")
    fail(f"{what[:1].lower()}{what[1:]}; {path} --help shows what it takes")


class Commands(TyperGroup):
    """Commands whose errors take one line and no traceback."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the arguments before the command's name."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except Exception as error:
            if not _is_usage(error):
                raise
            _usage(error, info_name or "")

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit code 2 for a wrong input, 130 for Ctrl-C, 143 for SIGTERM."""
        try:
            with _warnings_in_a_line():
                return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if stopped() or isinstance(error, KeyboardInterrupt):
                again = ctx.invoked_subcommand in CONTINUES
                raise Stopped("; call the same command again to go on" if again else "") from None
            message = _message(error)
            if message is not None:
                fail(message)
            if not _is_usage(error):
                raise
            _usage(error, f"{ctx.command_path} {ctx.invoked_subcommand or ''}".strip())


def _is_usage(error: Exception) -> bool:
    """Whether the parser refuses something; a bare command that shows its help is no such refusal."""
    return hasattr(error, "format_message") and type(error).__name__ != "NoArgsIsHelpError"


def _message(error: Exception) -> str | None:
    """What to say of an error that is the caller's to mend; None for any other."""
    if isinstance(error, MonosemError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f'this needs {error.name}, which is not installed; pip install "monosem[{EXTRAS[error.name]}]"'
    if isinstance(error, OSError):  # what the system says about a file that nobody named
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; check the path and the disk"
    return None

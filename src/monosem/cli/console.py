"""The terminal: where results and messages go, and how an error looks."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, NoReturn, TypeVar, get_type_hints

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from monosem.anchors.directions import AnchorWarning
from monosem.base.errors import MonosemError
from monosem.base.tensors import UncheckedWarning

_Options = TypeVar("_Options")

CONTINUES = frozenset(["bench", "harvest", "study", "train"])
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


def out() -> Console:
    """Results: standard output."""
    return Console(highlight=False)


def err() -> Console:
    """Messages and progress: standard error."""
    return Console(stderr=True, highlight=False)


def say(text: str, style: str = "") -> None:
    """One message on one line, however narrow the terminal."""
    err().print(Text(text, style=style), soft_wrap=True)


def set_threads(threads: int | None) -> None:
    """Torch threads, where a number is given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def split_names(text: str | None) -> list[str] | None:
    """The names in "cat,dog"; None without a text."""
    return None if text is None else [name.strip() for name in text.split(",")]


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong on one line and stop with an exit code."""
    line = Text.assemble(("error: ", "bold red"), (" ".join(message.split()), "red"))
    err().print(line, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """monosem's own warnings are for the user, on one line; others keep Python's form."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **more: Any
        ) -> None:
            if issubclass(category, (AnchorWarning, UncheckedWarning)):
                err().print(Text.assemble(("warning: ", "bold yellow"), (str(message), "yellow")), soft_wrap=True)
            else:
                usual(message, category, filename, lineno, *rest, **more)

        warnings.showwarning = show
        yield


def command_of(kind: type[_Options]) -> Callable[[Callable[[_Options], None]], Callable[..., None]]:
    """A command whose options are the fields of a dataclass, and which is called with one of these."""

    def decorate(run: Callable[[_Options], None]) -> Callable[..., None]:
        hints = get_type_hints(kind, include_extras=True)
        parameters = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in fields(kind)  # type: ignore[arg-type]
        ]

        def command(**options: Any) -> None:
            run(kind(**options))

        command.__name__, command.__doc__, command.__module__ = run.__name__, run.__doc__, run.__module__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


class Commands(TyperGroup):
    """Commands whose errors take one line and no traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit code 2 for a wrong input, 130 for an interrupt."""
        try:
            with _warnings_in_a_line():
                return super().invoke(ctx)
        except MonosemError as error:
            fail(str(error))
        except OSError as error:  # what the system says about a file that nobody named
            place = f"{error.filename}: " if error.filename else ""
            fail(f"{place}{error.strerror or error}; check the path and the disk")
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            fail(f'this needs {error.name}, which is not installed; pip install "monosem[{EXTRAS[error.name]}]"')
        except KeyboardInterrupt:
            on = "; call the same command again to go on" if ctx.invoked_subcommand in CONTINUES else ""
            say(f"interrupted{on}", "yellow")
            raise typer.Exit(130) from None

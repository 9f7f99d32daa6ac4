"""The commands, put together: one module each, with a function `register(app)`."""

from typing import Annotated

import typer

from monosem.base.version import __version__
from monosem.cli import (
    anchors,
    bench,
    catalog,
    check,
    convert,
    evaluate,
    harvest,
    inspect,
    steer,
    train,
)
from monosem.cli.console import Commands, out

app = typer.Typer(
    name="monosem",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> bool:
    if wanted:
        out().print(f"monosem {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    load: Annotated[
        list[str] | None,
        typer.Option(
            help="A file of your own terms, activations or encoders, mine.py, or the name of an entry point.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Sparse dictionary learning as one problem, x_r_hat = W_D σ(W_E x_p + b_E) + b_D, scored against known truth."""
    from monosem.base import plugins

    plugins.load(*load or ())


for _command in (
    bench,
    train,
    anchors,
    evaluate,
    steer,
    catalog,
    check,
    convert,
    harvest,
    inspect,
):
    _command.register(app)

"""The commands by name; each is imported when it is called, so that help, version and completion need no torch."""

from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from monosem.cli.console import Commands, out

COMMANDS = {
    "bench": ("bench", "Train and score methods, plain and anchored, against known features."),
    "report": ("bench", "Turn records into one self-contained HTML page."),
    "harvest": ("harvest", "Store a network's activations at some sites."),
    "sample": ("harvest", "Sample texts from a language model."),
    "train": ("train", "Train a method on your own activations."),
    "tune": ("tune", "Choose k, width or length of training by rows held out, without labels."),
    "evaluate": ("evaluate", "Score a dictionary on a task's true features, or by what its network loses."),
    "inspect": ("inspect", "Write one self-contained HTML page of all latents: what each is active on, how often."),
    "explain": ("explain", "Say in words what latents fire on, and score the words on held-out firings."),
    "steer": ("steer", "Continue a prompt with a language model, with latents edited and without."),
    "anchors": ("anchors", "Make anchors, and score what they do."),
    "convert": ("convert", "Rewrite a dictionary in another format, the same function."),
    "describe": ("convert", "Say what a file holds, by its headers: kind, sizes, activation."),
    "list": ("catalog", "List methods, pairings, activations, loss terms and tasks."),
    "cite": ("catalog", "Print BibTeX: the method, its pairing, and the paper."),
    "check": ("check", "Run the theory's checks, or answer about a problem of your own."),
}
"""By name: the module of a command, and what it is for."""


class _Everything(Commands):
    """All of COMMANDS: listed by their summaries, imported when one is called."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: TyperCommand(name, help=summary) for name, (_, summary) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, command(str(name)), rest


@cache
def command(name: str) -> Any:
    """A command by its name, imported: the function of that name (`list_` for list), or `anchors_app`."""
    from monosem.cli.options import add

    part, module = typer.Typer(callback=lambda: None), import_module(f"monosem.cli.{COMMANDS[name][0]}")
    if name == "anchors":
        part.add_typer(module.anchors_app, name=name)
    else:
        add(part, name, getattr(module, name, None) or getattr(module, f"{name}_"))
    return typer.main.get_command(part).commands[name]  # type: ignore[attr-defined]


def _version(wanted: bool) -> bool:
    if wanted:
        from monosem.base.version import __version__

        out().print(f"monosem {__version__}")
        raise typer.Exit
    return wanted


app = typer.Typer(
    name="monosem",
    cls=_Everything,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    load: Annotated[
        list[str] | None,
        typer.Option("--load", help="File of your own terms, activations or encoders, mine.py, or an entry point."),
    ] = None,
) -> None:
    """Sparse dictionary learning as one problem, x_r_hat = W_D σ(W_E x_p + b_E) + b_D, scored against known truth."""
    if load:
        from monosem.base import plugins

        plugins.load(*load)

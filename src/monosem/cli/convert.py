"""`monosem convert` and `monosem describe`: other libraries' files."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from monosem.cli.console import out, say

_Scale = Annotated[
    float | None,
    typer.Option("--input-scale", help="Factor on the inputs in training, where the file does not hold it."),
]


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file or folder of any known format.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    format: Annotated[str, typer.Option("--format", "-f", help="The format to write, as saelens.")] = "monosem",
    input_scale: _Scale = None,
) -> None:
    """Rewrite a model in another format, the same function; what a format cannot express is refused with the reason."""
    from monosem.interop import FORMATS, read, save

    chosen = FORMATS[format]
    if target.resolve() == source.resolve():
        raise typer.BadParameter(f"OUT is IN ({target}); write to another folder")
    loaded = read(source, input_scale)
    save(loaded.model, target, format, loaded.metadata)
    for note in loaded.notes:
        say(note, "yellow")
    out().print(f"{FORMATS[loaded.format].title} -> {chosen.title}: {target}", soft_wrap=True)


def describe(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder of any known format.")],
    input_scale: _Scale = None,
    weights: Annotated[bool, typer.Option("--weights", help="Read the weights too, for their norms.")] = False,
) -> None:
    """Say what a file holds, by its headers: kind, sizes, activation, the share of dead latents if known."""
    from monosem.interop import describe as description

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in description(path, input_scale, weights=weights).rows:
        table.add_row(name, text)
    out().print(table)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(convert)
    app.command()(describe)

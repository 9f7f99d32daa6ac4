"""`monosem report`: one page from a folder of records."""

from pathlib import Path
from typing import Annotated

import typer

from monosem.cli.console import err, say


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of records, from `monosem bench`.", show_default=False)],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The page. [default: FOLDER/report.html]", show_default=False)
    ] = None,
) -> None:
    """Turn records into one self-contained HTML page: tables, curves, maps, and a world in three dimensions."""
    from monosem.report.page import write_report

    with err().status(f"reading {folder}"):
        page = write_report(folder, out_file or folder / "report.html")
    say(f"report   {page}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)

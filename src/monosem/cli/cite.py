"""`monosem cite`: BibTeX for a method, its pairing and the paper behind monosem."""

from typing import Annotated

import typer


def cite(
    method: Annotated[str, typer.Argument(help='A method: "topk", "jumprelu_transcoder", "topk(k=8)".')],
) -> None:
    """Print BibTeX: the method, its pairing, and the paper that states the one problem."""
    from monosem.base.literature import TANG_2025
    from monosem.methods import recipe_of

    recipe, pairing = recipe_of(method)
    entries = [entry for entry in (recipe.citation, pairing, TANG_2025) if entry is not None]
    typer.echo("\n".join(dict.fromkeys(entry.bibtex for entry in entries)))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(cite)
